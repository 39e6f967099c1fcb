"""The units that H.264 and HEVC consist of (NAL), and what their headers say. By ITU-T H.264: 7.3.2.1.1 and E.1.1
(sequence parameter set), 7.3.3 (slice header); ITU-T H.265: 7.3.2.2.1, 7.3.2.3.1, 7.3.3."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache, lru_cache
from io import BytesIO
from typing import NamedTuple, TypeAlias

Unit: TypeAlias = bytes | memoryview


class Bits:
    """Numbers one after another; ValueError past the end. `at` is how many bits of `text` have been read."""

    def __init__(self, data: bytes) -> None:
        self.text, self.at = bin(int.from_bytes(b"\1" + data, "big"))[3:], 0

    def u(self, count: int) -> int:
        start, self.at = self.at, self.at + count
        if self.at > len(self.text):
            raise ValueError("read past the end")
        return int("0" + self.text[start : self.at], 2)

    def ue(self) -> int:
        zeros = self.text.find("1", self.at) - self.at
        if zeros < 0:
            raise ValueError("read past the end")
        return self.u(2 * zeros + 1) - 1

    def skip(self, count: int) -> None:
        for _ in range(count):
            self.ue()


class Kinds(NamedTuple):
    """The types of a codec's NAL units, whose header has `header` bytes; `pictures` are all that a video consists of
    beside its parameter sets."""

    header: int
    slices: Collection[int]
    sequence: int
    picture: int
    parameter_sets: Collection[int]
    information: int
    pictures: Collection[int]

    def of(self, unit: Unit) -> int:
        return unit[0] >> 1 & 63 if self.header == 2 else unit[0] & 31


KINDS = {
    "h264": Kinds(1, (1, 2, 5), 7, 8, (7, 8), 6, range(1, 7)),
    "hevc": Kinds(2, range(32), 33, 34, (32, 33, 34), 39, (*range(32), 36, 39, 40)),
}

_WITH_CHROMA_FORMAT = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}
_LONGEST = 1024  # bytes of a parameter set; it is shorter even with all scaling lists


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


class Sequence(NamedTuple):
    """What H.264's sequence parameter set says; where `colorspace` and `transfer` are None, they are the container's.

    `before_field_flag` is how many bits of a slice header lie between pic_parameter_set_id and field_pic_flag, None
    where all pictures are frames. `reordering`: it says how many pictures may have to wait for one presented before.
    """

    pix_fmt: str
    colorspace: int | None
    transfer: int | None
    color_range: int
    before_field_flag: int | None
    reordering: bool
    cropping: Cropping


def units(data: Unit, length: int) -> list[Unit]:
    """The NAL units of a packet: each after its size in `length` bytes, or if that is 0 after a start code (Annex B).
    Where a packet ends within one, the last is empty."""
    if not length:
        return list(filter(None, (unit.rstrip(b"\0") for unit in bytes(data).split(b"\0\0\1")[1:])))
    found: list[Unit] = []
    at, end = 0, len(data)
    while at < end:
        start = at + length
        at = start + int.from_bytes(data[at:start], "big")
        if unit := data[start:at]:
            found.append(unit)
    return found if at == end else [*found, b""]


def configured(extradata: bytes, hevc: bool) -> tuple[int, list[Unit]]:
    """What a decoder configuration record of H.264 or HEVC says (ISO/IEC 14496-15, 5.3.3.1 and 8.3.3.1): how many bytes
    of length lie before a NAL unit, and the parameter sets; 0 and the units that there are if it is no record."""
    start_codes = extradata.startswith((b"\0\0\1", b"\0\0\0\1")) if hevc else extradata[:1] != b"\1"
    if start_codes or len(extradata) < (23 if hevc else 7):
        return 0, units(extradata, 0)
    sets, reader = list[Unit](), BytesIO(extradata)

    def number(size: int) -> int:
        return int.from_bytes(reader.read(size), "big")

    reader.seek(22 if hevc else 5)
    for array in range(min(number(1), 16) if hevc else 2):
        count = number(1 + 2 * hevc) & (0xFFFF if hevc else 0xFF if array else 31)
        sets += [reader.read(number(2)) for _ in range(min(count, 256))]
    return (extradata[21 if hevc else 4] & 3) + 1, list(filter(None, sets))


def unescaped(payload: Unit) -> bytes:
    """Of a NAL unit, without its emulation prevention bytes."""
    return bytes(payload).replace(b"\0\0\3", b"\0\0")


def uncropped(unit: bytes, header: int, cropping: Cropping) -> bytes:
    """A sequence parameter set, its NAL unit's header so many bytes, that shows all of the pictures' size."""
    text = Bits(unescaped(unit[header:])).text
    shorter = (text[: cropping.start] + "0" + text[cropping.stop :]).rstrip("0")
    size = -(-len(shorter) // 8)
    payload = int(shorter.ljust(8 * size, "0"), 2).to_bytes(size, "big")
    return unit[:header] + re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", payload)


def read_cropping(unit: bytes, hevc: bool) -> Cropping:
    """Read the NAL unit of a sequence parameter set, HEVC's of 4:2:0; ValueError if it is damaged."""
    if not hevc:
        if (sequence := read_sequence(unit)) is None:
            raise ValueError("a damaged sequence parameter set")
        return sequence.cropping
    bits = Bits(unescaped(unit[2:]))
    bits.u(4)
    layers = bits.u(3)  # sps_max_sub_layers_minus1
    bits.u(1 + 88 + 8)  # general profile, tier and level
    present = [(bits.u(1), bits.u(1)) for _ in range(layers)]
    bits.u(2 * (8 - layers) if layers else 0)
    for profile, level in present:
        bits.u(88 * profile + 8 * level)
    bits.ue()
    if bits.ue() != 1:  # chroma_format_idc
        raise ValueError("not 4:2:0")
    return _cropping(bits, bits.ue(), bits.ue(), (2, 2))


@lru_cache(64)  # a video's is read three times, and many videos have the same
def read_sequence(unit: bytes) -> Sequence | None:
    """Read the NAL unit of H.264's sequence parameter set; None if it is damaged."""
    try:
        return _sequence(Bits(unescaped(unit[1:_LONGEST])))
    except ValueError:
        return None


def is_field(sequence: Sequence, slice_unit: Unit) -> bool:
    """Whether a picture of H.264, told by a slice's NAL unit, is one field of a frame; ValueError if it is damaged."""
    if sequence.before_field_flag is None:
        return False
    bits = Bits(unescaped(slice_unit[1:16]))
    bits.skip(3)  # first_mb_in_slice, slice_type, pic_parameter_set_id
    bits.u(sequence.before_field_flag)
    return bits.u(1) == 1


@cache
def slice_type(byte: int) -> int:
    """slice_type modulo 5 (0 P, 1 B, 2 I) by a slice header's first byte; -1 if it is not the picture's first slice."""
    bits = byte & 0x7F
    zeros = 7 - bits.bit_length()
    return ((bits >> (6 - 2 * zeros)) - 1) % 5 if byte & 0x80 and zeros <= 3 else -1


def may_hide(unit: Unit) -> bool:
    """output_flag_present_flag of HEVC's picture parameter set."""
    bits = Bits(unescaped(unit[2:16]))
    try:
        bits.skip(2)
        return bits.u(2) & 1 == 1
    except ValueError:
        return True


def _cropping(bits: Bits, width: int, height: int, unit: tuple[int, int]) -> Cropping:
    """Read the flag and the four numbers, in `unit` pixels across and down."""
    start = bits.at
    left, right, top, bottom = [bits.ue() for _ in range(4)] if bits.u(1) else [0] * 4
    x, y = unit
    return Cropping(width, height, x * left, x * right, y * top, y * bottom, start, bits.at)


def _sequence(bits: Bits) -> Sequence:
    profile = bits.u(24) >> 16  # before constraint flags and level_idc
    bits.ue()
    chroma, depth, planes = 1, 8, 0
    if profile in _WITH_CHROMA_FORMAT:
        chroma = bits.ue()
        planes = bits.u(1) if chroma == 3 else 0
        depth += bits.ue()
        bits.ue()
        if bits.u(2) & 1:  # after qpprime_y_zero_transform_bypass_flag
            for number in range(12 if chroma == 3 else 8):
                if bits.u(1):
                    _skip_scaling_list(bits, 16 if number < 6 else 64)
    frame_num = bits.ue() + 4
    order = bits.ue()  # pic_order_cnt_type
    if order == 0:
        bits.ue()
    elif order == 1:
        bits.u(1)
        bits.skip(2)
        bits.skip(bits.ue())
    bits.ue()
    bits.u(1)
    width, height = 16 * (bits.ue() + 1), 16 * (bits.ue() + 1)
    fields = 2 - bits.u(1)  # in a frame, of each of which `height` is told
    bits.u(fields)
    across, down = {1: (2, 2), 2: (2, 1)}.get(chroma, (1, 1))
    cropping = _cropping(bits, width, height * fields, (across, down * fields))
    colorspace, transfer, color_range, reordering = None, None, 0, False
    if bits.u(1):  # vui_parameters_present_flag
        if bits.u(1) and bits.u(8) == 255:  # an aspect ratio of its own
            bits.u(32)
        bits.u(bits.u(1))  # overscan_info_present_flag
        if bits.u(1):  # video_signal_type_present_flag
            bits.u(3)
            color_range = 1 + bits.u(1)
            if bits.u(1):  # colour_description_present_flag
                bits.u(8)
                transfer, colorspace = bits.u(8), bits.u(8)
        reordering = _says_reordering(bits)
    name = {2: "yuv422p", 3: "gbrp" if colorspace == 0 else "yuv444p"}.get(chroma, "yuv420p")
    if depth == 8 and color_range == 2:
        name = name.replace("yuv", "yuvj")
    pix_fmt = name if depth == 8 else f"{name}{depth}le"
    before_field_flag = None if fields == 1 else frame_num + 2 * planes
    return Sequence(pix_fmt, colorspace, transfer, color_range, before_field_flag, reordering, cropping)


def _skip_scaling_list(bits: Bits, size: int) -> None:
    following = last = 8
    for _ in range(size):
        if following:
            code = bits.ue()
            following = (last + (code + 1) // 2 * (1 if code % 2 else -1)) % 256
        last = following or last


def _says_reordering(bits: Bits) -> bool:
    """bitstream_restriction_flag, read on from chroma_loc_info_present_flag; False where the rest is cut off."""
    try:
        bits.skip(2 * bits.u(1))  # chroma_loc_info_present_flag
        bits.u(65 * bits.u(1))  # timing_info_present_flag
        hrd = 0
        for _ in range(2):  # nal_hrd_parameters_present_flag, vcl_hrd_parameters_present_flag
            if bits.u(1):
                hrd, count = 1, bits.ue() + 1
                bits.u(8)
                for _ in range(count):
                    bits.skip(2)
                    bits.u(1)
                bits.u(20)
        bits.u(1 + hrd)  # low_delay_hrd_flag, pic_struct_present_flag
        return bits.u(1) == 1
    except ValueError:
        return False
