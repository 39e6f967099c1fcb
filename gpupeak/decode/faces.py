"""How are the faces read that OpenFace cut out of a video? From an array on disk: nothing is decoded, only resized."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gpupeak.container import MAX_SIDE
from gpupeak.errors import SampleError

__all__ = ["face_frames", "open_faces"]


def open_faces(path: Path) -> npt.NDArray[np.uint8]:
    """Map an `.npy` file of faces: uint8 `[T, height, width, 3]`, at least one, channels as OpenCV wrote them (BGR).

    Raises:
        SampleError: at stage "plan": no such file, or it holds something else.
    """
    if not path.is_file():
        raise SampleError("plan", "is not a regular file")
    try:
        faces: npt.NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise SampleError("plan", f"cannot be read: {error.strerror or error}") from error
    except Exception as error:  # NumPy promises ValueError, but a corrupted header provokes what its parser likes
        raise SampleError("plan", f"is no whole .npy file: {error}".splitlines()[0]) from error
    shape: tuple[int, ...] = faces.shape
    if len(shape) != 4 or shape[3] != 3 or faces.dtype != np.uint8 or not all(shape) or max(shape[1:3]) > MAX_SIDE:
        raise SampleError("plan", f"holds {faces.dtype} {list(shape)}, expected uint8 [faces, height, width, 3]")
    return faces


def face_frames(
    faces: npt.NDArray[np.uint8], indices: Sequence[int], out: npt.NDArray[np.uint8], *, swap: bool = False
) -> None:
    """Resize the chosen faces into `out`, uint8 `[n, size, size, 3]`, as OpenCV's default resize does.

    That is bilinear between pixel centres, without antialiasing. OpenCV computes with 11 bits, so a value
    may differ from its by 1 of 255. The channels stay as stored, unless `swap` turns them around.
    """
    size = out.shape[1]
    rows, columns = (_weights(length, size) for length in faces.shape[1:3])
    for row, index in enumerate(indices):
        face = faces[index].astype(np.float32)
        mixed = _mixed(_mixed(face, rows, 0), columns, 1)
        out[row] = np.rint(mixed)[..., ::-1] if swap else np.rint(mixed)


def _weights(length: int, size: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """For each of `size` places: its two neighbours of `length`, and how much of the second."""
    places = np.clip((np.arange(size) + 0.5) * (length / size) - 0.5, 0, length - 1)
    first = places.astype(np.intp)
    return first, np.minimum(first + 1, length - 1), (places - first).astype(np.float32)


def _mixed(
    picture: npt.NDArray[np.float32],
    weights: tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float32]],
    axis: int,
) -> npt.NDArray[np.float32]:
    first, second, share = weights
    share = share.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
    near, far = picture.take(first, axis), picture.take(second, axis)
    mixed: npt.NDArray[np.float32] = near + share * (far - near)
    return mixed
