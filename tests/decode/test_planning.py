"""What a sample's plan warns of."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from clips import filtered
from samples import sample

from gpupeak.decode.planning import plan_clip, plan_frames
from gpupeak.features.fresh import find_stale, made_of
from gpupeak.features.records import ManifestLine, line_of
from gpupeak.tally import Tally
from gpupeak.types import FramePlan, Saved
from gpupeak.video.container import open_clip

ClipOf = Callable[[str], Path]
OUTSIDE = "the peak is more than 2 frames outside of the video"
OTHER_COUNT = "the action-unit file tells of another number of frames than the video has"
SEVERAL = "the action-unit file shows several people, of whom one was chosen"


def planned(directory: Path, frames: int, n: int = 8, **peak: int) -> FramePlan:
    entry = {"frames_before_peak": 9, "frames_after_peak": 9, **peak}
    told = {"au_info": {"peak_frames": [entry], "total_frames": entry.pop("total", frames)}}
    (directory / "clip").mkdir()
    if peak:
        (directory / "clip" / "clip_au_analysis.json").write_text(json.dumps(told))
    asked = sample(directory, n=n, method="emotion_peak")
    return plan_frames(replace(asked, au_dirs=(directory,)), frames, "h264")


@pytest.mark.parametrize(
    ("frames", "peak", "warnings"),
    [
        (48, {"peak_index": 20}, ()),
        (48, {"peak_index": 3, "n": 1}, ()),
        (1, {"peak_index": 0}, ("the video has a single frame",)),
        (1, {}, ("the video has a single frame",)),
        (48, {"peak_index": 49}, ()),
        (48, {"peak_index": 50}, (OUTSIDE,)),
        (48, {"peak_index": 49, "total": 50}, ()),
        (200, {"peak_index": 49, "total": 204}, ()),
        (48, {"peak_index": 49, "total": 51}, (OTHER_COUNT,)),
        (48, {"peak_index": 20, "total": 45}, (OTHER_COUNT,)),
        (48, {"peak_index": 50, "total": 60}, (OUTSIDE, OTHER_COUNT)),
        (48, {"peak_index": 0, "total": 1}, ("all 8 frames are the same one", OTHER_COUNT)),
        (48, {"peak_index": 3, "total": 1}, ("all 8 frames are the same one", OUTSIDE, OTHER_COUNT)),
    ],
)
def test_warnings(tmp_path: Path, frames: int, peak: dict[str, int], warnings: tuple[str, ...]) -> None:
    plan = planned(tmp_path, frames, **peak)
    assert (plan.peak is None) == (not peak)
    assert plan.warnings == warnings
    read = ManifestLine.read(line_of(Saved(plan, {})))
    assert read is not None
    assert (read.warnings, read.recounted) == (warnings, False)


@pytest.mark.parametrize(
    ("tag", "what"), [("matrix_coefficients=8", "matrix 8"), ("transfer_characteristics=3", "transfer 3")]
)
@pytest.mark.parametrize("kind", ["h264", "h264_mkv", "h264_ts"])
def test_colours_that_are_unknown(clip_of: ClipOf, tmp_path: Path, kind: str, tag: str, what: str) -> None:
    path = filtered(clip_of(kind), tmp_path / clip_of(kind).name, f"h264_metadata={tag}")
    for video, warnings in ((path, (f"colours of {what}, taken for BT.601",)), (clip_of(kind), ())):
        with open_clip(video) as clip:
            assert plan_clip(sample(tmp_path, video=video), clip).warnings == warnings


@pytest.mark.parametrize(
    "kind", ["h264_mkv", "h264_fragmented", "h264_avi", "h264_ts", "h264_grows_flv", "vp9", "h264_index_first"]
)
def test_a_file_that_ends_early_is_warned_of_and_once_whole_it_is_stale(
    clip_of: ClipOf, tmp_path: Path, kind: str
) -> None:
    whole = clip_of(kind)
    data, asked = whole.read_bytes(), sample(tmp_path, video=tmp_path / f"clip{whole.suffix}")
    plans = []
    for part in (data[: 2 * len(data) // 3 | 1], data):
        (tmp_path / f"clip{whole.suffix}").write_bytes(part)
        with open_clip(tmp_path / f"clip{whole.suffix}") as clip:
            plans.append(plan_clip(asked, clip, made_of(asked)))
    cut, complete = plans
    assert (cut.warnings, complete.warnings) == (("the file ends early: cut, or still being copied",), ())
    assert 0 < cut.frames < complete.frames
    line = ManifestLine.read(line_of(Saved(cut, {})))
    assert line is not None
    assert "another video" in find_stale("mine", [asked], {"clip": line}, lambda some: (), [])["clip"]


def test_a_run_tells_how_many_it_warns_of(tmp_path: Path) -> None:
    tally = Tally("mine", tmp_path, 2)
    for frames, name in ((1, "a"), (1, "b"), (48, "c")):
        (tmp_path / name).mkdir()
        tally.add(Saved(planned(tmp_path / name, frames, peak_index=0), {}))
    tally.close()
    assert tally.warnings == ["mine: 2 samples saved: the video has a single frame"]
    assert tally.to_json()["warnings"] == tally.warnings


def test_a_table_of_another_video_or_of_several_people_is_a_warning(tmp_path: Path) -> None:
    rows = [f"{frame},{face},0.9,1,{frame}" for frame in range(1, 61) for face in (0, 1)]
    (tmp_path / "clip.csv").write_text("\n".join(["frame,face_id,confidence,success,AU12_r", *rows]))
    plan = plan_frames(replace(sample(tmp_path, method="emotion_peak"), au_dirs=(tmp_path,)), 48, "h264")
    assert plan.peak is not None
    assert plan.warnings[1:] == (OTHER_COUNT, SEVERAL)
    read = ManifestLine.read(line_of(Saved(plan, {})))
    assert read is not None
    assert read.peak == replace(plan.peak, rows=60, face="face 0 of 2: largest summed confidence")
