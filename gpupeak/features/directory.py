"""Where features lie on disk: their paths, which of them are whole, who made them, reading them back."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import io
import itertools
import json
import os
import re
import struct
import sys
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gpupeak.errors import ConfigError, GpupeakError, RunError, WriteError
from gpupeak.features.records import (
    Record,
    Records,
    best_lines,
    difference,
    in_order,
    lock_file,
    read_lines,
    read_manifest,
    read_records,
    taken,
    whole_lines,
)
from gpupeak.storage import remote
from gpupeak.storage.files import at_once, open_bounded
from gpupeak.types import Failed, FramePlan, Outcome, Saved

__all__ = [
    "TEMPORARY",
    "FeatureDirectory",
    "NpyHeader",
    "feature_directory",
    "finished",
    "is_whole",
    "load_features",
    "npy_header",
    "read_features",
    "read_header",
    "read_manifest",
    "replace_file",
    "temporary_name",
]

TEMPORARY = re.compile(r"\.gpupeak-(?:(\d+)@([^@/]+)-\d+|.*)\.tmp\Z")
"""What a file being written is called: hidden, so that no `*.npy` pattern picks it up. In it are the writer's process
id and host (`temporary_name`), if it is not from another version or tool."""
_STALE_SECONDS = 86_400.0  # a file is a temporary one for as long as one write takes
_LOCK_TRIES = 5
_LOCK_PAUSE = 0.02  # seconds; whoever looks whether a shard is running holds its lock for an instant
_serial = itertools.count()  # next() on it is atomic under the GIL: every temporary has a name of its own
_LONGEST_HEADER = 1 << 16
_LARGEST_FEATURES = 1 << 30


def feature_directory(root: Path, dataset: str, encoder: str, sampling: str, n: int, stream: str = "frame") -> Path:
    """The directory that AffectGPT builds: `<root>/<dataset>/frame_<encoder>_<sampling>_<n>frms`.

    That of faces is `face_<encoder>_<n>frms`. As there, a root whose last component already is the
    dataset is used as it is.
    """
    home = root if root.name == dataset else root / dataset
    return home / (f"frame_{encoder}_{sampling}_{n}frms" if stream == "frame" else f"face_{encoder}_{n}frms")


def load_features(
    root: str | Path,
    dataset: str,
    sample: str,
    encoder: str = "CLIP_VIT_LARGE",
    sampling: str = "emotion_peak",
    n: int = 8,
    stream: str = "frame",
) -> npt.NDArray[np.float32]:
    """One sample's features, float32 `[n, D]`.

    Args:
        root: the output root, with or without the dataset at its end; a path, or the URL of a store.
        encoder: the encoder's name, or its directory's, as in `frame_<encoder>_...`.
        sampling: which of the frames' features; faces have one sampling only.
        stream: "frame" or "face".

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is torn or holds something else than float32 `[n, D]`.
        OSError: the store cannot be read.
    """
    root = remote.mirror_path(Path(), str(root)) if remote.is_url(root) else Path(root)
    directory = feature_directory(root, dataset, encoder_directory(encoder), sampling, n, stream)
    return read_features(directory / f"{sample}.npy", n)


def encoder_directory(encoder: str) -> str:
    """What stands for an encoder in `frame_<encoder>_...`: it may be given by its name, too."""
    if ":" not in encoder:
        return encoder
    from gpupeak.encoders import encoder_spec

    return encoder_spec(encoder).directory


def read_features(path: Path, n: int) -> npt.NDArray[np.float32]:
    """One `.npy` file's features, float32 `[n, D]`.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
        ValueError: it is torn or holds something else than float32 `[n, D]`.
    """
    where = remote.shown(path)
    if remote.url_of(path) is None or path.exists():  # what was pulled from a store is read where it lies
        data = _local_features(path, n)
    else:
        try:
            data = remote.read(path, _LARGEST_FEATURES)
        except remote.StoreError as error:
            raise (FileNotFoundError if error.missing else OSError)(str(error)) from error
    shape, offset = _checked(data, len(data), n, where)
    return np.frombuffer(bytearray(data), np.float32, offset=offset).reshape(shape)


def _local_features(path: Path, n: int) -> bytes:
    with open_bounded(path, sys.maxsize) as file:
        data = file.read(_LONGEST_HEADER)
        _checked(data, os.fstat(file.fileno()).st_size, n, str(path))  # before a sparse file of a terabyte is read
        return data + file.read()


def _checked(data: bytes, size: int, n: int, where: str) -> tuple[tuple[int, ...], int]:
    """Shape and data offset by the header at the start of `data`, that of a file of `size` bytes."""
    header = _parse_header(data)
    if header is None or len(header[0]) != 2 or header[0][0] != n:
        raise ValueError(f"{where}: expected a float32 array [{n}, D], C order")
    shape, offset = header
    if size != offset + 4 * shape[0] * shape[1]:
        raise ValueError(f"{where}: {size} bytes, expected {offset + 4 * shape[0] * shape[1]} for {list(shape)}")
    return header


def npy_header(shape: tuple[int, int]) -> bytes:
    """What `numpy.save` writes before a float32 C-order array of this shape (format 1.0, 128 bytes)."""
    description = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    padding = -(len(description) + 11) % 64
    text = description + b" " * padding + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def is_whole(path: str | Path, n: int, dim: int, header: bytes | None = None) -> bool:
    """Whether `path` is a complete float32 `[n, dim]` `.npy` file: readable header, right shape and size.

    `header` is `npy_header((n, dim))`, prepared by a caller who asks for many files.
    """
    header = header or npy_header((n, dim))
    try:
        descriptor = at_once(path, os.O_RDONLY | os.O_CLOEXEC)  # a file object costs more than the read
    except OSError:
        return False
    try:
        size = os.fstat(descriptor).st_size
        if size == len(header) + 4 * n * dim and os.read(descriptor, len(header)) == header:
            return True
        os.lseek(descriptor, 0, os.SEEK_SET)
        start = os.read(descriptor, _LONGEST_HEADER)  # another writer's, or none
    except OSError:
        return False
    finally:
        os.close(descriptor)
    parsed = _parse_header(start)
    return parsed is not None and parsed[0] == (n, dim) and size == parsed[1] + 4 * n * dim


class NpyHeader(NamedTuple):
    """What a `.npy` file says of itself; its values begin at `offset`, in bytes."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool
    offset: int


def read_header(data: bytes) -> NpyHeader | None:
    """The header at the start of `data`, as NumPy itself reads it; None if there is none."""
    file = io.BytesIO(data[:_LONGEST_HEADER])
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(file)
    except Exception:  # NumPy promises ValueError, but a corrupted header provokes what its parser likes
        return None
    return NpyHeader(shape, dtype, fortran_order, file.tell())


def _parse_header(data: bytes) -> tuple[tuple[int, ...], int] | None:
    """Shape and data offset of a float32 C-order `.npy` file, None if it is none."""
    header = read_header(data)
    if header is None or header.dtype != np.dtype("<f4") or header.fortran_order:
        return None
    return header.shape, header.offset


def finished(path: Path, wanted: Collection[str], n: int, dim: int) -> set[str]:
    """Which of the names in `wanted` need no work in the feature directory `path`.

    A file counts only if it is whole (`is_whole`), never by existing alone; in a store, whose files appear
    whole or not at all, if it has the size of a whole one, so that one listing tells of all of them. And
    while an overwrite is unfinished (`"overwriting": true` in `run.json`), only if the manifest, emptied
    when the overwriting began, says that it was saved since: a directory never passes for finished while
    features of two settings are mixed in it. Where shards overwrite, that is so for all of the directory from
    the moment the first of them begins until they are merged, and only the manifests of such shards are asked.
    """
    present = _npy_names(path).intersection(wanted)
    if (records := read_records(path)).overwriting:
        present &= records.saved()
    return _whole(path, present, n, dim)


def _whole(path: Path, present: set[str], n: int, dim: int) -> set[str]:
    """Which of these files are whole."""
    header = npy_header((n, dim))
    if remote.url_of(path) is not None:
        sizes = {name: entry.size for name, entry in (remote.listing(path) or {}).items()}
        return {name for name in present if sizes.get(f"{name}.npy") == len(header) + 4 * n * dim}
    return {name for name in present if is_whole(f"{path}/{name}.npy", n, dim, header)}


class FeatureDirectory:
    """One directory of features: what is done in it, `run.json`, `manifest.jsonl`.

    Making one reads the provenance of what is there and changes nothing. Entering it (`with`) makes
    the directory, takes an advisory lock that ends with the process at the latest, and removes the
    temporaries of runs that were killed; `absorb`, `begin`, `record` and `finish` belong inside.

    Shards run in one directory at the same time: each holds a shared lock on the directory and an
    exclusive one of its own, has records of its own (`records`), and removes no temporary that may be another's.
    What has no shard has the directory for itself, and `absorb` makes their records its own.

    With --overwrite, a shard begins by publishing its settings; from then on nothing that others have
    made with other settings counts as finished, and no shard of other settings may begin. Shards that
    run later, or again, join in with the option or without it, until all are merged.

    Where the file system has no locks, two runs in one directory do the same work less often than not
    (`guarded`), and what both have recorded is joined when they end.

    Args:
        path: the directory.
        n, dim: the shape of its features.
        part: the tag of a shard.

    Raises:
        WriteError: on entering, the directory cannot be made or written.
        RunError: on entering, another run is writing into it, or the same shard.
    """

    def __init__(self, path: Path, n: int, dim: int, part: str | None = None) -> None:
        self.path, self._n, self._dim, self._part = path, n, dim, part
        self._lock: int | None = None
        self._part_lock: int | None = None
        self._manifest: int | None = None
        self._begun: Record | None = None
        self._made: list[Path] = []
        records = read_records(path)
        self.run = records.run
        own = Record(path, None, self.run) if part is None else records.part(part)
        self.devices = () if own is None else tuple(own.devices)
        """Those of the runs, or of this shard's, whose files are here already."""

    @property
    def guarded(self) -> bool:
        """Whether a lock keeps others out."""
        return self._lock is not None

    @property
    def overwriting(self) -> bool:
        """Whether an overwrite is unfinished, so that not all that is here counts."""
        return bool(self.run and self.run.get("overwriting"))

    def __enter__(self) -> FeatureDirectory:
        try:
            self._take()
            alone = self._part is None and self._lock is not None
            for entry in os.scandir(self.path):
                match = TEMPORARY.match(entry.name)
                if match and (alone or _is_stale(entry, match)):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(entry.path)  # noqa: PTH108 - entry.path is a string
        except OSError as error:
            self.__exit__(type(error), error, None)
            raise WriteError(f"{self.path}: cannot be used as an output directory: {error.strerror}") from error
        except RunError as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_manifest()
        if self._part is not None and self._part_lock is not None:
            with contextlib.suppress(OSError):  # it stays, and means nothing unless it is held
                lock_file(self.path, self._part).unlink()
            os.close(self._part_lock)
        with contextlib.suppress(OSError):  # a run that was refused leaves no empty directories
            if self._part is not None and self._made and self._lock is not None:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unless another shard is there by now
            for place in self._made:
                place.rmdir()
        if self._lock is not None:
            os.close(self._lock)
        self._part_lock = self._lock = None
        self._made = []

    def done(self, wanted: Collection[str]) -> set[str]:
        """Which of `wanted` need no work, as `finished` says."""
        return finished(self.path, wanted, self._n, self._dim)

    def has(self, name: str) -> bool:
        """Whether the file of this sample is there, whole."""
        return bool(_whole(self.path, {name}, self._n, self._dim))

    def refuse_mixing(self, settings: Mapping[str, Any], *, overwrite: bool = False) -> None:
        """Raise ConfigError if features of other settings lie here already, or are being made.

        Settings that either side does not know (None) are not compared: the hash of weights that are
        yet to be fetched, say. With `overwrite` only those count that shards are making, or have made, in
        overwriting, too; without a shard, none.
        """
        records = read_records(self.path)
        others = [part for part in records.parts if part.part != self._part]
        wrong: list[Record] = []
        if self._part is not None:  # what a shard at work has not saved yet, it will
            wrong += filter(_is_held, others)
            wrong += [part for part in others if part.overwriting and overwrite]
        if not overwrite and (files := _npy_names(self.path)):  # with no file, there is nothing to be mixed
            if records.disagreement() is not None:
                records = records.without_idle(files, _is_held)
            if (told := records.disagreement()) is not None:
                raise ConfigError(f"{self.path}: holds features of two kinds: {told}; {_WAY_OUT}")
            wrong += records.current
        for record in wrong:
            if (key := difference(record.settings, settings)) is not None:
                raise ConfigError(
                    f"{self.path}: holds features made with {key} {record.settings[key]!r}, "
                    f"this run has {settings[key]!r}; {_SHARDS_WAY_OUT if overwrite else _WAY_OUT}"
                )

    def absorb(self, names: Sequence[str] = (), *, overwrite: bool = False) -> int:
        """Make the records of all shards one `run.json` and one manifest; return how many there were.

        Lines come in the order of `names`, others behind them by name; one a sample, a saved one before a
        failed one if the file is whole. Each file is replaced whole, and the parts are removed last, by which
        time `run.json` names them: a kill at any moment loses nothing, and the next call goes on from there.

        Args:
            overwrite: all will be made again, so that records which contradict each other may go.

        Raises:
            ConfigError: the records tell of features of two kinds.
            RunError: a shard is still running.
            WriteError: a record cannot be written.
        """
        records = read_records(self.path)
        if not records.tags:
            return 0
        files = _npy_names(self.path)
        useful = records if records.disagreement() is None else records.without_idle(files)
        told = useful.disagreement()
        if told is not None and not overwrite:
            raise ConfigError(f"{self.path}: holds features of two kinds: {told}; {_WAY_OUT}")
        with contextlib.ExitStack() as held, _writing(self.path):
            for tag in records.tags:
                held.enter_context(_not_running(self.path, tag))
            for file in records.leftovers:
                file.unlink(missing_ok=True)
            for part in records.parts:
                if part not in useful.current:  # of before an overwrite, or of nothing
                    _remove(part)
            if any(part in useful.current for part in records.parts):
                self._write_merged(useful, files, names, nothing_counts=told is not None)
            for part in useful.parts:
                _remove(part)
        return len(records.parts)

    def _write_merged(self, records: Records, files: set[str], names: Sequence[str], *, nothing_counts: bool) -> None:
        run, lines = dict(records.run or {}), dict[str, bytes]()
        if nothing_counts:
            run["overwriting"] = True
        else:
            lines = best_lines((read_lines(record.manifest) for record in records.current), self.has)
            run["overwriting"] = records.overwriting and bool(files - records.saved())
        replace_file(records.main.manifest, in_order(lines, names))
        replace_file(records.main.run_file, [_pretty(run)])
        self.run = run

    def begin(self, run: Mapping[str, Any], *, done: set[str], overwrite: bool) -> None:
        """Write `run.json` and bring the manifest in step with the files: one line for each of `done`.

        Lines of samples that are about to be worked on again are dropped; their outcome writes them anew.
        A shard's manifest has lines only of samples that no other manifest tells of.

        Raises:
            ConfigError: a shard of other settings has begun at the same moment.
            WriteError: a record cannot be written.
        """
        records = read_records(self.path)
        before = records.part(self._part)
        lines: dict[str, bytes] = {}
        elsewhere: set[str] = set()
        if before is not None and before in records.current and not overwrite:
            lines = {entry["sample"]: line for entry, line in read_lines(before.manifest) if entry["sample"] in done}
        if done - lines.keys() and self._part is not None and not overwrite:
            elsewhere = {entry["sample"] for entry in read_manifest(self.path)}
        unknown = "unknown" if self.run is None else "unrecorded"
        for name in sorted(done - lines.keys() - elsewhere):
            # A file with no line: made by another tool, or its run was killed between file and line.
            lines[name] = _line({"sample": name, "outcome": "kept", "origin": unknown})
        if self._part is None:
            own = {**run, "overwriting": overwrite or records.overwriting}
        else:
            joined = overwrite or any(part.overwriting for part in records.parts)
            own = {**run, "overwriting": joined, "shard": self._part, "id": uuid.uuid4().hex}
        with _writing(self.path):
            self._begun = Record(self.path, self._part, own)
            undo = [(file, _content(file)) for file in (self._begun.manifest, self._begun.run_file)]
            replace_file(self._begun.manifest, lines.values())
            replace_file(self._begun.run_file, [_pretty(own)])
            self._manifest = os.open(self._begun.manifest, os.O_RDWR | os.O_APPEND)
        if self._part is None:
            self.run = own
            return
        try:  # again, now that whoever begins at the same moment can see this shard
            self.refuse_mixing(own.get("settings") or {}, overwrite=overwrite)
        except ConfigError:
            self._close_manifest()
            with _writing(self.path):
                for file, content in undo:
                    if content is None:
                        file.unlink()
                    else:
                        replace_file(file, [content])
            raise

    def record(self, outcome: Outcome) -> None:
        """Append one sample's line to the manifest, in one write."""
        if self._manifest is None:
            raise GpupeakError(f"{self.path}: record before begin")
        try:
            line = _line(manifest_entry(outcome))
            if os.write(self._manifest, line) != len(line):  # a disk that fills up takes a part and says nothing
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise WriteError(f"{self.path}/manifest.jsonl: cannot be written: {error.strerror}") from error

    def finish(self, names: Sequence[str] = ()) -> int:
        """Put the manifest in the order of `names`, and end an overwrite if every file here was saved since it began.

        Returns how many files were not. Whether shards have overwritten all of them is seen when they are merged.

        Raises:
            ConfigError: where there are no locks, a run of other settings has begun here meanwhile.
            WriteError: a record cannot be written.
        """
        if self._begun is not None and self._manifest is not None:
            with _writing(self.path):
                lines = best_lines(self._manifests(self._begun.manifest, self._manifest), self.has)
                replace_file(self._begun.manifest, in_order(lines, names))
                self._close_manifest()
                if not self.guarded:
                    self._republish(self._begun)
        if self._part is not None or not self.overwriting:
            return 0
        left = len(_npy_names(self.path) - read_records(self.path).saved())
        if not left:
            self.run = {**(self.run or {}), "overwriting": False}
            with _writing(self.path):
                replace_file(self.path / "run.json", [_pretty(self.run)])
        return left

    def _manifests(self, file: Path, opened: int) -> Iterator[Iterable[tuple[dict[str, Any], bytes]]]:
        """What this run has recorded, behind what another has if that has put its own manifest in the place."""
        yield read_lines(file)
        if not self.guarded and not (file.exists() and os.path.samestat(file.stat(), os.fstat(opened))):
            with os.fdopen(os.dup(opened), "rb") as ours:
                ours.seek(0)
                yield whole_lines(ours)

    def _republish(self, begun: Record) -> None:
        """Without locks, another run may have taken this one's record for one of the dead, or written its own."""
        if begun.run is None:
            return
        if self._part is not None and self._part not in {part.part for part in read_records(self.path).parts}:
            replace_file(begun.run_file, [_pretty({**begun.run, "id": uuid.uuid4().hex})])
        self.refuse_mixing(begun.run.get("settings") or {})

    def _take(self) -> None:
        """Make the directory and lock it, and a shard's own lock."""
        for attempt in range(_LOCK_TRIES):
            self._made = [place for place in (self.path, *self.path.parents) if not place.exists()]
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                self._lock = _lock(self.path, fcntl.LOCK_EX if self._part is None else fcntl.LOCK_SH)
                break
            except BlockingIOError as error:
                raise taken(self.path) from error
            except FileNotFoundError:  # a run that was refused has just removed what it had made
                if attempt == _LOCK_TRIES - 1:
                    raise
        if self._part is None:
            return
        for attempt in range(_LOCK_TRIES):
            try:
                self._part_lock = _lock(lock_file(self.path, self._part), fcntl.LOCK_EX, os.O_RDWR | os.O_CREAT)
                break
            except BlockingIOError as error:
                if attempt == _LOCK_TRIES - 1:
                    raise taken(self.path, self._part) from error
                time.sleep(_LOCK_PAUSE)

    def _close_manifest(self) -> None:
        if self._manifest is not None:
            os.close(self._manifest)
            self._manifest = None


_WAY_OUT = "give --overwrite to make them all again, or another --output-root"
_SHARDS_WAY_OUT = (
    "let those shards end and run extract once as they did, without --num-shards, or give another --output-root"
)


def manifest_entry(outcome: Outcome) -> dict[str, Any]:
    """One sample's line in `manifest.jsonl`, as a JSON object; seconds are per stage."""
    entry: dict[str, Any] = {
        "sample": outcome.sample.name,
        "outcome": "failed" if isinstance(outcome, Failed) else "saved",
    }
    if isinstance(outcome, Failed):
        entry |= {"stage": outcome.stage, "reason": outcome.reason}
    if outcome.plan is not None:
        entry |= _plan_entry(outcome.plan)
    if isinstance(outcome, Saved):
        entry["seconds"] = {stage: round(value, 6) for stage, value in outcome.seconds.items()}
    return entry


def _plan_entry(plan: FramePlan) -> dict[str, Any]:
    peak, fallback = plan.peak, plan.fallback
    return {
        "indices": list(plan.indices),
        "frames": plan.frames,
        "codec": plan.codec,
        "peak": None if peak is None else {**dataclasses.asdict(peak), "file": str(peak.file)},
        "fallback": None if fallback is None else dataclasses.asdict(fallback),
        "clamp": plan.clamp,
    }


def _line(entry: Mapping[str, Any]) -> bytes:
    # ASCII escapes: a lone surrogate (a file name that is no UTF-8) has no other encoding.
    return remote.shown(json.dumps(entry, separators=(",", ":"))).encode() + b"\n"


def replace_file(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a whole file under a temporary name, then rename: readers see the old or the new, never a part."""
    if not path.name:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary = path.with_name(temporary_name())
    try:
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:  # never through a link that somebody has put there
            file.writelines(chunks)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def temporary_name() -> str:
    """A name for a file being written that no other writer has, on no host; `TEMPORARY` matches it."""
    return f".gpupeak-{os.getpid()}@{_host()}-{next(_serial)}.tmp"


@lru_cache(maxsize=1)
def _host() -> str:
    """What names process ids: the host, and on Linux the namespace, for containers that share a host's name."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", os.uname().nodename)[:64]
    with contextlib.suppress(OSError):
        return f"{name}.{Path('/proc/self/ns/pid').stat().st_ino}"
    return name


def _is_stale(entry: os.DirEntry[str], match: re.Match[str]) -> bool:
    """Whether a temporary cannot be that of a writer at work; of another host's, its age tells."""
    if match[2] == _host():
        try:
            os.kill(int(match[1]), 0)
        except (ProcessLookupError, OverflowError):
            return True
        except OSError:  # somebody else's process
            return False
        return False
    try:
        return time.time() - entry.stat().st_mtime > _STALE_SECONDS
    except OSError:
        return False


def _lock(path: Path, how: int, flags: int = os.O_RDONLY) -> int | None:
    """Lock a file, or a directory itself: a killed process lets go by dying.

    A file system without such locks gives None: the lock guards against an accident, nothing else rests on it.

    Raises:
        BlockingIOError: another holds it.
        OSError: the file cannot be opened.
    """
    while True:
        descriptor = os.open(path, flags, 0o666)
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise
        except OSError:
            os.close(descriptor)
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)  # whoever held it has removed it since it was opened


def _is_held(record: Record) -> bool:
    """Whether a shard is running."""
    try:
        descriptor = None if record.part is None else _lock(lock_file(record.directory, record.part), fcntl.LOCK_SH)
    except BlockingIOError:
        return True
    except OSError:
        return False
    if descriptor is not None:
        os.close(descriptor)
    return False


@contextlib.contextmanager
def _not_running(path: Path, part: str) -> Iterator[None]:
    """Hold the lock of a shard that has ended, and remove it."""
    file = lock_file(path, part)
    try:
        descriptor = _lock(file, fcntl.LOCK_EX, os.O_RDWR)
    except BlockingIOError as error:
        raise RunError(f"{path}: shard {part} is still running; let it end first") from error
    except FileNotFoundError:
        descriptor = None
    try:
        yield
        file.unlink(missing_ok=True)
    finally:
        if descriptor is not None:
            os.close(descriptor)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WriteError(f"{path}: cannot be written: {error.strerror or error}") from error


def _remove(part: Record) -> None:
    part.run_file.unlink(missing_ok=True)  # first: without it, the manifest is nobody's
    part.manifest.unlink(missing_ok=True)


def _content(file: Path) -> bytes | None:
    with contextlib.suppress(FileNotFoundError), open_bounded(file, sys.maxsize) as opened:
        return opened.read()
    return None


def _pretty(run: Mapping[str, Any]) -> bytes:
    # A path may hold bytes that are no UTF-8, surrogates here: written as JSON's escapes.
    return json.dumps(run, indent=2, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"


def _npy_names(path: Path) -> set[str]:
    return {name[:-4] for name in remote.names(path) if name.endswith(".npy")}
