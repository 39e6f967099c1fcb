"""Where features lie on disk: their paths, which of them are whole, who made them, reading them back."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import io
import json
import os
import re
import struct
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gpupeak.errors import ConfigError, GpupeakError, RunError, WriteError
from gpupeak.files import open_bounded
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
]

TEMPORARY = re.compile(r"\.gpupeak-.*\.tmp\Z")
"""What a file being written is called: hidden, so that no `*.npy` pattern picks it up."""
_LONGEST_HEADER = 1 << 16


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
        root: the output root, with or without the dataset at its end.
        encoder: the encoder's name, or its directory's, as in `frame_<encoder>_...`.
        sampling: which of the frames' features; faces have one sampling only.
        stream: "frame" or "face".

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is torn or holds something else than float32 `[n, D]`.
    """
    directory = feature_directory(Path(root), dataset, encoder_directory(encoder), sampling, n, stream)
    return read_features(directory / f"{sample}.npy", n)


def encoder_directory(encoder: str) -> str:
    """What stands for an encoder in `frame_<encoder>_...`: it may be given by its name, too."""
    if ":" not in encoder:
        return encoder
    from gpupeak.encode.spec import encoder_spec

    return encoder_spec(encoder).directory


def read_features(path: Path, n: int) -> npt.NDArray[np.float32]:
    """One `.npy` file's features, float32 `[n, D]`.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
        ValueError: it is torn or holds something else than float32 `[n, D]`.
    """
    with open_bounded(path, sys.maxsize) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(_LONGEST_HEADER)
        header = _parse_header(data)
        if header is None or len(header[0]) != 2 or header[0][0] != n:
            raise ValueError(f"{path}: expected a float32 array [{n}, D], C order")
        shape, offset = header
        if size != offset + 4 * shape[0] * shape[1]:
            raise ValueError(f"{path}: {size} bytes, expected {offset + 4 * shape[0] * shape[1]} for {list(shape)}")
        data += file.read()
    return np.frombuffer(bytearray(data), np.float32, offset=offset).reshape(shape)


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
        descriptor = _at_once(path, os.O_RDONLY | os.O_CLOEXEC)  # a file object costs more than the read
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


def _at_once(path: str | Path, flags: int) -> int:
    """Open a file, and a pipe without waiting for somebody to write to it."""
    return os.open(path, flags | os.O_NONBLOCK)


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


def read_manifest(directory: Path) -> Iterator[dict[str, Any]]:
    """The lines of `manifest.jsonl`, oldest first; a line torn by a kill, or of another form, is passed over."""
    with contextlib.suppress(FileNotFoundError), open(directory / "manifest.jsonl", "rb", opener=_at_once) as file:
        for line in file:
            with contextlib.suppress(ValueError, RecursionError):
                entry = json.loads(line)
                if isinstance(entry, dict) and isinstance(entry.get("sample"), str):
                    yield entry


def finished(path: Path, wanted: Collection[str], n: int, dim: int) -> set[str]:
    """Which of the names in `wanted` need no work in the feature directory `path`.

    A file counts only if it is whole (`is_whole`), never by existing alone. And while an overwrite is
    unfinished (`"overwriting": true` in `run.json`), only if the manifest, emptied when the overwriting
    began, says that it was saved since: a directory never passes for finished while features of two
    settings are mixed in it.
    """
    present = _npy_names(path).intersection(wanted)
    if (_read_run(path) or {}).get("overwriting"):
        present &= _saved_names(path)
    header = npy_header((n, dim))
    return {name for name in present if is_whole(f"{path}/{name}.npy", n, dim, header)}


class FeatureDirectory:
    """One directory of features: what is done in it, `run.json`, `manifest.jsonl`.

    Making one reads the provenance of what is there and changes nothing. Entering it (`with`) makes
    the directory, takes an advisory lock that ends with the process at the latest, and removes the
    temporaries of runs that were killed; `begin`, `record` and `finish` belong inside.

    Raises:
        WriteError: on entering, the directory cannot be made or written.
        RunError: on entering, another run is writing into it.
    """

    def __init__(self, path: Path, n: int, dim: int) -> None:
        self.path, self._n, self._dim = path, n, dim
        self._lock: int | None = None
        self._manifest: int | None = None
        self._made: list[Path] = []
        self.run = _read_run(path)

    def __enter__(self) -> FeatureDirectory:
        try:
            self._made = [place for place in (self.path, *self.path.parents) if not place.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self.path)
            for entry in os.scandir(self.path):
                if TEMPORARY.match(entry.name):
                    os.unlink(entry.path)  # noqa: PTH108 - entry.path is a string
        except OSError as error:
            raise WriteError(f"{self.path}: cannot be used as an output directory: {error.strerror}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for descriptor in (self._manifest, self._lock):
            if descriptor is not None:
                os.close(descriptor)
        self._manifest = self._lock = None
        with contextlib.suppress(OSError):  # a run that was refused leaves no empty directories
            for place in self._made:
                place.rmdir()

    def done(self, wanted: Collection[str]) -> set[str]:
        """Which of `wanted` need no work, as `finished` says."""
        return finished(self.path, wanted, self._n, self._dim)

    def refuse_mixing(self, settings: Mapping[str, Any]) -> None:
        """Raise ConfigError if features of other settings lie here already.

        Settings that either side does not know (None) are not compared: the hash of weights that are
        yet to be fetched, say.
        """
        if self.run is None or not _npy_names(self.path):
            return  # a run that saved nothing has nothing that could be mixed
        there = self.run.get("settings")
        there = there if isinstance(there, dict) else {}
        hashes = (there.get("weights_sha256"), settings.get("weights_sha256"))
        for key, value in settings.items():
            if key == "weights" and None not in hashes:
                continue  # the same weights may lie under two paths: the hash decides where both sides know it
            if key in there and None not in (there[key], value) and there[key] != value:
                raise ConfigError(
                    f"{self.path}: holds features made with {key} {there[key]!r}, this run has {value!r}; "
                    "give --overwrite to make them all again, or another --output-root"
                )

    def begin(self, run: Mapping[str, Any], *, done: set[str], overwrite: bool) -> None:
        """Write `run.json` and bring the manifest in step with the files: one line for each of `done`.

        Lines of samples that are about to be worked on again are dropped; their outcome writes them anew.
        """
        overwriting = overwrite or bool(self.run and self.run.get("overwriting"))
        unknown = "unknown" if self.run is None else "unrecorded"
        lines = {}
        if not overwrite:
            try:
                lines = {entry["sample"]: entry for entry in read_manifest(self.path) if entry["sample"] in done}
            except OSError as error:
                raise WriteError(f"{self.path}/manifest.jsonl: cannot be read: {error.strerror}") from error
        for name in sorted(done - lines.keys()):
            # A file with no line: made by another tool, or its run was killed between file and line.
            lines[name] = {"sample": name, "outcome": "kept", "origin": unknown}
        try:
            replace_file(self.path / "manifest.jsonl", (_line(entry) for entry in lines.values()))
            self.run = {**run, "overwriting": overwriting}
            replace_file(self.path / "run.json", [json.dumps(self.run, indent=2, ensure_ascii=False).encode() + b"\n"])
            self._manifest = os.open(self.path / "manifest.jsonl", os.O_WRONLY | os.O_APPEND)
        except OSError as error:
            raise WriteError(f"{self.path}: cannot be written: {error.strerror}") from error

    def record(self, outcome: Outcome) -> None:
        """Append one sample's line to the manifest, in one write."""
        if self._manifest is None:
            raise GpupeakError(f"{self.path}: record before begin")
        try:
            os.write(self._manifest, _line(manifest_entry(outcome)))
        except OSError as error:
            raise WriteError(f"{self.path}/manifest.jsonl: cannot be written: {error.strerror}") from error

    def finish(self) -> int:
        """End an overwrite if every file here was saved since it began; return how many were not."""
        if self.run is None or not self.run.get("overwriting"):
            return 0
        left = len(_npy_names(self.path) - _saved_names(self.path))
        if not left:
            self.run = {**self.run, "overwriting": False}
            try:
                replace_file(
                    self.path / "run.json", [json.dumps(self.run, indent=2, ensure_ascii=False).encode() + b"\n"]
                )
            except OSError as error:
                raise WriteError(f"{self.path}/run.json: cannot be written: {error.strerror}") from error
        return left


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
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"


def replace_file(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a whole file under a temporary name, then rename: readers see the old or the new, never a part."""
    if not path.name:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary = path.with_name(f".gpupeak-{os.getpid()}-{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.writelines(chunks)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _lock(path: Path) -> int | None:
    """Lock the directory itself: no lock file is left behind, and a killed process lets go by dying.

    A file system without such locks gives None: the lock guards against an accident, nothing else rests on it.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise RunError(
            f"{path}: another gpupeak run is writing here; let it end or choose another --output-root"
        ) from error
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _npy_names(path: Path) -> set[str]:
    try:
        return {entry.name[:-4] for entry in os.scandir(path) if entry.name.endswith(".npy")}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def _saved_names(path: Path) -> set[str]:
    return {entry["sample"] for entry in read_manifest(path) if entry.get("outcome") == "saved"}


def _read_run(path: Path) -> dict[str, Any] | None:
    try:
        with open(path / "run.json", "rb", opener=_at_once) as file:
            run = json.load(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}/run.json: cannot be read ({error}); move it away to go on without it") from error
    if not isinstance(run, dict):
        raise ConfigError(f"{path}/run.json: holds a {type(run).__name__}, expected an object; move it away to go on")
    return run
