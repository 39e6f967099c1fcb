"""How are the faces read that OpenFace cut out of a video? They are an array on disk, and only resized."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gpupeak.errors import SampleError
from gpupeak.features.npy import LONGEST_HEADER, read_header
from gpupeak.video.container import MAX_SIDE


def open_faces(path: Path) -> npt.NDArray[np.uint8]:
    """Map an `.npy` file of faces: uint8 `[T, height, width, 3]`, T >= 1, channels BGR. Raises SampleError."""
    if not path.is_file():
        raise SampleError("plan", "is not a regular file")
    try:
        with path.open("rb") as file:
            header = read_header(file.read(LONGEST_HEADER))
        if header is None or header.dtype.hasobject:
            raise SampleError("plan", "is no whole .npy file")
        order: Literal["C", "F"] = "F" if header.fortran_order else "C"
        faces: npt.NDArray[np.uint8] = np.memmap(path, header.dtype, "r", header.offset, header.shape, order)
    except OSError as error:
        raise SampleError("plan", f"cannot be read: {error.strerror or error}") from error
    except (ValueError, TypeError, OverflowError) as error:
        raise SampleError("plan", "is no whole .npy file") from error
    shape = faces.shape
    if len(shape) != 4 or shape[3] != 3 or faces.dtype != np.uint8 or not all(shape) or max(shape[1:3]) > MAX_SIDE:
        raise SampleError("plan", f"holds {faces.dtype} {list(shape)}, expected uint8 [faces, height, width, 3]")
    return faces


def face_frames(
    faces: npt.NDArray[np.uint8], indices: Sequence[int], out: npt.NDArray[np.uint8], *, swap: bool = False
) -> None:
    """Resize faces into `out`, uint8 `[n, size, size, 3]`, bit for bit as OpenCV's default, without antialiasing."""
    height, width = faces.shape[1:3]
    above, below, of_above, of_below = _weights(height, out.shape[1])
    left, right, of_left, of_right = _weights(width, out.shape[2])
    of_above, of_below = of_above[:, None, None], of_below[:, None, None]
    for row, index in enumerate(indices):
        one, other = (faces[index].take(places, 1).astype(np.int32) for places in (left, right))
        across = (one * of_left[:, None] + other * of_right[:, None]) >> 4
        # Each product is cut by itself: OpenCV's SIMD multiplication keeps the upper half.
        cut = (across.take(above, 0) * of_above >> 16) + (across.take(below, 0) * of_below >> 16)
        resized = ((cut + 2) >> 2).astype(np.uint8)
        out[row] = resized[..., ::-1] if swap else resized


def _weights(length: int, size: int) -> tuple[npt.NDArray[Any], ...]:
    """For each of `size` places: its two neighbours, and how much there is of each, in 2048ths."""
    places = ((np.arange(size) + 0.5) * (length / size) - 0.5).astype(np.float32)
    first = np.floor(places).astype(np.intp)
    share = places - first.astype(np.float32)
    of_first, of_second = (np.rint(part * 2048).astype(np.int32) for part in (1 - share, share))
    return first.clip(0, length - 1), (first + 1).clip(0, length - 1), of_first, of_second
