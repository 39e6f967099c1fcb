"""The clips that are measured: what their names say, the same bytes every time, and a peak that can be read."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpupeak.decode import decode_frames
from gpupeak.peaks.reading import read_peak
from gpupeak.types import Peak
from gpupeak.video.container import open_clip

REPOSITORY = Path(__file__).resolve().parents[2]
workload: Any = importlib.import_module("workload")

SIZE = (160, 120)
CLIPS = [
    workload.Clip("h264", SIZE, 2, gop=20, b_frames=2),
    workload.Clip("h264", SIZE, 2, b_frames=0),
    workload.Clip("h264", SIZE, 2, cuts=1, seed=1),
    workload.Clip("hevc", SIZE, 1, fps=30),
    workload.Clip("vp9", SIZE, 1),
    workload.Clip("mpeg4", SIZE, 1, gop=12, b_frames=0),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Path]:
    paths: dict[Any, Path] = workload.make(CLIPS, tmp_path_factory.mktemp("work") / "clips")
    return paths


def test_clips_are_what_their_names_say(made: dict[Any, Path]) -> None:
    for clip, path in made.items():
        facts = workload.facts(path)
        assert path.stem == clip.name
        assert (facts["codec"], facts["width"], facts["height"]) == (clip.codec, *SIZE)
        assert (facts["frames"], facts["fps"]) == (clip.frames, clip.fps)
    short, plain, cut, *_ = made.values()
    assert workload.facts(short)["key_frames"] == 3
    assert workload.facts(plain)["key_frames"] == 1
    assert workload.facts(plain)["non_reference_share"] == 0
    assert workload.facts(short)["non_reference_share"] > 0.2
    with open_clip(cut) as clip:
        assert clip.key_frames == [0, 25], "a key frame at the cut"


def test_the_same_bytes_every_time(made: dict[Any, Path], tmp_path: Path) -> None:
    for clip, path in workload.make(CLIPS[2:], tmp_path / "clips").items():
        assert path.read_bytes() == made[clip].read_bytes(), clip.name


def test_what_is_there_is_not_drawn_again(made: dict[Any, Path]) -> None:
    path = made[CLIPS[0]]
    before = path.stat().st_mtime_ns
    assert workload.make(CLIPS[:1], path.parent) == {CLIPS[0]: path}
    assert path.stat().st_mtime_ns == before


def test_pictures_move_and_change_at_a_cut(made: dict[Any, Path]) -> None:
    frames = decode_frames(made[CLIPS[2]], [0, 1, 24, 25, 26], size=None).astype(int)
    moved = np.abs(np.diff(frames, axis=0)).mean((1, 2, 3))
    assert 0.5 < moved[0] < 12
    assert moved[2] > 2 * moved[0], "the cut"
    assert moved[3] < 12


def test_every_clip_has_a_peak_of_its_kind(made: dict[Any, Path]) -> None:
    sources = {}
    for clip, path in made.items():
        sample = workload.sample_of(path, path.parent, path.parent.with_name("aus"))
        peak = read_peak(sample.name, sample.au_dirs, "auto")
        assert isinstance(peak, Peak)
        assert peak.index == clip.frames // 3
        sources[clip.codec] = peak.source
    assert sources == {"h264": "au_info", "hevc": "au_info", "vp9": "per_frame", "mpeg4": "openface"}


def test_the_matrix_holds_every_kind_at_every_size() -> None:
    clips = workload.decode_clips(workload.FULL)
    assert len({clip.name for clip in clips}) == len(clips)
    assert {clip.codec for clip in clips} == {"h264", "hevc", "vp9", "mpeg4"}
    assert {clip.size for clip in clips if clip.codec == "h264"} == {(320, 240), (640, 360), (1280, 720), (1920, 1080)}
    assert all(3 <= clip.seconds <= 10 and clip.fps in (25, 30) for clip in clips)
    assert {clip.b_frames for clip in clips} == {0, 3}
    assert any(clip.cuts for clip in clips)
    assert all(path.is_file() for path in workload.real_clips())
    assert len(workload.real_clips()) == 4


def test_a_clip_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_short(path: Path, *_: object, **__: object) -> None:
        path.write_bytes(b"half of")
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(workload, "encode", cut_short)
        with pytest.raises(OSError, match="no space left"):
            workload.make(CLIPS[:1], tmp_path / "clips")
    path = workload.make(CLIPS[:1], tmp_path / "clips")[CLIPS[0]]
    assert workload.facts(path)["frames"] == CLIPS[0].frames


def test_the_command_draws_and_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(workload, "decode_clips", lambda scale: CLIPS[:2] if scale.quick else [])
    monkeypatch.setattr(sys, "argv", ["workload.py", str(tmp_path), "--quick"])
    workload.main()
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told[:2]] == [clip.name for clip in CLIPS[:2]]
    assert "3 key frames ( 6.0 %)" in told[0]
    assert "0 % unreferenced" in told[1]
    assert len(told) == 2 + len(workload.real_clips())
