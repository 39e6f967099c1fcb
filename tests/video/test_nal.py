"""What the headers are read to say is what libav finds by decoding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import pytest
from clips import decode_in_full, write_clip

from gpupeak.video.container import open_clip
from gpupeak.video.nal import read_sequence, slice_type


@pytest.mark.parametrize(
    ("pix_fmt", "codec", "params"),
    [
        ("yuv420p", "libx264", "colormatrix=bt709"),
        ("yuv420p", "libx264", "colormatrix=smpte170m:overscan=show:sar=12/11"),
        ("yuv420p", "libx264", "interlaced=1:colormatrix=bt470bg"),
        ("yuv420p", "libx264", "cqm=jvt"),
        ("yuvj420p", "libx264", "sar=77/13"),
        ("yuvj422p", "libx264", ""),
        ("yuv422p10le", "libx264", ""),
        ("yuv444p", "libx264", "cqm=jvt"),
        ("yuv444p10le", "libx264", "colormatrix=bt2020nc"),
        ("gray", "libx264", ""),
        ("rgb24", "libx264rgb", ""),
    ],
)
def test_colours_and_format(tmp_path: Path, pix_fmt: str, codec: str, params: str) -> None:
    options = {"x264-params": params}
    path = write_clip(tmp_path / "clip.mp4", 2, codec=codec, pix_fmt=pix_fmt, options=options)
    frame = decode_in_full(path)[0]
    with open_clip(path) as clip:
        assert clip.pix_fmt == frame.format.name
        assert (clip.colorspace, clip.color_range) == (frame.colorspace, frame.color_range)


def sequence_unit(path: Path) -> bytes:
    with av.open(str(path)) as container:
        header = container.streams.video[0].codec_context.extradata or b""
    return header[8 : 8 + header[7]]  # ISO/IEC 14496-15, 5.3.3.1


@pytest.mark.parametrize(
    "params", ["", "fullrange=on:chromaloc=2:sar=77/13", "vbv-maxrate=300:vbv-bufsize=300:nal-hrd=vbr:pic-struct=1"]
)
def test_reordering_is_stated(tmp_path: Path, params: str) -> None:
    unit = sequence_unit(write_clip(tmp_path / "clip.mp4", 2, options={"x264-params": params}))
    sequence = read_sequence(unit)
    assert sequence is not None and sequence.reordering
    cut = read_sequence(unit[:-6])
    assert cut is not None and not cut.reordering


def test_parameter_sets_whole_and_damaged(clip_of: Callable[[str], Path]) -> None:
    unit = sequence_unit(clip_of("h264"))
    for found, before_field_flag in ((unit, None), (sequence_unit(clip_of("h264_interlaced")), 4)):
        sequence = read_sequence(found)
        assert sequence is not None
        assert sequence[:6] == ("yuv420p", None, None, 0, before_field_flag, True)
        assert sequence.cropping[:6] == (96, 64, 0, 0, 0, 0)
    for size in range(1, 8):
        assert read_sequence(unit[:size]) is None
    assert read_sequence(b"\x67") is None
    assert read_sequence(b"\x67" + bytes(1 << 16)) is None
    assert read_sequence(b"\x67\x64\0\x0a" + b"\xff" * (1 << 16)) is not None


def bits(text: str) -> bytes:
    text = text.replace(" ", "").ljust(128, "0")
    return int(text, 2).to_bytes(len(text) // 8, "big")


def test_slice_types() -> None:
    codes = {0: "1", 1: "010", 2: "011", 3: "00100", 4: "00101", 5: "00110", 6: "00111", 7: "0001000", 8: "0001001"}
    for value, code in codes.items():
        assert slice_type(bits("1" + code)[0]) == value % 5
    assert slice_type(bits("010 1")[0]) == -1, "first_mb_in_slice is 1"
    assert slice_type(bits("1 00001010")[0]) == -1, "no slice_type is that large"
