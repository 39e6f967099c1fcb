"""Which videos NVDEC may be given, by kind, and why it is not there on this machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from clips import write_clip

from gpupeak.decode.nvdec import examine, nvdec_abilities
from gpupeak.types import VideoFacts
from gpupeak.video.container import open_clip
from gpupeak.video.remake import UNTIMED

ROUTES = {
    "h264": None,
    "h264_ts": None,
    "h264_bt709": None,
    "h264_rotated_90": None,
    "vp8": None,
    "mpeg4_mp4": None,
    "h264_avi": UNTIMED,
    "h264_10_bit": "h264 in yuv420p10le",
    "h264_444": "h264 in yuv444p",
    "h264_full_range": None,
    "vp9": None,
    "vp9_odd": "odd width or height",
    "hevc": None,
    "hevc_10_bit": None,
    "av1": "codec av1",
    "mjpeg_avi": "codec mjpeg",
    "mpeg2_ts": "codec mpeg2video",
    "wmv2": "codec wmv2",
    "flv1": "codec flv1",
}


FACTS = {
    "h264_rotated_90": VideoFacts(False, False, 270, "yuv420p"),
    "h264_bt709": VideoFacts(True, False, 0, "yuv420p"),
    "h264_full_range": VideoFacts(False, True, 0, "yuv420p"),
}


@pytest.mark.parametrize("kind", ROUTES)
def test_routes_and_facts(kind: str, clip_of: Callable[[str], Path]) -> None:
    with open_clip(clip_of(kind)) as clip:
        facts, given = examine(clip, [0, clip.frames - 1])
    assert (given if isinstance(given, str) else None) == ROUTES[kind]
    assert facts == FACTS.get(kind, facts)


def test_a_matrix_that_dali_does_not_know(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 2, options={"x264-params": "colormatrix=bt2020nc"})
    with open_clip(path) as clip:
        assert str(examine(clip, [0])[1]).startswith("colours of matrix 9")


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuvj420p"])
def test_full_range_that_only_the_container_tells(clip_of: Callable[[str], Path], pix_fmt: str) -> None:
    with open_clip(clip_of("h264")) as clip:
        clip.color_range, clip.pix_fmt = 2, pix_fmt
        _, reason = examine(clip, [0])
    assert reason == f"colours of matrix {clip.colorspace}, range 2"


def test_without_dali_nvdec_is_missing_whatever_the_driver_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    for cuda, extra in (("13.0", "gpu"), ("12.8", "gpu-cuda12"), (None, "gpu")):
        monkeypatch.setattr(torch.version, "cuda", cuda)
        assert f"pip install 'gpupeak[{extra}]'" in str(nvdec_abilities())
