"""Which way up are pictures, and is it certain, without decoding, that a file's header does not ask to turn them?"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame

# u, v and w, x and y as 16.16 and 2.30 fixed point (ISO/IEC 14496-12, 6.2.2).
_IDENTITY = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
# Where the matrix is in the content of a box of version 0, and of version 1 (8.2.2, 8.3.2).
_MATRIX = {b"mvhd": (36, 48), b"tkhd": (40, 52)}
_LARGEST = 16 << 20

Matrix: TypeAlias = tuple[int, int, int, int]
"""a, b, c and d of a display matrix: a pixel at x, y is shown at a x + c y, b x + d y."""
UPRIGHT: Matrix = (1 << 16, 0, 0, 1 << 16)


def display_matrix(frame: VideoFrame) -> Matrix:
    """What a frame's container, or bitstream, asks for; of a small copy, as PyAV keeps a frame of which this is read
    until garbage is collected."""
    side = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(side, SideData):
        return UPRIGHT
    a, b, _, c, d = struct.unpack_from("=5i", bytes(side))
    return a, b, c, d


def degrees(matrix: Matrix) -> int:
    """The quarter turns of a matrix that does not mirror, counter-clockwise."""
    a, b, _, _ = matrix
    return (270 if b > 0 else 90) if abs(b) > abs(a) else 180 if a < 0 else 0


def mirrors(matrix: Matrix) -> bool:
    a, b, c, d = matrix
    return a * d - b * c < 0


def upright(picture: npt.NDArray[np.uint8], matrix: Matrix) -> npt.NDArray[np.uint8]:
    """A view of `[height, width, 3]` as ffmpeg turns it by itself, mirrored or not, but by quarters only."""
    a, b, c, d = matrix
    if abs(b) > abs(a):
        picture, a, d = picture.swapaxes(0, 1), c, b
    return picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def certainly_upright(path: Path, container: str) -> bool:
    """Whether no matrix turns the pictures of a file in libav's format `container`; else its frames must tell."""
    if not container.startswith("mov"):
        return container == "avi"
    try:
        with path.open("rb") as file:
            movie = _movie(file)
    except (OSError, OverflowError):
        return False
    # What is no such box, but has its name in it, leaves the question open at worst.
    return all(_are_identities(movie, kind, places) for kind, places in _MATRIX.items())


def _are_identities(movie: bytes, kind: bytes, places: tuple[int, int]) -> bool:
    starts = [found.end() for found in re.finditer(kind, movie)]
    matrices = [start + places[movie[start : start + 1] == b"\1"] for start in starts]
    return bool(starts) and all(movie[at : at + len(_IDENTITY)] == _IDENTITY for at in matrices)


def _movie(file: BinaryIO) -> bytes:
    """The content of an MP4's first box `moov` (ISO/IEC 14496-12, 4.2); empty if there is none of a size to be read."""
    while len(header := file.read(8)) == 8:
        size, kind = struct.unpack(">I4s", header)
        rest = int.from_bytes(file.read(8), "big") - 16 if size == 1 else size - 8
        if kind == b"moov" and 0 <= rest <= _LARGEST:
            return file.read(rest)
        if kind == b"moov" or rest < 0:
            break
        file.seek(rest, 1)
    return b""
