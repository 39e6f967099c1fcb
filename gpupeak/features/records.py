"""What runs say of a feature directory: `run.json` and `manifest.jsonl`, and the parts of shards beside them.

    run.json                    manifest.jsonl                      of runs that had the directory for themselves
    run.00003-of-00008.json     manifest.00003-of-00008.jsonl       of a shard, until they are merged into those

Parts are begun after what is in `run.json` has ended: a run that is no shard waits for none, and merges first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import operator
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from sys import intern
from types import MappingProxyType
from typing import Any, NamedTuple

import orjson

from gpupeak.errors import ConfigError, reading
from gpupeak.storage import places
from gpupeak.storage.atomic import replace_file
from gpupeak.storage.files import open_bounded, read_bounded
from gpupeak.types import Failed, FileStamp, NoPeak, Outcome, Peak, Saved

_TAG = r"\d{5}-of-\d{5}"
_NAMES = re.compile(rf"(?:run(?:\.({_TAG}))?\.json|manifest(?:\.({_TAG}))?\.jsonl|\.gpupeak-({_TAG})\.lock)\Z")
LARGEST_MANIFEST, _LONGEST_LINE = 512 << 20, 1 << 20  # bytes
_MOST_VALUES, _OF_A_LINE = 20_000_000, 32  # of all lines of a manifest, and what the least of a line counts for
_MOST_KEYS = 16
_LARGEST_RUN = 16 << 20
_MOST_FRAMES = 1 << 31
_PROVENANCE = ("id", "shard", "command", "started", "device", "versions", "earlier_versions")

FORMAT = 1
"""Of `run.json`: one that says a later number is not read, one without a number is of before there was one."""

WHERE_ASKED = ("face", "min_confidence", "no_blinks", "smooth")
"""Settings that are recorded where they were asked for; all others always are."""

SAVED, KEPT, FAILED = "saved", "kept", "failed"
_RANKS = {SAVED: 2, KEPT: 1}


class ManifestLine(NamedTuple):
    """What the manifest says of one sample.

    `outcome` is `SAVED`, `FAILED`, or `KEPT`: no run tells of it. `indices` to `files` are as in `FramePlan`; `rule`
    has the fields of the `SamplingRule`, and nothing in a line of before they were recorded, as `files` has.
    `crc32` is that of the rows that were saved. `raw` is the line in its file.
    """

    sample: str
    outcome: str = KEPT
    stage: str | None = None
    reason: str | None = None
    indices: tuple[int, ...] = ()
    frames: int | None = None
    codec: str | None = None
    peak: Peak | None = None
    fallback: NoPeak | None = None
    clamp: str | None = None
    recounted: bool = False
    warnings: tuple[str, ...] = ()
    files: tuple[FileStamp, ...] = ()
    rule: Mapping[str, Any] = MappingProxyType({})
    seconds: Mapping[str, float] = MappingProxyType({})
    crc32: int | None = None
    raw: bytes = b""

    @property
    def failure(self) -> str | None:
        """Stage and reason of a failure, in a line."""
        return f"{self.stage}: {self.reason}" if self.outcome == FAILED else None

    @classmethod
    def read(cls, raw: bytes, without: Collection[str] = ()) -> ManifestLine | None:
        """A line of a file, less the values `without`; None if it names no sample, or a value is not of its type."""
        try:
            entry = _parsed(raw)
            told = {
                key: _VALUES[key](value)
                for key, value in entry.items()
                if value is not None and key in _VALUES and key not in without
            }
            return cls(**told, raw=b"" if "raw" in without else raw if raw.endswith(b"\n") else raw + b"\n")
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return None


def line_of(outcome: Outcome) -> bytes:
    """What the manifest is to say of a sample."""
    plan = outcome.plan
    entry: dict[str, Any] = {"sample": outcome.sample.name, "outcome": SAVED}
    if isinstance(outcome, Failed):
        entry |= {"outcome": FAILED, "stage": outcome.stage, "reason": outcome.reason}
    if plan is not None:
        entry |= {"indices": plan.indices, "frames": plan.frames, "codec": plan.codec}
        entry["peak"] = plan.peak and {**dataclasses.asdict(plan.peak), "file": str(plan.peak.file)}
        entry |= {"fallback": plan.fallback and dataclasses.asdict(plan.fallback), "clamp": plan.clamp}
        entry |= {"recounted": True} if plan.recounted else {}
        entry |= {"warnings": plan.warnings} if plan.warnings else {}
    if isinstance(outcome, Saved):
        seconds = {stage: round(value, 6) for stage, value in outcome.seconds.items()}
        rule = dataclasses.asdict(outcome.sample.rule)
        entry |= {"seconds": seconds, "crc32": outcome.crc32, "files": outcome.plan.files, "rule": rule}
    return _line(entry)


def kept_line(name: str) -> bytes:
    return _line({"sample": name, "outcome": KEPT, "origin": "unknown"})


def _line(entry: Mapping[str, Any]) -> bytes:
    # ASCII escapes: a lone surrogate (a file name that is no UTF-8) has no other encoding.
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"


def _parsed(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except ValueError:  # a lone surrogate in a name, which is no UTF-8
        return json.loads(raw)


def _whole(value: Any, most: int = _MOST_FRAMES) -> int:
    if type(value) is not int or not 0 <= value < most:  # no bool
        raise ValueError
    return value


def _peak(value: Any) -> Peak:
    index, *others = map(value.get, ("index", "before", "after", "total", "rows"))
    before, after, total, rows = (None if each is None else _whole(each) for each in others)
    file, face = Path(value.get("file", "")), intern(value.get("face") or "") or None
    return Peak(_whole(index), before, after, total, intern(value["source"]), file, rows, face)


def _stamp(file: str, size: Any, version: Any, crc32: Any) -> FileStamp:
    version = intern(version) if isinstance(version, str) else operator.index(version)
    return FileStamp(intern(file), operator.index(size), version, crc32)


@lru_cache(maxsize=16)
def _rule(*items: tuple[str, Any]) -> Mapping[str, Any]:
    if len(items) > _MOST_KEYS:
        raise ValueError
    return dict(items)  # one for all lines; lists and objects, which have no hash, are refused


def _seconds(values: Any) -> Mapping[str, float]:
    if len(values) > _MOST_KEYS or not all(0 <= value < 1e9 for value in values.values()):
        raise ValueError
    return dict(values)


_VALUES: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("sample", "outcome", "stage", "reason", "codec", "clamp"), intern),  # which refuses all but text
    "indices": lambda values: tuple(map(_whole, values)),
    "frames": _whole,
    "peak": _peak,
    "fallback": lambda value: NoPeak(intern(value["reason"]), intern(value["detail"])),
    "recounted": lambda value: value is True,
    "warnings": lambda values: tuple(map(intern, values)) if type(values) is list else (),
    "files": lambda values: tuple(_stamp(*each) for each in values),
    "rule": lambda values: _rule(*values.items()),
    "seconds": _seconds,
    "crc32": lambda value: _whole(value, 1 << 32),
}


def is_record(name: str) -> bool:
    return _NAMES.match(name) is not None


def lock_name(part: str) -> str:
    return f".gpupeak-{part}.lock"


@dataclass(frozen=True, slots=True)
class Record:
    """What one run, or the shard `part`, says. `run` is None where the manifest stands alone."""

    directory: Path
    part: str | None
    run: dict[str, Any] | None

    @property
    def run_file(self) -> Path:
        return self.directory / ("run.json" if self.part is None else f"run.{self.part}.json")

    @property
    def manifest(self) -> Path:
        return self.directory / ("manifest.jsonl" if self.part is None else f"manifest.{self.part}.jsonl")

    def write_run(self) -> None:
        # A path may hold bytes that are no UTF-8, surrogates here: written as JSON's escapes.
        text = json.dumps(self.run, indent=2, ensure_ascii=False)
        replace_file(self.run_file, [text.encode(errors="backslashreplace"), b"\n"])

    def remove(self) -> None:
        self.run_file.unlink(missing_ok=True)  # first: without it, the manifest is nobody's
        self.manifest.unlink(missing_ok=True)
        (self.directory / lock_name(self.part or "")).unlink(missing_ok=True)

    @property
    def overwriting(self) -> bool:
        return bool(self.run and self.run.get("overwriting"))

    @property
    def settings(self) -> dict[str, Any]:
        settings = (self.run or {}).get("settings")
        return settings if isinstance(settings, dict) else {}

    @property
    def devices(self) -> list[str]:
        run = self.run or {}
        several = run.get("devices")
        names = several if isinstance(several, list) else [run.get("device")]
        return [name for name in names if isinstance(name, str)]

    @property
    def versions(self) -> list[dict[str, Any]]:
        """Those of gpupeak and its packages that made what is here, the last run's first."""
        found: list[Any] = []
        for run in (self.run or {}, *_parts(self.run)):
            earlier = run.get("earlier_versions")
            found += [run.get("versions"), *(earlier if isinstance(earlier, list) else ())]
        return [each for place, each in enumerate(found) if isinstance(each, dict) and each not in found[:place]]


@dataclass(frozen=True, slots=True)
class Records:
    """All records of a directory: `main`, and `parts` not yet merged into it, the oldest first. `leftovers` are of no
    use any more: merged already, or never begun."""

    main: Record
    parts: tuple[Record, ...]
    leftovers: tuple[Record, ...]

    @property
    def current(self) -> tuple[Record, ...]:
        """The records that count, the oldest first: of shards that overwrite if there are any, else all."""
        return tuple(part for part in self.parts if part.overwriting) or (self.main, *self.parts)

    @property
    def overwriting(self) -> bool:
        """An overwrite is unfinished: a file counts only if a line of `current` says that it was saved."""
        return any(record.overwriting for record in self.current)

    @property
    def run(self) -> dict[str, Any] | None:
        """`run.json` as it would be if all that counts were merged; None without any run's record."""
        known = [record for record in self.current if record.run is not None]
        if not self.parts or not known:
            return self.main.run
        newest = known[-1].run or {}
        run = {key: value for key, value in newest.items() if key not in ("id", "shard", "parts")}
        devices = sorted({device for record in known for device in record.devices})
        return {**run, "devices": devices, "overwriting": self.overwriting, "parts": _provenance(known)}

    @property
    def weights(self) -> object:
        """What the newest run says that the features are made with."""
        return self.current[-1].settings.get("weights")

    def part(self, tag: str | None) -> Record | None:
        """A shard's record, None if it has none yet; of no shard, the main one."""
        return self.main if tag is None else next((part for part in self.parts if part.part == tag), None)

    def lines(self, without: Collection[str] = ()) -> Iterator[ManifestLine]:
        """The lines that count, oldest first, less values `without`. Raises RunError if a manifest cannot be read."""
        for record in self.current:
            yield from read_lines(record.manifest, without)

    def saved(self) -> set[str]:
        """The names of the samples that a line which counts calls saved."""
        return {line.sample for line in self.lines() if line.outcome == SAVED}

    def disagreement(self) -> str | None:
        """How two of the records that count contradict each other, in one line; None if all agree."""
        known = [record for record in self.current if record.run is not None]
        for record in known[1:]:
            if told := difference(known[0].settings, record.settings):
                return f"{known[0].run_file.name} says {told[0]}, {record.run_file.name} {told[1]}"
        return None


def read_records(directory: Path, there: Iterable[str] | None = None, *, strict: bool = True) -> Records:
    """Read what runs say of `directory`, of which `there` are the names in it if they are known. Raises RunError, and
    if `strict` ConfigError for a damaged run's record."""
    main = Record(directory, None, _read_run(directory / "run.json", strict))
    with reading(directory):
        matches = filter(None, map(_NAMES.match, places.names(directory) if there is None else there))
    tags = {tag for match in matches for tag in match.groups() if tag}
    found = [Record(directory, tag, _read_run(directory / f"run.{tag}.json", strict)) for tag in sorted(tags)]
    found.sort(key=lambda part: str((part.run or {}).get("started", "")))
    merged = {str(part["id"]) for part in _parts(main.run) if "id" in part}
    parts = tuple(part for part in found if part.run is not None and str(part.run.get("id")) not in merged)
    return Records(main, parts, tuple(part for part in found if part not in parts))


def read_manifest(directory: Path, without: Collection[str] = ()) -> Iterator[ManifestLine]:
    """The lines of `manifest.jsonl` and of parts not yet merged into it, oldest first, less torn ones, `raw` and the
    values `without`, which of many lines take memory. Raises RunError."""
    return read_records(directory, strict=False).lines(("raw", *without))


def read_lines(file: Path, without: Collection[str] = ()) -> Iterator[ManifestLine]:
    """One manifest's lines; none if there is no such file. Raises RunError if it cannot be read, or is too large."""
    values = 0
    with reading(file), contextlib.suppress(FileNotFoundError), open_bounded(file, LARGEST_MANIFEST) as opened:
        for raw in iter(partial(opened.readline, _LONGEST_LINE), b""):
            values += raw.count(b",") + _OF_A_LINE
            if values > _MOST_VALUES:
                raise OSError(f"more than {_MOST_VALUES:,} values")
            if (line := ManifestLine.read(raw, without)) is not None:
                yield line


def merged(lines: Iterable[ManifestLine], names: Sequence[str], whole: Callable[[str], bool]) -> Iterator[bytes]:
    """One line a sample of several, the oldest first: the last one, but of a `whole` file none that knows less than
    "saved". Those of `names` come in their order, then the others by name."""
    best: dict[str, ManifestLine] = {}
    for line in lines:
        before = best.get(line.sample)
        if before is None or _RANKS.get(line.outcome, 0) >= _RANKS.get(before.outcome, 0) or not whole(line.sample):
            best[line.sample] = line
    for name in (*names, *sorted(best.keys() - set(names))):
        if name in best:
            yield best[name].raw


def difference(there: Mapping[str, Any], settings: Mapping[str, Any]) -> tuple[str, str] | None:
    """What both say of the first setting in which they differ, or of which one does not tell; None if there is none."""
    hashed = None not in (there.get("weights_sha256"), settings.get("weights_sha256"))
    for key in {**settings, **there}:
        # The same weights may lie under two paths: the hash decides where both sides know it.
        counts = key != ("weights" if hashed else "weights_sha256")
        if counts and not (key in there and key in settings and there[key] == settings[key]):
            return _setting(there, key), _setting(settings, key)
    return None


def _setting(settings: Mapping[str, Any], key: str) -> str:
    """As an option and its value: `--n-frms 8`."""
    if key == "weights_sha256":
        return f"--weights {settings.get('weights')} (SHA-256 {str(settings[key])[:12]})"
    flag = "--visual-encoder" if key == "encoder" else f"--{key.replace('_', '-')}"
    return f"{flag} {settings.get(key, 'none' if key in WHERE_ASKED else 'unknown')}"


def _provenance(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Who made what: one entry a shard, and for what was merged before, those it had then."""
    found = []
    for record in records:
        run = record.run or {}
        found += _parts(run) or [{key: run[key] for key in _PROVENANCE if key in run}]
    return found


def _parts(run: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    parts = (run or {}).get("parts")
    return [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []


def _read_run(file: Path, strict: bool) -> dict[str, Any] | None:
    try:
        run = json.loads(read_bounded(file, _LARGEST_RUN))
        if isinstance(run, dict):
            written = run.get("format", 0)
            if not strict or (isinstance(written, int) and written <= FORMAT):
                return run
            raise ConfigError(f"{file}: of format {written!r}, this gpupeak reads up to {FORMAT}; install a newer one")
        fault = f"holds a {type(run).__name__}, expected an object"
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        fault = f"cannot be read ({error})"
    if not strict:
        return None
    raise ConfigError(f"{file}: {fault}; move it away to go on without it")
