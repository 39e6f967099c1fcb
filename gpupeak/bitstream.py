"""What does a packet say of its picture: is it shown, can decoding start at it, does any other refer to it?

Only the first bytes are read, by the codecs' specifications: ITU-T H.264 and H.265 (NAL unit headers),
ISO/IEC 14496-2 and 13818-2 (picture headers), RFC 6386 (VP8) and the VP9 bitstream specification.
"""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple

from gpupeak.h264 import Sequence, is_field, read_sequence, slice_type

__all__ = ["REFERENCED", "Picture", "Syntax"]

# Codecs of which one packet is one frame, and decoding can start at a key frame ...
_RANDOM_ACCESS = {"av1", "h264", "hevc", "mjpeg", "mpeg1video", "mpeg2video", "mpeg4", "vp8", "vp9"}
# ... or cannot be trusted to, because a decoder may carry state past it.
_SEQUENTIAL = {"ffv1", "flv1", "h263", "msmpeg4v2", "msmpeg4v3", "wmv1", "wmv2"}

REFERENCED = -1

# Pictures begin this near to the start of their packets, or are not looked for.
_HEAD = 1 << 16


class Picture(NamedTuple):
    """What a packet says of its picture.

    Attributes:
        shown: it is presented.
        start: decoding can start at it.
        layer: its temporal layer if no other picture of that or a lower layer refers to it, else `REFERENCED`.
    """

    shown: bool
    start: bool
    layer: int


class Syntax:
    """Reads the packets of one stream, and gathers what they say of the stream.

    Attributes:
        framed: one packet is one frame, as far as the packets read tell.
        standalone: what follows a key frame can be decoded from there on.
        bidirectional: there are B pictures.
        sequence: what H.264's last sequence parameter set says.
    """

    def __init__(self, codec: str, extradata: bytes) -> None:
        self.framed = codec in _RANDOM_ACCESS or codec in _SEQUENTIAL
        self.standalone = codec in _RANDOM_ACCESS
        self.bidirectional = False
        self._highest = 0
        self.sequence: Sequence | None = None
        self._begun = False
        self._parameters = b""
        # Of the first byte of a NAL unit's header: the bits of its type, that of slices, that of parameter sets.
        self._shift, self._mask = (1, 63) if codec == "hevc" else (0, 31)
        self._slices: Container[int] = range(32) if codec == "hevc" else (1, 2, 5)
        self._sets: Container[int] = (32, 33, 34) if codec == "hevc" else (7, 8)
        self._length = 0  # bytes of the length before a NAL unit (ISO/IEC 14496-15); 0 for start codes (Annex B)
        if codec == "h264" and len(extradata) > 6 and extradata[0] == 1:
            self._length = (extradata[4] & 3) + 1
            self._parameter_set(extradata[8 : 8 + int.from_bytes(extradata[6:8], "big")])
        elif codec == "hevc" and len(extradata) > 22 and not extradata.startswith((b"\0\0\1", b"\0\0\0\1")):
            self._length = (extradata[21] & 3) + 1
        elif codec in ("h264", "hevc"):
            self._first_slice(memoryview(extradata))
        self._parameters += extradata
        self._read = {
            "h264": self._h264,
            "hevc": self._hevc,
            "mpeg1video": self._mpeg2,
            "mpeg2video": self._mpeg2,
            "mpeg4": self._mpeg4,
            "vp8": self._vp8,
            "vp9": self._vp9,
        }.get(codec, self._other)

    def read(self, data: memoryview, key: bool) -> Picture:
        """Read the next packet, not empty; `key` is its container's word on whether it is a key frame."""
        picture = self._read(data, key)
        self._begun = True
        return picture

    def unreferenced(self, picture: Picture) -> bool:
        """Whether no other picture of the stream, which has been read to its end, refers to `picture`."""
        return picture.layer == self._highest

    def _h264(self, data: memoryview, key: bool) -> Picture:
        at = self._first_slice(data)
        if at < 0 or self.sequence is None or is_field(self.sequence, bytes(data[at : at + 16])):
            return self._unknown()
        instantaneous = data[at] & 31 == 5
        kind = slice_type(data[at + 1])
        self.bidirectional |= kind == 1
        # Periodic intra refresh has key frames that are P pictures: decoding from there is not exact.
        return Picture(True, instantaneous or (key and kind == 2), REFERENCED if data[at] & 0x60 else 0)

    def _hevc(self, data: memoryview, key: bool) -> Picture:
        at = self._first_slice(data)
        if at < 0:
            return self._unknown()
        kind, layer = data[at] >> 1 & 63, (data[at + 1] & 7) - 1
        self._highest = max(self._highest, layer)
        # Sub-layer non-reference pictures, 0, 2, .., 14, may still be referred to from higher layers.
        return Picture(True, 16 <= kind <= 21, layer if kind < 16 and kind % 2 == 0 else REFERENCED)

    def _mpeg4(self, data: memoryview, key: bool) -> Picture:
        head = bytes(data[:_HEAD])
        vop = head.find(b"\0\0\1\xb6")
        if vop < 0 or len(head) < max(20, vop + 5):
            return self._unknown()  # so short a VOP may be one that is not coded: no frame, or a packed one's
        kind = head[vop + 4] >> 6
        self.bidirectional |= kind == 2
        return Picture(True, key and kind == 0, 0 if kind == 2 else REFERENCED)

    def _mpeg2(self, data: memoryview, key: bool) -> Picture:
        head = bytes(data[:_HEAD])
        header = head.find(b"\0\0\1\0")
        if header < 0 or len(head) < header + 6:
            return self._unknown()
        kind = head[header + 5] >> 3 & 7
        self.bidirectional |= kind == 3
        return Picture(True, kind == 1 and b"\0\0\1\xb3" in head[:header], 0 if kind == 3 else REFERENCED)

    def _vp8(self, data: memoryview, key: bool) -> Picture:
        return Picture(data[0] & 0x10 != 0, key, REFERENCED)

    def _vp9(self, data: memoryview, key: bool) -> Picture:
        # Outside of a superframe, a hidden frame has neither show_existing_frame nor show_frame set.
        superframe = data[-1] & 0xE0 == 0xC0
        flags = 0b0101 if data[0] & 0x30 == 0x30 else 0b1010
        return Picture(superframe or data[0] & flags != 0, key, REFERENCED)

    def _other(self, data: memoryview, key: bool) -> Picture:
        return Picture(True, key, REFERENCED)

    def _unknown(self) -> Picture:
        self.framed = False
        return Picture(True, False, REFERENCED)

    def _first_slice(self, data: memoryview) -> int:
        """Where the header of the first slice's NAL unit starts, or -1; parameter sets before it are taken in."""
        at = 0
        if self._length:
            while at + self._length + 1 < len(data):
                start = at + self._length
                kind = data[start] >> self._shift & self._mask
                if kind in self._slices:
                    return start
                at = start + int.from_bytes(data[at:start], "big")
                if kind in self._sets:
                    self._parameter_set(bytes(data[start:at]))
            return -1
        head = bytes(data[:_HEAD])
        start = head.find(b"\0\0\1") + 3
        while 3 <= start < len(head) - 1:
            kind = head[start] >> self._shift & self._mask
            if kind in self._slices:
                return start
            following = head.find(b"\0\0\1", start)
            if kind in self._sets:
                self._parameter_set(head[start:following])
            start = following + 3
        return -1

    def _parameter_set(self, unit: bytes) -> None:
        """A parameter set that neither the header nor the first packet has is missed by starting after it."""
        if unit.rstrip(b"\0") not in self._parameters:
            self._parameters += unit
            self.standalone &= not self._begun
            if self._mask == 31 and unit[0] & 31 == 7:
                self.sequence = read_sequence(unit)
