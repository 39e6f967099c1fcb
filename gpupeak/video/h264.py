"""What do H.264's headers say? By ITU-T H.264: 7.3.2.1.1 and E.1.1 (sequence parameter set), 7.3.3 (slice header)."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import NamedTuple

from gpupeak.video.bits import Bits, Cropping, unescaped

_WITH_CHROMA_FORMAT = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}
_LONGEST = 1024  # bytes of a parameter set; it is shorter even with all scaling lists


class Sequence(NamedTuple):
    """What a sequence parameter set says; where `colorspace` and `transfer` are None, they are the container's.

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


@lru_cache(64)  # a video's is read three times, and many videos have the same
def read_sequence(unit: bytes) -> Sequence | None:
    """Read the NAL unit of a sequence parameter set; None if it is damaged."""
    try:
        return _read_sequence(unescaped(unit[1:_LONGEST]))
    except ValueError:
        return None


def read_cropping(unit: bytes) -> Cropping:
    """Read the NAL unit of a sequence parameter set; ValueError if it is damaged."""
    if (sequence := read_sequence(unit)) is None:
        raise ValueError("a damaged sequence parameter set")
    return sequence.cropping


def is_field(sequence: Sequence, slice_header: bytes) -> bool:
    """Whether a picture is one field of a frame; `slice_header` is the first 16 bytes of a slice's NAL unit."""
    if sequence.before_field_flag is None:
        return False
    bits = unescaped(slice_header[1:])
    try:
        bits.skip(3)  # first_mb_in_slice, slice_type, pic_parameter_set_id
        bits.u(sequence.before_field_flag)
        return bits.u(1) == 1
    except ValueError:
        return True  # damaged: the worse is supposed


@cache
def slice_type(byte: int) -> int:
    """slice_type modulo 5 (0 P, 1 B, 2 I) by a slice header's first byte; -1 if it is not the picture's first slice."""
    bits = byte & 0x7F
    zeros = 7 - bits.bit_length()
    return ((bits >> (6 - 2 * zeros)) - 1) % 5 if byte & 0x80 and zeros <= 3 else -1


def _read_sequence(bits: Bits) -> Sequence:
    profile = bits.u(8)
    bits.u(16)
    bits.ue()
    chroma, depth, planes = 1, 8, 0
    if profile in _WITH_CHROMA_FORMAT:
        chroma = bits.ue()
        planes = bits.u(1) if chroma == 3 else 0
        depth += bits.ue()
        bits.ue()
        bits.u(1)
        if bits.u(1):
            for number in range(12 if chroma == 3 else 8):
                if bits.u(1):
                    bits.skip_scaling_list(16 if number < 6 else 64)
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
    frames_only = bits.u(1)
    bits.u(1 if frames_only else 2)
    fields = 2 - frames_only  # in a frame, of each of which `height` is told
    across, down = {1: (2, 2), 2: (2, 1)}.get(chroma, (1, 1))
    cropping = bits.cropping(width, height * fields, (across, down * fields))
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
    before_field_flag = None if frames_only else frame_num + 2 * planes
    return Sequence(pix_fmt, colorspace, transfer, color_range, before_field_flag, reordering, cropping)


def _says_reordering(bits: Bits) -> bool:
    """bitstream_restriction_flag, read on from chroma_loc_info_present_flag; False where the rest is cut off."""
    try:
        bits.skip(2 * bits.u(1))  # chroma_loc_info_present_flag
        bits.u(65 * bits.u(1))  # timing_info_present_flag
        hrd = False
        for _ in range(2):  # nal_hrd_parameters_present_flag, vcl_hrd_parameters_present_flag
            if bits.u(1):
                hrd = True
                count = bits.ue() + 1
                bits.u(8)
                for _ in range(count):
                    bits.skip(2)
                    bits.u(1)
                bits.u(20)
        bits.u(1 + hrd)  # low_delay_hrd_flag, pic_struct_present_flag
        return bits.u(1) == 1
    except ValueError:
        return False
