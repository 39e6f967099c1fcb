"""Is it certain, without decoding, that a file's header does not ask for its pictures to be turned?"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import BinaryIO

# u, v and w, x and y as 16.16 and 2.30 fixed point (ISO/IEC 14496-12, 6.2.2).
_IDENTITY = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
# Where the matrix is in the content of a box of version 0, and of version 1 (8.2.2, 8.3.2).
_MATRIX = {b"mvhd": (36, 48), b"tkhd": (40, 52)}
_LARGEST = 16 << 20


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
