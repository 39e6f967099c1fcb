"""Is it certain, without decoding, that a file's header does not ask for its pictures to be turned?"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

# u, v and w, x and y as 16.16 and 2.30 fixed point (ISO/IEC 14496-12, 6.2.2).
_IDENTITY = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
# Where the matrix is in the content of a box of version 0, and of version 1 (8.2.2, 8.3.2).
_MATRIX = {b"mvhd": (36, 48), b"tkhd": (40, 52)}

# Matroska's elements (RFC 9559). A projection holds the angles by which pictures are turned.
_SEGMENT, _TRACKS, _ENTRY = b"\x18\x53\x80\x67", b"\x16\x54\xae\x6b", b"\xae"
_VIDEO, _PROJECTION = b"\xe0", b"\x76\x70"
_HEAD = 1 << 16


def certainly_upright(path: Path, container: str) -> bool:
    """Whether no matrix turns the pictures of a file, `container` being libav's name of its format.

    False means only that its frames have to tell: of formats other than MP4, Matroska and AVI, which has
    none, nothing is known.
    """
    if container == "avi":
        return True
    try:
        with path.open("rb") as file:
            if container.startswith("mov"):
                return _has_identities(file)
            return container.startswith("matroska") and _has_no_projection(file.read(_HEAD))
    except OSError:
        return False


def _has_identities(file: BinaryIO) -> bool:
    """Whether an MP4 has a movie and a track at least, and the matrix of each is the identity."""
    seen = set()
    size = file.seek(0, 2)
    for kind, start, stop in _boxes(file, 0, size):
        if kind != b"moov":
            continue
        for outer in _boxes(file, start, stop):
            for kind, at, _ in _boxes(file, *outer[1:]) if outer[0] == b"trak" else (outer,):
                if kind in _MATRIX:
                    file.seek(at)
                    content = file.read(100)
                    offset = _MATRIX[kind][content[:1] == b"\1"]
                    if content[offset : offset + len(_IDENTITY)] != _IDENTITY:
                        return False
                    seen.add(kind)
    return seen == _MATRIX.keys()


def _boxes(file: BinaryIO, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Type, start and stop of the content of each box (ISO/IEC 14496-12, 4.2)."""
    while start + 8 <= stop:
        file.seek(start)
        size, kind, large = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
        header = 16 if size == 1 else 8
        end = start + large if size == 1 else start + size if size else stop
        if end < start + header:
            return
        yield kind, start + header, min(end, stop)
        start = end


def _has_no_projection(head: bytes) -> bool:
    """Whether the head of a Matroska file has all of its tracks' descriptions, and no projection in them."""
    tracks = _elements(head, [(0, len(head))], _SEGMENT, _TRACKS)
    videos = _elements(head, tracks, _ENTRY, _VIDEO)
    return bool(videos) and tracks[-1][1] < len(head) and not _elements(head, videos, _PROJECTION)


def _elements(data: bytes, spans: list[tuple[int, int]], *path: bytes) -> list[tuple[int, int]]:
    """Start and stop of the content of every element that `path` leads to from `spans` (RFC 8794, 4 to 6)."""
    for wanted in path:
        found = []
        for start, stop in spans:
            while start < stop:
                at = start + 9 - data[start].bit_length()
                width = 9 - data[at].bit_length() if at < stop else 9
                if width > 8:
                    break
                size = int.from_bytes(data[at : at + width], "big") & ((1 << 7 * width) - 1)
                end = stop if size + 1 == 1 << 7 * width else at + width + size  # all ones: unknown
                if data[start:at] == wanted:
                    found.append((at + width, min(end, stop)))
                start = end
        spans = found
    return spans
