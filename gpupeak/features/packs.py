"""How features are read by those who train on them: as mappings, from `.npy` files or from one packed file.

That is a safetensors file: a tensor "features", float32 `[S, n, D]`, and in its metadata, as JSON: "samples", the S
names in the order of the rows; "files", for each its file's size, mtime and ctime in ns, and the CRC-32 of its row;
"settings", what made them, or null; "directory", its mtime in ns. It is mapped, not read.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from gpupeak.errors import CUT_SHORT, ConfigError, mistaken, writing
from gpupeak.features.directory import FeatureDirectory
from gpupeak.features.layout import encoder_directory, feature_directory
from gpupeak.features.npy import npy_header, read_features
from gpupeak.features.records import difference, read_manifest, read_records
from gpupeak.storage import places
from gpupeak.storage.atomic import replace_file
from gpupeak.storage.files import name_fault, open_bounded
from gpupeak.storage.overlap import overlapped
from gpupeak.tally import Watch, unwatched
from gpupeak.types import Url

if TYPE_CHECKING:
    import torch

_LARGEST_HEADER = 64 << 20  # half a million samples
_TENSOR, _SAMPLES, _FILES, _SETTINGS, _DIRECTORY = "features", "samples", "files", "settings", "directory"
_LOOKED_AT = 64  # of the files of a directory whose time is that of packing


class FeatureStore(Mapping[str, "DatasetFeatures"]):
    """The datasets below a local output root whose features are there: `store["mer2023"]["sample_00001998"]`.

    Holds no file open: it can be sent to worker processes, and any number of readers may use it at once.
    """

    def __init__(
        self,
        root: str | Path,
        encoder: str = "CLIP_VIT_LARGE",
        sampling: str = "emotion_peak",
        n: int = 8,
        stream: str = "frame",
    ) -> None:
        where = places.place(root)
        if isinstance(where, Url):
            raise ConfigError(f"{root}: features are mapped from a local directory: copy them to one first")
        self.root, self.n = where, n
        self._encoder, self._sampling, self._stream = encoder_directory(encoder), sampling, stream

    def directory(self, dataset: str) -> Path:
        return feature_directory(self.root, dataset, self._encoder, self._sampling, self.n, self._stream)

    def __getitem__(self, dataset: str) -> DatasetFeatures:
        directory = self.directory(dataset)
        if not (directory.is_dir() or packed_file(directory).is_file()):
            raise KeyError(f"{dataset}: there is no {directory}")
        return DatasetFeatures(directory, self.n)

    def __iter__(self) -> Iterator[str]:
        yield from (name for name in sorted(places.names(self.root)) if name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def as_torch_dataset(self, dataset: str) -> TorchFeatures:
        """A map-style dataset for torch's `DataLoader`: names and features, float32 `[n, D]`. Raises KeyError."""
        return TorchFeatures(self[dataset])


class TorchFeatures:
    def __init__(self, features: DatasetFeatures) -> None:
        self._features = features

    def __len__(self) -> int:
        return len(self._features)

    def __getitem__(self, index: int) -> tuple[str, torch.Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[str, torch.Tensor]]:
        """A batch, as `DataLoader` asks for it."""
        import torch

        names, features = self._features.names, torch.from_numpy(self._features.batch(indices))
        return list(zip([names[index] for index in indices], features, strict=True))


class DatasetFeatures(Mapping[str, npt.NDArray[np.float32]]):
    """One dataset's features by sample, each float32 `[n, D]` and the caller's own, in the order of their names.

    The packed file is read where there is one, else the `.npy` files. Raises KeyError for no such sample; ValueError if
    a file is torn, or the packed file is not one, or holds others than the `.npy` files that are there: of another size
    or time, and then of another content. Of a directory that is as it was when it was packed, some of them tell.
    """

    def __init__(self, directory: Path, n: int) -> None:
        self.directory, self.n = directory, n

    def __reduce__(self) -> tuple[Callable[..., DatasetFeatures], tuple[object, ...]]:
        return _sent, (self.directory, self.n, *self._opened[:-1])

    @property
    def names(self) -> tuple[str, ...]:
        return self._opened.names

    def __getitem__(self, sample: str) -> npt.NDArray[np.float32]:
        row = self._rows[sample]
        if self._opened.features is None:
            return read_features(f"{self.directory}/{sample}.npy", self.n)
        features: npt.NDArray[np.float32] = self._opened.features[row]
        return features.copy()

    def batch(self, rows: Sequence[int]) -> npt.NDArray[np.float32]:
        """The features of `names[row]` for each of the rows, float32 `[len(rows), n, D]`. Raises as looking up does."""
        if self._opened.features is None:
            return np.stack([self[self.names[row]] for row in rows])
        return np.take(self._opened.features, rows, axis=0)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, sample: object) -> bool:
        return sample in self._rows

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.names)}

    @cached_property
    def _opened(self) -> _Opened:
        file = packed_file(self.directory)
        if not file.is_file():
            return _Opened(tuple(_npy_names(self.directory)))
        stamp = None
        while stamp != (stamp := _stamp(file)):  # again where it was replaced meanwhile
            pack = _read_pack(file, self.n)
            features = _mapped(file, pack.start, (len(pack.names), self.n, pack.dim))
        there = pack.names[:: len(pack.names) // _LOOKED_AT + 1]
        if pack.directory is None or pack.directory != _time(self.directory):
            there = _npy_names(self.directory)
        known = dict(zip(pack.names, pack.files, strict=True))
        if any(name not in known for name in there) or any(overlapped(partial(self._differs, known), there)):
            raise ValueError(f"{file}: {self.directory} holds other or newer features; pack it again")
        return _Opened(tuple(pack.names), stamp, pack.start, pack.dim, features)

    def _differs(self, known: Mapping[str, tuple[int, ...]], name: str) -> bool:
        """Whether a file is not as it was packed. One that was copied or touched is read: its content tells."""
        path, packed = self.directory / f"{name}.npy", known[name]
        return _stamp(path) != packed[:3] and zlib.crc32(read_features(path, self.n).data) != packed[3]


class _Opened(NamedTuple):
    """The names, and of a packed file its `stamp`, and its tensor, which begins at `start`: mapped, read-only."""

    names: tuple[str, ...]
    stamp: tuple[int, ...] | None = None
    start: int = 0
    dim: int = 0
    features: npt.NDArray[np.float32] | None = None


def _sent(
    directory: Path, n: int, names: tuple[str, ...], stamp: tuple[int, ...] | None, start: int, dim: int
) -> DatasetFeatures:
    """What another process had opened: it is not listed again, only mapped; a packed file that is another by now is
    read anew."""
    found, file = DatasetFeatures(directory, n), packed_file(directory)
    with contextlib.suppress(OSError, ValueError):
        features = _mapped(file, start, (len(names), n, dim)) if stamp else None
        if stamp is None or _stamp(file) == stamp:
            found._opened = _Opened(names, stamp, start, dim, features)
    return found


def _mapped(file: Path, start: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """NumPy takes rows, and batches of them, in half the time of the library's view."""
    return np.asarray(np.memmap(file, np.float32, "r", start, shape))


def packed_file(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}.safetensors")


def pack(directory: Path, n: int, watch: Watch = unwatched) -> tuple[Path, int]:
    """Pack the `.npy` files of a feature directory into one file; they stay. Returns the file and its samples. Raises
    ConfigError if one is torn or of another shape, or they are of two kinds; RunError if a run is writing there,
    WriteError."""
    if not (names := _npy_names(directory)):
        raise ConfigError(f"{directory}: no .npy files to pack")
    shape = _load(directory, names[0], n).shape
    sums: dict[str, int] = {}

    def rows(names: Sequence[str]) -> Iterator[bytes]:
        for name, features in zip(names, overlapped(partial(_load, directory, n=n), names), strict=True):
            if features.shape != shape:
                raise ConfigError(f"{directory}/{name}.npy: is {list(features.shape)}, the others {list(shape)}")
            if sums.setdefault(name, zlib.crc32(features.data)) != zlib.crc32(features.data):
                raise ConfigError(f"{directory}/{name}.npy: is not what was saved; gpupeak verify --fix makes it again")
            yield features.tobytes()

    def chunks() -> Iterator[bytes]:
        for _ in rows([name for name in there if name not in sums]):  # before the header, which has their checksums
            pass
        size = 4 * len(there) * n * shape[1]
        about = {"dtype": "F32", "shape": [len(there), *shape], "data_offsets": [0, size]}
        files = [[*there[name], sums[name]] for name in there]
        values = {_SAMPLES: list(there), _FILES: files, _SETTINGS: settings, _DIRECTORY: time}
        metadata = {key: json.dumps(value) for key, value in values.items()}
        header = json.dumps({"__metadata__": metadata, _TENSOR: about}).encode()
        header += b" " * (-len(header) % 8)
        yield struct.pack("<Q", len(header)) + header
        yield from watch(rows(list(there)), len(there), description=directory.parent.name)

    file = packed_file(directory)
    with FeatureDirectory(directory, n, shape[1]), writing(file):  # no run may write meanwhile
        settings, time, there = _settings(directory), _time(directory), _npy_files(directory)
        sums |= {line.sample: line.crc32 for line in read_manifest(directory) if line.crc32 is not None}
        replace_file(file, chunks())
    return file, len(there)


def unpack(directory: Path, n: int, watch: Watch = unwatched) -> tuple[int, int]:
    """Write a packed file's samples as `.npy` files where they are not there yet. Returns how many were, and all.
    Raises as `pack`, and ConfigError if what lies there was made by other settings."""
    file = packed_file(directory)
    try:
        pack = _read_pack(file, n)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{error}; it cannot be unpacked") from error
    header, size = npy_header((n, pack.dim)), 4 * n * pack.dim
    there = set(_npy_names(directory))
    missing = [(row, name) for row, name in enumerate(pack.names) if name not in there]

    def write(which: tuple[int, str]) -> None:
        row, name = which
        data = os.pread(packed_rows.fileno(), size, pack.start + row * size)  # what is mapped would stay in memory
        if zlib.crc32(data) != pack.files[row][3]:
            raise ConfigError(f"{file}: what it holds of {name} is not what was packed")
        replace_file(directory / f"{name}.npy", (header, data))

    with FeatureDirectory(directory, n, pack.dim) as held, writing(directory), file.open("rb") as packed_rows:
        own, packed = _settings(directory), pack.settings
        if own and packed and (kinds := difference(own, packed)):
            told = f"is of features made with {kinds[0]}, the packed ones with {kinds[1]}"
            raise ConfigError(f"{directory}: {told}; unpack them below another output root")
        for _ in watch(overlapped(write, missing), len(missing), description=directory.parent.name):
            pass
        if packed and held.run is None and not there:
            held.begin({"settings": packed}, done=set(pack.names), overwrite=False)
    return len(missing), len(pack.names)


def _settings(directory: Path) -> dict[str, Any] | None:
    """What made the features there, None if no run tells. Raises ConfigError if they are of two kinds."""
    records = read_records(directory)
    told = "an --overwrite was cut short, and extract ends it" if records.overwriting else records.disagreement()
    if told is not None:
        raise ConfigError(f"{directory}: holds features of two kinds: {told}")
    settings = (records.run or {}).get("settings")
    return settings if isinstance(settings, dict) else None


class _Pack(NamedTuple):
    names: list[str]
    dim: int
    start: int  # of its rows in the file
    files: list[tuple[int, int, int, int]]
    settings: dict[str, Any] | None
    directory: object


def _read_pack(file: Path, n: int) -> _Pack:
    """Map a packed file. Raises ValueError if it is not one of `n` frames a sample."""
    try:
        with open_bounded(file, sys.maxsize) as start:
            begins = start.read(100)
        size = int.from_bytes(begins[:8], "little")
        if begins[8:9] != b"{":
            raise ValueError(mistaken(begins) or "is no safetensors file")
        if size > _LARGEST_HEADER:
            raise ValueError(f"a header of {size:,} bytes, expected at most {_LARGEST_HEADER:,}")
        opened: Any = safe_open(file, framework="np")
        if (tensors := list(opened.keys())) != [_TENSOR]:
            raise ValueError(f"{len(tensors)} tensors, expected {_TENSOR}")
        features = opened.get_slice(_TENSOR)
        names, files, settings = (json.loads(opened.metadata()[key]) for key in (_SAMPLES, _FILES, _SETTINGS))
        directory = json.loads(opened.metadata().get(_DIRECTORY, "null"))
        files = [tuple(map(int, file)) for file in files]
        count, rows, dim = features.get_shape()
    except (SafetensorError, ValueError, LookupError, TypeError, RecursionError) as error:
        fault = "is cut short" if CUT_SHORT.search(str(error)) else error
        raise ValueError(f"{file}: not a packed file: {fault}") from error
    named = isinstance(names, list) and all(map(_is_name, names)) and len(set(names)) == count
    told = len(files) == count and all(len(each) == 4 for each in files)
    if not (named and told and isinstance(settings, (dict, type(None)))) or features.get_dtype() != "F32" or rows != n:
        raise ValueError(f"{file}: not a packed file of {n} frames a sample")
    return _Pack(names, dim, 8 + size, files, settings, directory)


def _is_name(name: object) -> bool:
    return isinstance(name, str) and name_fault(name) is None


def _load(directory: Path, name: str, n: int) -> npt.NDArray[np.float32]:
    path = directory / f"{name}.npy"
    try:
        return read_features(path, n)
    except (OSError, ValueError) as error:
        told = f"{path}: {error.strerror or error}" if isinstance(error, OSError) else error
        raise ConfigError(f"{told}; gpupeak verify --fix makes it again") from error


def _npy_names(directory: Path) -> list[str]:
    """The names of the `.npy` files there, sorted."""
    files = sorted(name for name in places.names(directory) if name.endswith(".npy"))
    return [name for name in (file[:-4] for file in files) if _is_name(name)]


def _npy_files(directory: Path) -> dict[str, tuple[int, int, int]]:
    """The same, with the stamp of each."""
    names = _npy_names(directory)
    return dict(zip(names, overlapped(_stamp, [f"{directory}/{name}.npy" for name in names]), strict=True))


def _stamp(file: str | Path) -> tuple[int, int, int]:
    """A file's size, mtime and ctime, in bytes and ns."""
    status = os.lstat(file)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _time(directory: Path) -> int | None:
    """When files of a directory last came, went or were replaced, in ns; None if it is not there."""
    with contextlib.suppress(FileNotFoundError):
        return directory.stat().st_mtime_ns
    return None
