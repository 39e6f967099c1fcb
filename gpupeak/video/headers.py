"""What do a file's headers tell that libav does not: is it cut, and is it certain that nothing turns its pictures?"""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

# ISO/IEC 14496-12, 4.2 and QuickTime: what follows the last of these is no part of the video.
_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"uuid", b"moof", b"mfra", b"sidx", b"styp", b"emsg"}
_LARGEST_MOVIE = 16 << 20
# u, v and w, x and y as 16.16 and 2.30 fixed point (6.2.2).
_IDENTITY = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
# A box with another matrix, which is so far from its version, where that is 1 and where it is 0 (8.2.2, 8.3.2). What is
# no such box, but has its name in it, leaves the question open at worst.
_TURNED = {
    kind: re.compile(rb"(?s)%b(?!(?:\x01.{%d}|[^\x01].{%d})%b)" % (kind, *distance, re.escape(_IDENTITY)))
    for kind, distance in ((b"mvhd", (47, 35)), (b"tkhd", (51, 39)))
}
# RFC 8794 and RFC 9559.
_EBML, _SEGMENT, _TRACKS, _CLUSTER = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\x16\x54\xae\x6b", b"\x1f\x43\xb6\x75"
_PROJECTION = b"\x76\x70"
_SEGMENT_HEAD = 1 << 14  # bytes of a segment in which its tracks are looked for
_RIFF_SLACK = 8  # some writers of AVI count the RIFF header in
_TS_PACKETS = (188, 192, 204)  # bytes of a packet: plain, with a time code, with error correction


def read_headers(path: Path, container: str) -> tuple[bool, bool]:
    """Of a file in libav's format `container`: whether it ends before what its headers announce, cut short or still
    being copied, and whether it is certain that they turn no picture; as far as MP4, Matroska, AVI and MPEG-TS tell."""
    try:
        with path.open("rb", buffering=0) as file:
            return _read(file.fileno(), container)
    except (OSError, OverflowError):
        return False, False


def _read(file: int, container: str) -> tuple[bool, bool]:
    size = os.fstat(file).st_size
    if container == "mpegts":
        return all(size % packet for packet in _TS_PACKETS), False
    at, upright, movie = 0, container == "avi", b""
    while at < size:
        head = os.pread(file, 16, at)
        length = _length(head)
        if head.startswith(_SEGMENT):
            upright = _turns_no_track(os.pread(file, _SEGMENT_HEAD, at))
        elif head[4:8] == b"moov" and length <= _LARGEST_MOVIE - len(movie):
            movie += os.pread(file, length, at)[8:]
            upright = all(kind in movie and not turned.search(movie) for kind, turned in _TURNED.items())
        if not length:
            return False, upright
        at += length
    return at > size + (_RIFF_SLACK if container == "avi" else 0), upright


def _length(head: bytes) -> int:
    """Bytes of the part of a file that begins with `head`; 0 if it does not tell, or is none that is known."""
    if head[4:8] in _BOXES:
        size = int.from_bytes(head[:4], "big")
        return int.from_bytes(head[8:], "big") if size == 1 else size
    if head[:4] == b"RIFF":
        return 8 + int.from_bytes(head[4:8], "little")
    if head[:4] in (_EBML, _SEGMENT):
        start, length = _element(head, 0)
        return start + length if length else 0
    return 0


def _turns_no_track(segment: bytes) -> bool:
    """Whether Matroska's tracks lie at the start of a segment, and none of them is projected."""
    at = _element(segment, 0)[0]
    while at < len(segment) and not segment.startswith(_CLUSTER, at):
        start, length = _element(segment, at)
        if segment.startswith(_TRACKS, at):
            return 0 < length <= len(segment) - start and _PROJECTION not in segment[start : start + length]
        at = start + length
    return False


def _element(data: bytes, at: int) -> tuple[int, int]:
    """Where the content of the EBML element at `at` starts, and its length; 0 if it does not tell."""
    at += 9 - data[at].bit_length()
    first = data[at] if at < len(data) else 0
    width = 9 - first.bit_length()
    unknown = (1 << 7 * width) - 1
    length = int.from_bytes(data[at : at + width], "big") & unknown
    return at + width, 0 if length == unknown or not first else length
