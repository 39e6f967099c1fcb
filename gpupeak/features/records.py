"""What do runs say of a feature directory? `run.json` and `manifest.jsonl`, and the parts of shards beside them.

    run.json                    manifest.jsonl                      of runs that had the directory for themselves
    run.00003-of-00008.json     manifest.00003-of-00008.jsonl       of a shard, until they are merged into those

Parts are begun after what is in `run.json` has ended: a run that is no shard waits for none, and merges first.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from gpupeak.errors import ConfigError, RunError
from gpupeak.storage.files import at_once

__all__ = [
    "Record",
    "Records",
    "best_lines",
    "difference",
    "in_order",
    "is_record",
    "lock_file",
    "read_lines",
    "read_manifest",
    "read_records",
    "taken",
    "whole_lines",
]

_TAG = r"\d{5}-of-\d{5}"
_NAMES = re.compile(rf"(?:run(?:\.({_TAG}))?\.json|manifest(?:\.({_TAG}))?\.jsonl|\.gpupeak-({_TAG})\.lock)\Z")
_LONGEST_LINE = 16 << 20  # bytes of a manifest's line: a million frames' numbers
_LARGEST_RUN = 16 << 20
_RANKS = {"saved": 2, "kept": 1}
_PROVENANCE = ("id", "shard", "command", "started", "device", "versions")


def is_record(name: str) -> bool:
    """Whether a file of a feature directory is called like one of its records, or the lock of a part."""
    return _NAMES.match(name) is not None


def lock_file(directory: Path, part: str) -> Path:
    """What a shard holds a lock on while it runs."""
    return directory / f".gpupeak-{part}.lock"


def taken(directory: Path, part: str | None = None) -> RunError:
    """What to raise where another run holds the directory, or this shard's lock."""
    if part is not None:
        return RunError(f"{directory}: shard {part} is being run already")
    return RunError(f"{directory}: another gpupeak run is writing here; let it end or choose another --output-root")


@dataclass(frozen=True, slots=True)
class Record:
    """What one run says: its settings and provenance, and a manifest line a sample.

    `part` is the tag of a shard, None of a run that is none. `run` is None where the manifest stands alone.
    """

    directory: Path
    part: str | None
    run: dict[str, Any] | None

    @property
    def run_file(self) -> Path:
        return self.directory / ("run.json" if self.part is None else f"run.{self.part}.json")

    @property
    def manifest(self) -> Path:
        return self.directory / ("manifest.jsonl" if self.part is None else f"manifest.{self.part}.jsonl")

    @property
    def overwriting(self) -> bool:
        return bool(self.run and self.run.get("overwriting"))

    @property
    def settings(self) -> dict[str, Any]:
        settings = (self.run or {}).get("settings")
        return settings if isinstance(settings, dict) else {}

    @property
    def devices(self) -> list[str]:
        """Which devices made the features it tells of."""
        run = self.run or {}
        several = run.get("devices")
        names = several if isinstance(several, list) else [run.get("device")]
        return [name for name in names if isinstance(name, str)]


@dataclass(frozen=True, slots=True)
class Records:
    """All records of a directory: `main`, and `parts` not yet merged into it, the oldest first.

    `leftovers` are records of parts that are of no use any more: merged already, or never begun. `tags` are
    those of all parts that have left anything here.
    """

    main: Record
    parts: tuple[Record, ...] = ()
    leftovers: tuple[Path, ...] = ()
    tags: tuple[str, ...] = ()

    @property
    def current(self) -> tuple[Record, ...]:
        """The records that count, the oldest first.

        Those of shards that overwrite, if there are any: what others say is of features that are being
        replaced. Else all of them.
        """
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

    def part(self, tag: str | None) -> Record | None:
        """A shard's record, None if it has none yet; of no shard, the main one."""
        return self.main if tag is None else next((part for part in self.parts if part.part == tag), None)

    def saved(self) -> set[str]:
        """The names of the samples that a line which counts calls saved."""
        lines = (entry for record in self.current for entry, _ in read_lines(record.manifest))
        return {entry["sample"] for entry in lines if entry.get("outcome") == "saved"}

    def disagreement(self) -> str | None:
        """How two of the records that count contradict each other, in one line; None if all agree."""
        known = [record for record in self.current if record.run is not None]
        for record in known[1:]:
            if (key := difference(known[0].settings, record.settings)) is not None:
                return (
                    f"{known[0].run_file.name} says {key} {known[0].settings[key]!r}, "
                    f"{record.run_file.name} {record.settings[key]!r}"
                )
        return None

    def without_idle(self, files: Set[str], is_held: Callable[[Record], bool] = lambda record: False) -> Records:
        """These, less the runs that have made none of `files`, which are names of samples, and will make none.

        A file that no manifest tells of may be anybody's: its run was killed before the line was written.
        """
        told: set[str] = set()
        busy: list[Record] = []
        for record in (self.main, *self.parts):
            outcomes = {entry["sample"]: str(entry.get("outcome")) for entry, _ in read_lines(record.manifest)}
            told.update(outcomes)
            if set(outcomes.values()) - {"failed"} or is_held(record):
                busy.append(record)
        if files - told:
            return self
        main = self.main if self.main in busy else Record(self.main.directory, None, None)
        return replace(self, main=main, parts=tuple(part for part in self.parts if part in busy))


def read_records(directory: Path, *, strict: bool = True) -> Records:
    """Read what runs say of `directory`.

    Raises:
        ConfigError: a run's record cannot be read. Not `strict`, it counts as not there.
        RunError: the directory cannot be read.
    """
    main = Record(directory, None, _read_run(directory / "run.json", strict))
    files: dict[str, list[Path]] = {}
    absent = contextlib.suppress(FileNotFoundError, NotADirectoryError)
    with _reading(directory), absent, os.scandir(directory) as entries:
        for entry in entries:
            if (match := _NAMES.match(entry.name)) and (tag := next(filter(None, match.groups()), None)):
                files.setdefault(tag, []).append(directory / entry.name)
    merged = {str(part["id"]) for part in _parts(main.run) if "id" in part}
    parts: list[Record] = []
    leftovers: list[Path] = []
    for tag, there in sorted(files.items()):
        record = Record(directory, tag, _read_run(directory / f"run.{tag}.json", strict))
        if record.run is None or str(record.run.get("id")) in merged:
            leftovers += [file for file in (record.run_file, record.manifest) if file in there]
        else:
            parts.append(record)
    parts.sort(key=lambda part: (str((part.run or {}).get("started", "")), part.part or ""))
    return Records(main, tuple(parts), tuple(leftovers), tuple(sorted(files)))


def read_manifest(directory: Path) -> Iterator[dict[str, Any]]:
    """The lines of `manifest.jsonl`, and of parts not yet merged into it, that tell of the files there, oldest first.

    A line torn by a kill is passed over. While shards overwrite, only theirs count (`Records.current`).

    Raises:
        RunError: a manifest, or the directory, cannot be read.
    """
    for record in read_records(directory, strict=False).current:
        for entry, _ in read_lines(record.manifest):
            yield entry


def read_lines(file: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    """A manifest's lines, read and as they stand, each with its line feed; none if there is no such file.

    Raises:
        RunError: it cannot be read.
    """
    with _reading(file), contextlib.suppress(FileNotFoundError), _opened(file) as opened:
        yield from whole_lines(iter(partial(opened.readline, _LONGEST_LINE), b""))


def whole_lines(opened: Iterable[bytes]) -> Iterator[tuple[dict[str, Any], bytes]]:
    """As `read_lines`, of an open file."""
    for line in opened:
        with contextlib.suppress(ValueError, RecursionError):
            entry = json.loads(line)
            if isinstance(entry, dict) and isinstance(entry.get("sample"), str):
                yield entry, line if line.endswith(b"\n") else line + b"\n"


def best_lines(
    manifests: Iterable[Iterable[tuple[dict[str, Any], bytes]]], whole: Callable[[str], bool]
) -> dict[str, bytes]:
    """One line a sample of several manifests, the oldest first: the last one.

    But a line that says that its file was saved is not given up for one that says that it failed, or for one
    that knows less of it, if the file is `whole`.
    """
    best: dict[str, tuple[int, bytes]] = {}
    for manifest in manifests:
        for entry, line in manifest:
            name, rank = entry["sample"], _RANKS.get(str(entry.get("outcome")), 0)
            if name not in best or rank >= best[name][0] or not whole(name):
                best[name] = rank, line
    return {name: line for name, (_, line) in best.items()}


def in_order(lines: Mapping[str, bytes], names: Sequence[str]) -> Iterator[bytes]:
    """The lines of `names` in their order, then the others by name."""
    for name in names:
        if name in lines:
            yield lines[name]
    for name in sorted(lines.keys() - set(names)):
        yield lines[name]


def difference(there: Mapping[str, Any], settings: Mapping[str, Any]) -> str | None:
    """The first of `settings` in which features made with `there` are of another kind; None if they are not.

    Settings that either side does not know (None) are not compared: the hash of weights that are
    yet to be fetched, say.
    """
    hashes = (there.get("weights_sha256"), settings.get("weights_sha256"))
    for key, value in settings.items():
        if key == "weights" and None not in hashes:
            continue  # the same weights may lie under two paths: the hash decides where both sides know it
        if key in there and None not in (there[key], value) and there[key] != value:
            return key
    return None


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


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror or error}") from error


def _opened(file: Path) -> BinaryIO:
    opened = open(file, "rb", opener=at_once)  # noqa: SIM115 - closed by who asked
    if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
        opened.close()
        raise OSError(errno.EINVAL, "not a regular file", str(file))
    return opened


def _read_run(file: Path, strict: bool) -> dict[str, Any] | None:
    try:
        with _opened(file) as opened:
            run = json.loads(opened.read(_LARGEST_RUN))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        if not strict:
            return None
        raise ConfigError(f"{file}: cannot be read ({error}); move it away to go on without it") from error
    if not isinstance(run, dict):
        if not strict:
            return None
        raise ConfigError(f"{file}: holds a {type(run).__name__}, expected an object; move it away to go on")
    return run
