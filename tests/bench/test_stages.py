"""The benchmark of the stages, in small: its bound decodes our frames, and wrong frames are noticed."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import write_clip

from gpupeak.decode import decode_frames
from gpupeak.demo.corpus import EXPRESSIONS, write_openface
from gpupeak.demo.corpus import Clip as Performance

REPOSITORY = Path(__file__).resolve().parents[2]
stages: Any = importlib.import_module("stages")
decoders: Any = importlib.import_module("peers.decoders")
record: Any = importlib.import_module("record")
workload: Any = importlib.import_module("workload")

INDICES = [0, 7, 20, 21, 22, 23, 24, 30]


@pytest.mark.parametrize("kind", ["h264_open_gop", "h264_edit_list", "mpeg4_avi_b"])
def test_the_bound_decodes_what_gpupeak_decodes(clip_of: Callable[[str], Path], kind: str) -> None:
    assert np.array_equal(stages.Bound(clip_of(kind), INDICES)(), decode_frames(clip_of(kind), INDICES))


def test_wrong_frames_are_counted(clip_of: Callable[[str], Path]) -> None:
    pictures = decode_frames(clip_of("h264"), range(48))
    ours = dict(enumerate(pictures))
    shown = {
        name: stages.judge(lambda rows=rows: pictures[rows], INDICES, ours)["wrong"]
        for name, rows in {"right": INDICES, "next": [i + 1 for i in INDICES], "one": [*INDICES[:-1], 29]}.items()
    }
    assert shown == {"right": 0, "next": 8, "one": 1}


def test_every_part_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the peers that this environment does not have."""
    (tmp_path / "clips").mkdir()
    paths = {"clip": write_clip(tmp_path / "clips/clip.mp4", options={"g": "12", "bf": "0"})}
    write_openface(Performance("bench", "clip", 48, 30, EXPRESSIONS[0], None), tmp_path / "aus")
    for package in ("decord", "torchcodec", "cv2"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(stages, "make", lambda clips, directory: paths)
    monkeypatch.setattr(stages, "real_clips", list)
    found = record.Record(tmp_path / "record", {})
    for part in (stages.planning, stages.decoding, stages.writing, stages.loading):
        with found.part(part.__name__):
            part(found, dataclasses.replace(workload.QUICK, rounds=1), tmp_path)
    rows = found.rows
    assert [name for name, row in rows.items() if row.get("ok") is False] == []
    missing = [name for name, row in rows.items() if row["says"].startswith("left out")]
    assert missing == ["decoding: decord", "decoding: torchcodec", "decoding: OpenCV"]
    assert rows["planning: every clip"]["samples_per_s"] > 0
    assert {judged["wrong"] for judged in rows["decoding: clip"]["judged"].values()} == {0}
    whats = [target["what"] for target in rows["decoding: every clip"]["targets"]]
    assert whats == ["the fastest peer / gpupeak", "gpupeak / bound"]
    assert rows["writing: float32 [8, 768]"]["files_per_s"]["gpupeak"] > 0
    assert rows["loading: one file"]["us"]["gpupeak"] > 0
    assert len(rows["loading: instead, PyAV seeking"]["times"]["gpupeak"]) == 1


def test_what_is_measured_beside_is_pinned_and_no_part_of_the_product() -> None:
    lines = (REPOSITORY / "bench/peers/requirements.txt").read_text().splitlines()
    wanted = [line.partition("#")[0].strip() for line in lines if not line.startswith("#")]
    assert all("==" in line.partition(";")[0] for line in wanted)
    product = (REPOSITORY / "pyproject.toml").read_text() + (REPOSITORY / "constraints.txt").read_text()
    names = {line.partition("==")[0] for line in wanted}
    assert [name for name in names if f'"{name}>' in product or f"\n{name}==" in product] == []
