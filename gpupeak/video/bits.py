"""How are a bitstream's headers read, and how is one changed?"""

from __future__ import annotations

import re
from io import BytesIO
from typing import NamedTuple


class Cropping(NamedTuple):
    """What a sequence parameter set says of its pictures' size; `start` and `stop` are the bits, counted after the NAL
    unit's header, that say how much of it is not shown: a flag, and four numbers where it is set."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    start: int
    stop: int


class Bits:
    """Numbers one after another; ValueError past the end."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left, self._size = int.from_bytes(data, "big"), 8 * len(data), 8 * len(data)

    @property
    def at(self) -> int:
        return self._size - self._left

    def u(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise ValueError("read past the end")
        return self._value >> self._left & ((1 << count) - 1)

    def ue(self) -> int:
        zeros = 0
        while not self.u(1):
            zeros += 1
        return (1 << zeros) - 1 + self.u(zeros)

    def skip(self, count: int) -> None:
        for _ in range(count):
            self.ue()

    def cropping(self, width: int, height: int, unit: tuple[int, int]) -> Cropping:
        """Read the flag and the four numbers, in `unit` pixels across and down."""
        start = self.at
        left, right, top, bottom = [self.ue() for _ in range(4)] if self.u(1) else [0] * 4
        x, y = unit
        return Cropping(width, height, x * left, x * right, y * top, y * bottom, start, self.at)

    def skip_scaling_list(self, size: int) -> None:
        following = last = 8
        for _ in range(size):
            if following:
                code = self.ue()
                delta = (code + 1) // 2 if code % 2 else -(code // 2)
                following = (last + delta) % 256
            last = following or last


def unescaped(payload: bytes) -> Bits:
    """Of a NAL unit, without its emulation prevention bytes."""
    return Bits(payload.replace(b"\0\0\3", b"\0\0"))


def uncropped(unit: bytes, header: int, cropping: Cropping) -> bytes:
    """A sequence parameter set, its NAL unit's header so many bytes, that shows all of the pictures' size."""
    payload = unit[header:].replace(b"\0\0\3", b"\0\0")
    value, size = int.from_bytes(payload, "big"), 8 * len(payload)
    tail = size - cropping.stop
    value = (value >> size - cropping.start) << 1 + tail | value & (1 << tail) - 1
    padding = -(cropping.start + 1 + tail) % 8  # after the bit that ends it, zeros: there may now be a byte of them
    shorter = (value << padding).to_bytes((cropping.start + 1 + tail + padding) // 8, "big").rstrip(b"\0")
    return unit[:header] + re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", shorter)


def configured(extradata: bytes, hevc: bool) -> tuple[int, list[bytes]]:
    """What a decoder configuration record of H.264 or HEVC says (ISO/IEC 14496-15, 5.3.3.1 and 8.3.3.1): how many bytes
    of length lie before a NAL unit, and the parameter sets; 0 and none if it is no record: there are start codes."""
    start_codes = extradata.startswith((b"\0\0\1", b"\0\0\0\1")) if hevc else extradata[:1] != b"\1"
    if start_codes or len(extradata) < (23 if hevc else 7):
        return 0, []
    units, reader = list[bytes](), BytesIO(extradata)

    def number(size: int) -> int:
        return int.from_bytes(reader.read(size), "big")

    reader.seek(22 if hevc else 5)
    for array in range(min(number(1), 16) if hevc else 2):
        count = number(1 + 2 * hevc) & (0xFFFF if hevc else 0xFF if array else 31)
        units += [reader.read(number(2)) for _ in range(min(count, 256))]
    return (extradata[21 if hevc else 4] & 3) + 1, list(filter(None, units))
