"""The one form that features have on disk: a float32 C-order `.npy` file `[n, D]`, and whether a file is one."""

from __future__ import annotations

import io
import math
import os
import re
import struct
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gpupeak.features.layout import encoder_directory, feature_directory
from gpupeak.storage import places
from gpupeak.storage.files import open_descriptor
from gpupeak.types import Place, Url

LONGEST_HEADER = 1 << 16
_OWN_HEADER = re.compile(
    rb".{10}\{'descr': '<f4', 'fortran_order': False, 'shape': \((\d{1,9}), (\d{1,9})\)", re.DOTALL
)
_LARGEST_FEATURES = 256 << 20  # bytes of one sample's
_LARGEST_VALUE = 65504.0  # float16's, in which towers run: beyond it is a flipped bit, and it would drown a mean


def load_features(
    root: str | Path,
    dataset: str,
    sample: str,
    encoder: str = "CLIP_VIT_LARGE",
    sampling: str = "emotion_peak",
    n: int = 8,
    stream: str = "frame",
) -> npt.NDArray[np.float32]:
    """One sample's features, float32 `[n, D]`. Raises as `read_features`.

    `root` is the output root, a path or URL, with or without the dataset at its end; `encoder` a name or what stands
    for one in `frame_<encoder>_...`; `stream` "frame" or "face".
    """
    directory = _directory(root, dataset, encoder, sampling, n, stream)
    return read_features(directory / f"{sample}.npy" if isinstance(directory, Url) else f"{directory}/{sample}.npy", n)


@lru_cache(maxsize=64)
def _directory(root: str | Path, dataset: str, encoder: str, *more: Any) -> Place:
    return feature_directory(places.place(root), dataset, encoder_directory(encoder), *more)


def read_features(path: Place | str, n: int) -> npt.NDArray[np.float32]:
    """One `.npy` file's features, float32 `[n, D]`. Raises OSError, and ValueError if it is torn or of another kind."""
    try:
        return _read(path, n)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _read(path: Place | str, n: int, dim: int | None = None) -> npt.NDArray[np.float32]:
    if isinstance(path, Url):
        data = places.read(path, _LARGEST_FEATURES)
        header = _fitting(data, len(data), n, dim)
    else:
        descriptor, size = open_descriptor(path)  # a file object costs more than the read
        try:
            data = os.read(descriptor, LONGEST_HEADER)
            header = _fitting(data, size, n, dim)  # before a sparse terabyte is read
            while len(data) < size and (more := os.read(descriptor, size - len(data))):
                data += more
        finally:
            os.close(descriptor)
    return np.frombuffer(bytearray(data), np.float32, offset=header.offset).reshape(header.shape)


def read_checked(path: Path | str, n: int, dim: int) -> npt.NDArray[np.float32] | str:
    """The features in a file, float32 `[n, dim]`; or what is wrong with it, in a line."""
    try:
        features = _read(path, n, dim)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    except ValueError as error:
        return str(error)
    least, largest = float(features.min()), float(features.max())  # NaN where there is one
    if not math.isfinite(largest - least):
        return f"{int((~np.isfinite(features)).sum())} of {features.size} values are not finite"
    if (farthest := max(-least, largest)) > _LARGEST_VALUE:
        return f"a value of {farthest:.3g}, expected at most {_LARGEST_VALUE:g}"
    if features.size > 1 and least == largest:
        return f"every value is {least:g}"
    return features


@lru_cache(maxsize=16)
def npy_header(shape: tuple[int, int]) -> bytes:
    """What `numpy.save` writes before a float32 C-order array of this shape (format 1.0, 128 bytes)."""
    description = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    padding = -(len(description) + 11) % 64
    text = description + b" " * padding + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def is_whole(path: str | Path, n: int, dim: int) -> bool:
    """Whether `path` is a complete float32 `[n, dim]` `.npy` file: readable header, right shape and size."""
    header = npy_header((n, dim))
    try:
        descriptor, size = open_descriptor(path)
        try:
            start = os.read(descriptor, len(header))
            if start == header:
                return size == len(header) + 4 * n * dim
            start += os.read(descriptor, LONGEST_HEADER)  # another writer's, or none
        finally:
            os.close(descriptor)
        return _fitting(start, size, n, dim) is not None
    except (OSError, ValueError):
        return False


class NpyHeader(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool
    offset: int


def read_header(data: bytes) -> NpyHeader | None:
    """The header at the start of `data`, as NumPy itself reads it; None if there is none."""
    if own := _OWN_HEADER.match(data):
        rows, dim = int(own[1]), int(own[2])
        if data.startswith(header := npy_header((rows, dim))):  # NumPy's parser takes longer than all else
            return NpyHeader((rows, dim), np.dtype("<f4"), False, len(header))
    file = io.BytesIO(data[:LONGEST_HEADER])
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(file)
    except Exception:  # NumPy promises ValueError, but a corrupted header provokes what its parser likes
        return None
    return NpyHeader(shape, dtype, fortran_order, file.tell())


def _fitting(start: bytes, size: int, n: int, dim: int | None = None) -> NpyHeader:
    """The header of a file of `size` bytes. Raises ValueError if it is not that of float32 `[n, dim]`."""
    header, wanted = read_header(start), f"expected float32 [{n}, {dim or 'D'}]"
    if header is None:
        raise ValueError(f"no .npy file ({size} bytes), {wanted}")
    shape = header.shape
    fits = len(shape) == 2 and shape[0] == n and dim in (None, shape[1])
    if not fits or header.dtype != np.dtype("<f4") or header.fortran_order:
        raise ValueError(f"{header.dtype} {list(shape)}{', Fortran order' * header.fortran_order}, {wanted}")
    expected = header.offset + 4 * n * shape[1]
    if expected > _LARGEST_FEATURES:
        raise ValueError(f"{list(shape)}, {expected:,} bytes, expected at most {_LARGEST_FEATURES:,}")
    if size != expected:
        raise ValueError(f"{size} bytes, expected {expected}")
    return header
