"""What does a packet's header say of its picture: is it shown, can decoding start at it, does any other refer to it?"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from functools import cache
from typing import NamedTuple

from gpupeak.video.bits import configured, unescaped
from gpupeak.video.h264 import Sequence, is_field, read_sequence, slice_type

REFERENCED = -1

# Codecs of which one packet is one frame, and decoding can start at a key frame.
_RANDOM_ACCESS = {"av1", "h264", "hevc", "mjpeg", "mpeg1video", "mpeg2video", "mpeg4", "vp8", "vp9"}

# A display orientation's type, 47, and its size in bytes (ITU-T H.264, 7.3.2.3.1); a frame is decoded to be certain.
_ORIENTATION = re.compile(rb"\x2f[\3-\7]")

_HEAD = 1 << 16  # bytes of a packet in which a picture is looked for
_TAIL = 1 << 12  # and bytes in which its end is
_SEQUENCE, _FRAMES = 1, (3, 6)  # AV1's OBUs of a sequence header, and of a frame's header, with its tiles or without


class _Nal(NamedTuple):
    """The types of a codec's NAL units, and the bits of a unit's first byte that hold its type."""

    shift: int
    mask: int
    slices: Collection[int]
    parameter_sets: Collection[int]
    information: int


_NAL = {"h264": _Nal(0, 31, (1, 2, 5), (7, 8), 6), "hevc": _Nal(1, 63, range(32), (32, 33, 34), 39)}


class Picture(NamedTuple):
    """Whether a packet's picture is presented and decoding can start at it. `layer` is its temporal layer if no other
    picture of that or a lower layer refers to it, else `REFERENCED`. `fresh`: no decoder has to be flushed before it
    to start there, as it makes them forget what they have by themselves."""

    shown: bool
    start: bool
    layer: int
    fresh: bool = False


_picture = cache(Picture)  # there are few, and to make one takes longer than to find it


class Syntax:
    """Reads the packets of one stream in order, and gathers what they say of the stream.

    `framed`: one packet is one frame, as far as read. `doubtful`: a decoder may not deliver all of these frames.
    `standalone`: what follows a key frame can be decoded from there.
    `bidirectional`: there are B pictures. `oriented`: H.264 or HEVC may say which way up its pictures are. `sequence`
    is H.264's last sequence parameter set. `headless`: H.264's or HEVC's parameter sets are missing so far.
    """

    def __init__(self, codec: str, extradata: bytes) -> None:
        self._codec, self.framed = codec, codec in _RANDOM_ACCESS
        self.standalone = True
        self.bidirectional = self.oriented = self.doubtful = False
        self.sequence: Sequence | None = None
        self._highest = 0  # temporal layer
        self._begun = self._ended = self._anew = False
        self._parameters, self._kinds = b"", set[int]()
        self._nal = _NAL.get(codec, _NAL["h264"])
        self._length = 0  # bytes of the length before a NAL unit; 0 for start codes (Annex B)
        if codec in _NAL:
            self._length, units = configured(extradata, codec == "hevc")
            for unit in units:
                self._take_in(self._kind(unit[0]), unit)
            if not self._length:
                self._first_slice(memoryview(extradata))
        self._parameters += extradata
        self._reduced = False  # AV1's reduced_still_picture_header
        self._read = {
            "av1": self._av1,
            "h264": self._h264,
            "hevc": self._hevc,
            "mjpeg": self._mjpeg,
            "mpeg1video": self._mpeg2,
            "mpeg2video": self._mpeg2,
            "mpeg4": self._mpeg4,
            "vp8": self._vp8,
            "vp9": self._vp9,
        }.get(codec, self._other)

    @property
    def headless(self) -> bool:
        return self._codec in _NAL and not self._kinds.issuperset(self._nal.parameter_sets)

    def read(self, data: memoryview, key: bool) -> Picture:
        """Read the next packet, not empty; `key`: the container calls it a key frame."""
        picture = self._read(data, key)
        self._begun = True
        return picture

    def unreferenced(self, picture: Picture) -> bool:
        """Whether no other picture of the stream, which has been read to its end, refers to `picture`."""
        return picture.layer == self._highest

    def _h264(self, data: memoryview, key: bool) -> Picture:
        at = self._first_slice(data)
        sequence = self.sequence
        if at < 0 or sequence is None:
            return self._unknown()
        if sequence.before_field_flag is not None and is_field(sequence, bytes(data[at : at + 16])):
            return self._unknown()
        picture, kind = _h264_picture(data[at], data[at + 1], key)
        if kind == 1:
            self.bidirectional = True
        return picture

    def _hevc(self, data: memoryview, key: bool) -> Picture:
        at = self._first_slice(data)
        if at < 0:
            return self._unknown()
        picture, kind, layer = _hevc_picture(data[at], data[at + 1])
        if layer > self._highest:
            self._highest = layer
        if picture.start:  # from a BLA picture on, and after an end of sequence, a decoder starts anew
            self._anew = self._begun and (kind <= 18 or self._ended)
            self.doubtful |= self._begun and (data[at + 2] & 0x40 != 0 or (kind == 21 and self._ended))
        elif self._anew and kind in (8, 9):  # RASL: it refers to what came before, and is dropped
            self.doubtful = True
        self._ended = data[-1] == 1 and data[-2] == 0x48
        return picture

    def _mpeg4(self, data: memoryview, key: bool) -> Picture:
        head = bytes(data[:_HEAD])
        vop = head.find(b"\0\0\1\xb6")
        if vop < 0 or len(head) < max(20, vop + 5):
            return self._unknown()  # so short a VOP may be one that is not coded: no frame, or a packed one's
        kind = head[vop + 4] >> 6
        self.bidirectional |= kind == 2
        return _picture(True, key and kind == 0, 0 if kind == 2 else REFERENCED, key and kind == 0)

    def _mpeg2(self, data: memoryview, key: bool) -> Picture:
        head = bytes(data[:_HEAD])
        header = head.find(b"\0\0\1\0")
        if header < 0 or len(head) < header + 6:
            return self._unknown()
        kind = head[header + 5] >> 3 & 7
        self.bidirectional |= kind == 3
        return _picture(True, kind == 1 and b"\0\0\1\xb3" in head[:header], 0 if kind == 3 else REFERENCED)

    def _vp8(self, data: memoryview, key: bool) -> Picture:
        return _picture(data[0] & 0x10 != 0, key, REFERENCED, key and not data[0] & 1)

    def _vp9(self, data: memoryview, key: bool) -> Picture:
        # show_existing_frame and show_frame, which lie a bit lower in profile 3.
        flags = 0b0101 if data[0] & 0x30 == 0x30 else 0b1010
        return self._counted(sum(first & flags != 0 for first in _vp9_frames(data)), key, key and not data[0] & 4)

    def _av1(self, data: memoryview, key: bool) -> Picture:
        shown = 0
        for kind, first in _obus(data):
            if kind == _SEQUENCE:
                self._reduced = first & 8 != 0
            elif kind in _FRAMES:  # show_existing_frame, or show_frame after the two bits of frame_type
                shown += self._reduced or first & 0x90 != 0
        return self._counted(shown, key, False)

    def _counted(self, shown: int, key: bool, fresh: bool) -> Picture:
        """A packet that may hold any number of pictures: if it shows several, one timestamp cannot tell them apart."""
        self.doubtful |= shown > 1
        return _picture(shown > 0, key, REFERENCED, fresh)

    def _mjpeg(self, data: memoryview, key: bool) -> Picture:
        # What a picture that is cut short lacks is left as it was in memory, with nothing said: as it is in sequence.
        self.standalone &= b"\xff\xd9" in bytes(data[-_TAIL:])
        return _picture(True, key, REFERENCED)

    def _other(self, data: memoryview, key: bool) -> Picture:
        return _picture(True, key, REFERENCED)

    def _unknown(self) -> Picture:
        self.framed = False
        return _picture(True, False, REFERENCED)

    def _first_slice(self, data: memoryview) -> int:
        """Where the first slice's NAL unit starts, or -1; the units before it are taken in."""
        at, length = 0, self._length
        if length:
            shift, mask, slices = self._nal[:3]
            while at + length + 1 < len(data):
                start = at + length
                if (kind := data[start] >> shift & mask) in slices:
                    return start
                at = start + int.from_bytes(data[at:start], "big")
                self._take_in(kind, bytes(data[start:at]))
            return -1
        head = bytes(data[:_HEAD])
        start = head.find(b"\0\0\1") + 3
        while 3 <= start < len(head) - 1:
            if (kind := self._kind(head[start])) in self._nal.slices:
                return start
            following = head.find(b"\0\0\1", start)
            self._take_in(kind, head[start:following])
            start = following + 3
        return -1

    def _kind(self, byte: int) -> int:
        return byte >> self._nal.shift & self._nal.mask

    def _take_in(self, kind: int, unit: bytes) -> None:
        if kind in self._nal.parameter_sets:
            self._parameter_set(unit)
        elif kind == self._nal.information:
            self.oriented |= _ORIENTATION.search(unit) is not None

    def _parameter_set(self, unit: bytes) -> None:
        """One that neither the header nor the first packet holds is missed by whoever starts decoding after it."""
        if unit.rstrip(b"\0") not in self._parameters:
            self._parameters += unit
            self.standalone &= not self._begun
            kind = self._kind(unit[0])
            self._kinds.add(kind)
            if self._nal.mask == 31 and kind == 7:
                self.sequence = read_sequence(unit)
            elif kind == 34:
                self.doubtful |= _may_hide(unit)


@cache
def _h264_picture(header: int, first: int, key: bool) -> tuple[Picture, int]:
    """What the first two bytes of a slice's NAL unit say, and its slice_type."""
    idr, kind = header & 31 == 5, slice_type(first)
    # Periodic intra refresh has key frames that are P pictures: decoding from there is not exact.
    return Picture(True, idr or (key and kind == 2), REFERENCED if header & 0x60 else 0, idr), kind


@cache
def _hevc_picture(header: int, following: int) -> tuple[Picture, int, int]:
    """What the header of a slice's NAL unit says, its nal_unit_type and its temporal layer."""
    kind, layer = header >> 1 & 63, (following & 7) - 1
    start = 16 <= kind <= 21
    # Sub-layer non-reference pictures, 0, 2, .., 14, may still be referred to from higher layers.
    return Picture(True, start, layer if kind < 16 and kind % 2 == 0 else REFERENCED, start), kind, layer


def _vp9_frames(data: memoryview) -> list[int]:
    """The first byte of each frame in a packet, which may be a superframe (VP9, annex B)."""
    marker = data[-1]
    size, count = (marker >> 3 & 3) + 1, (marker & 7) + 1
    if marker & 0xE0 != 0xC0 or (index := bytes(data[-size * count - 2 :]))[0] != marker:
        return [data[0]]
    at, frames = 0, list[int]()
    for place in range(1, size * count + 1, size):
        if at < len(data):
            frames.append(data[at])
        at += int.from_bytes(index[place : place + size], "little")
    return frames


def _obus(data: memoryview) -> Iterator[tuple[int, int]]:
    """The type and the first byte of each of AV1's OBUs that holds any (5.3)."""
    at = 0
    while at < len(data):
        header, at = data[at], at + (2 if data[at] & 4 else 1)
        size = 0 if header & 2 else len(data)
        for shift in range(0, 56, 7) if header & 2 else ():  # leb128
            byte, at = data[at] if at < len(data) else 0, at + 1
            size |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
        if size and at < len(data):
            yield header >> 3 & 15, data[at]
        at += size


def _may_hide(unit: bytes) -> bool:
    """output_flag_present_flag of HEVC's picture parameter set (ITU-T H.265, 7.3.2.3.1)."""
    bits = unescaped(unit[2:16])
    try:
        bits.skip(2)
        return bits.u(2) & 1 == 1
    except ValueError:
        return True
