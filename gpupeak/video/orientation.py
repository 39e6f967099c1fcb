"""Which way up are pictures?"""

from __future__ import annotations

import struct
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame

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
