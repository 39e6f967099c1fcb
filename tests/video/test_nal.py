"""What the headers are read to say is what libav finds by decoding."""

from __future__ import annotations

from pathlib import Path

import pytest
from clips import decode_in_full, parameter_set, write_clip

from gpupeak.video.container import open_clip
from gpupeak.video.nal import read_sequence


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


@pytest.mark.parametrize(
    "params", ["", "fullrange=on:chromaloc=2:sar=77/13", "vbv-maxrate=300:vbv-bufsize=300:nal-hrd=vbr:pic-struct=1"]
)
def test_reordering_is_stated(tmp_path: Path, params: str) -> None:
    unit = parameter_set(write_clip(tmp_path / "clip.mp4", 2, options={"x264-params": params}))
    sequence = read_sequence(unit)
    assert sequence is not None and sequence.reordering
    cut = read_sequence(unit[:-6])
    assert cut is not None and not cut.reordering
