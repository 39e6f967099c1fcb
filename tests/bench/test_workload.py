"""The clips that are measured: what their names say, the same bytes every time, and a peak that can be read."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from gpupeak.peaks.reading import read_peak
from gpupeak.types import Peak
from gpupeak.video.container import open_clip

workload: Any = importlib.import_module("workload")

CLIPS = {
    workload.Clip("h264", (160, 120), 2, cuts=1, seed=1): "au_info",
    workload.Clip("vp9", (160, 120), 1): "per_frame",
    workload.Clip("mpeg4", (160, 120), 1, gop=12, b_frames=0): "openface",
}


def test_clips_are_what_their_names_say_each_time(tmp_path: Path) -> None:
    made, again = (workload.make(CLIPS, tmp_path / place / "clips") for place in "ab")
    for clip, path in made.items():
        facts = workload.facts(path)
        assert path.stem == clip.name
        assert (facts["codec"], facts["width"], facts["frames"]) == (clip.codec, 160, clip.frames)
        assert path.read_bytes() == again[clip].read_bytes(), clip.name
        sample = workload.sample_of(path, tmp_path, tmp_path / "a/aus")
        peak = read_peak(sample.name, sample.au_dirs, "auto")
        assert isinstance(peak, Peak)
        assert (peak.index, peak.source) == (clip.frames // 3, CLIPS[clip])
    with open_clip(next(iter(made.values()))) as cut:
        assert cut.key_frames == [0, 25], "a key frame at the cut"


def test_a_clip_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = next(iter(CLIPS))

    def cut_short(path: Path, *_: object, **__: object) -> None:
        path.write_bytes(b"half of")
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(workload, "encode", cut_short)
        with pytest.raises(OSError, match="no space left"):
            workload.make([clip], tmp_path / "clips")
    assert workload.facts(workload.make([clip], tmp_path / "clips")[clip])["frames"] == clip.frames
