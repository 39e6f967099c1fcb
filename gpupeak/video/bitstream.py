"""What does a packet's header say of its picture: is it shown, can decoding start at it, does any other refer to it?"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import ClassVar, NamedTuple

from gpupeak.video.nal import KINDS, Sequence, Unit, configured, is_field, may_hide, read_sequence, slice_type, units

REFERENCED = -1

# A display orientation's type, 47, and its size in bytes (ITU-T H.264, 7.3.2.3.1); a frame is decoded to be certain.
_ORIENTATION = re.compile(rb"\x2f[\3-\7]")

_HEAD = 1 << 16  # bytes of a packet in which a picture is looked for
_TAIL = 1 << 12  # and bytes in which its end is
_SEQUENCE, _FRAMES = 1, (3, 6)  # AV1's OBUs of a sequence header, and of a frame's header, with its tiles or without


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
    is H.264's last sequence parameter set. `missing`: types of H.264's or HEVC's parameter sets, not one of which was
    met so far. `highest`: the temporal layer of all; to a picture of that `layer`, no other refers.
    """

    def __init__(self, codec: str, extradata: bytes) -> None:
        self.framed, self.standalone = codec in self._READERS, True
        self.bidirectional = self.oriented = self.doubtful = False
        self.sequence: Sequence | None = None
        self._read = self._READERS.get(codec, Syntax._other)
        self.highest = 0
        self._begun = self._ended = self._anew = False
        self._reduced = False  # AV1's reduced_still_picture_header
        self._parameters, self.missing = b"", set[int]()
        if codec in KINDS:
            self._kinds = KINDS[codec]
            self.missing.update(self._kinds.parameter_sets)
            self._length, sets = configured(extradata, codec == "hevc")
            for unit in sets:
                self._take_in(self._kinds.of(unit), unit)
        self._parameters += extradata

    def read(self, data: memoryview, key: bool) -> Picture:
        """Read the next packet, not empty; `key`: the container calls it a key frame."""
        try:
            return self._read(self, data, key)
        except (ValueError, IndexError):  # no frame, a part of one, or more than one
            self.framed = False
            return _picture(True, False, REFERENCED)
        finally:
            self._begun = True

    def _h264(self, data: memoryview, key: bool) -> Picture:
        unit = self._first_slice(data)
        if self.sequence is None or is_field(self.sequence, unit):
            raise ValueError
        idr, kind = unit[0] & 31 == 5, slice_type(unit[1])
        self.bidirectional |= kind == 1
        # Periodic intra refresh has key frames that are P pictures: decoding from there is not exact.
        return _picture(True, idr or (key and kind == 2), REFERENCED if unit[0] & 0x60 else 0, idr)

    def _hevc(self, data: memoryview, key: bool) -> Picture:
        unit = self._first_slice(data)
        kind, layer = self._kinds.of(unit), (unit[1] & 7) - 1
        self.highest = max(self.highest, layer)
        start = 16 <= kind <= 21
        if start:  # from a BLA picture on, and after an end of sequence, a decoder starts anew
            self._anew = self._begun and (kind <= 18 or self._ended)
            self.doubtful |= self._begun and (unit[2] & 0x40 != 0 or (kind == 21 and self._ended))
        elif self._anew and kind in (8, 9):  # RASL: it refers to what came before, and is dropped
            self.doubtful = True
        self._ended = bytes(data[-2:]) == b"\x48\1"
        # Sub-layer non-reference pictures, 0, 2, .., 14, may still be referred to from higher layers.
        return _picture(True, start, layer if kind < 16 and kind % 2 == 0 else REFERENCED, start)

    def _mpeg4(self, data: memoryview, key: bool) -> Picture:
        head = bytes(data[:_HEAD])
        if len(head) < 20:
            raise ValueError  # so short a VOP may be one that is not coded: no frame, or a packed one's
        kind = head[head.index(b"\0\0\1\xb6") + 4] >> 6
        self.bidirectional |= kind == 2
        return _picture(True, key and kind == 0, 0 if kind == 2 else REFERENCED, key and kind == 0)

    def _mpeg2(self, data: memoryview, key: bool) -> Picture:
        head = bytes(data[:_HEAD])
        header = head.index(b"\0\0\1\0")
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

    # Codecs of which one packet is one frame, and decoding can start at a key frame.
    _READERS: ClassVar[dict[str, Callable[[Syntax, memoryview, bool], Picture]]] = {
        "av1": _av1,
        "h264": _h264,
        "hevc": _hevc,
        "mjpeg": _mjpeg,
        "mpeg1video": _mpeg2,
        "mpeg2video": _mpeg2,
        "mpeg4": _mpeg4,
        "vp8": _vp8,
        "vp9": _vp9,
    }

    def _first_slice(self, data: memoryview) -> Unit:
        """What begins with the first slice's NAL unit; units before it are taken in. ValueError if there is none."""
        if self._length and self._kinds.of(first := data[self._length :]) in self._kinds.slices:
            return first  # as mostly: to take a packet apart takes longer than all else that is done with it
        for unit in units(data if self._length else data[:_HEAD], self._length):
            kind = self._kinds.of(unit)
            if kind in self._kinds.slices:
                return unit
            self._take_in(kind, unit)
        raise ValueError

    def _take_in(self, kind: int, unit: Unit) -> None:
        """A parameter set that neither the header nor the first packet holds is missed by whoever starts after it."""
        if kind == self._kinds.information:
            self.oriented |= _ORIENTATION.search(unit) is not None
        elif kind in self._kinds.parameter_sets and bytes(unit).rstrip(b"\0") not in self._parameters:
            self._parameters += bytes(unit)
            self.standalone &= not self._begun
            self.missing.discard(kind)
            if kind == 7:
                self.sequence = read_sequence(bytes(unit))
            elif kind == 34:
                self.doubtful |= may_hide(unit)


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
