"""Does a file end before what its headers announce: cut short, or still being copied?"""

from __future__ import annotations

from pathlib import Path

# ISO/IEC 14496-12, 4.2 and QuickTime: what follows the last of these is no part of the video.
_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"uuid", b"moof", b"mfra", b"sidx", b"styp", b"emsg"}
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # RFC 8794 and RFC 9559
_RIFF_SLACK = 8  # some writers of AVI count the RIFF header in
_TS_PACKETS = (188, 192, 204)  # bytes of a packet: plain, with a time code, with error correction


def ends_early(path: Path, container: str) -> bool:
    """Whether a file in libav's format `container` is cut, as far as MP4, Matroska, AVI and MPEG-TS tell."""
    try:
        size = path.stat().st_size
        if container == "mpegts":
            return all(size % packet for packet in _TS_PACKETS)
        at = 0
        with path.open("rb") as file:
            while at < size:
                file.seek(at)
                if not (length := _length(file.read(16))):
                    return False
                at += length
        return at > size + (_RIFF_SLACK if container == "avi" else 0)
    except (OSError, OverflowError):
        return False


def _length(head: bytes) -> int:
    """Bytes of the part of a file that begins with `head`; 0 if it does not tell, or is none that is known."""
    if head[4:8] in _BOXES:
        size = int.from_bytes(head[:4], "big")
        return int.from_bytes(head[8:], "big") if size == 1 else size
    if head[:4] == b"RIFF":
        return 8 + int.from_bytes(head[4:8], "little")
    if head[:4] in (_EBML, _SEGMENT) and len(head) > 4 and head[4]:
        width = 9 - head[4].bit_length()
        unknown = (1 << 7 * width) - 1
        value = int.from_bytes(head[4 : 4 + width], "big") & unknown
        return 0 if value == unknown else 4 + width + value
    return 0
