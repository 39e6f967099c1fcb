"""The benchmark from files to files, in small: both sides' features are of the same frames, or it is noticed."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from gpupeak.decode.planning import plan_frames
from gpupeak.encoders import EncoderSpec, TowerShape
from gpupeak.types import Sample

baseline: Any = importlib.import_module("peers.baseline")
decoders: Any = importlib.import_module("peers.decoders")
end_to_end: Any = importlib.import_module("end_to_end")
record: Any = importlib.import_module("record")
workload: Any = importlib.import_module("workload")

SHAPE = TowerShape(size=224, patch=56, width=64, layers=2, heads=2, dim=16)
SPEC = EncoderSpec("TINY", "TINY", SHAPE.dim, SHAPE.size, "ViT-L-14-quickgelu", "openai", SHAPE)
CLIPS = [workload.Clip("h264", size, 1.2, seed=seed) for seed, size in enumerate([(160, 120), (640, 360)])]
torch_threads = tiny.torch.get_num_threads()


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def samples(work: Path) -> list[Sample]:
    paths = workload.make(CLIPS, work / "clips").values()
    return [workload.sample_of(path, work / "features", work / "aus") for path in paths]


@pytest.fixture(scope="module")
def sides() -> Iterator[Any]:
    sides = end_to_end.Sides(SPEC, SHAPE, "PyAV", decoders.pyav_sequential)
    yield sides
    sides.close()


def test_both_sides_save_the_same_features(sides: Any, samples: list[Sample]) -> None:
    row = sides.compare(samples[0], 2, 3, least=1.0)
    assert row["ok"] is True and row["differences"]["relative_l2"] < 1e-4
    for side in ("gpupeak", "baseline"):
        files = sorted((samples[0].target.parent / side).glob("*.npy"))
        arrays = [np.load(file) for file in files]
        assert [(array.shape, array.dtype.name) for array in arrays] == [((8, 16), "float32")] * 2
        assert row["s_a_sample"][side] == row["seconds"][side]["median_s"] / 2
        assert all(taken > 0 for taken in row["steps_s"][side].values())
    assert row["steps_s"]["gpupeak"].keys() == {"plan", "decode", "encode", "write"}
    assert sum(row["steps_s"]["baseline"].values()) < 2 * row["s_a_sample"]["baseline"]
    (target,) = row["targets"]
    assert target["figure"] == row["ratios"]["baseline"]["median"] and target["limit"] == 1.0
    assert (row["width"], row["frames"], row["torch_threads"]) == (160, 30, torch_threads)


def test_other_pictures_are_noticed(samples: list[Sample]) -> None:
    def upside_down(path: Path, indices: Sequence[int]) -> Any:
        return decoders.pyav_sequential(path, indices)[:, ::-1]

    sides = end_to_end.Sides(SPEC, SHAPE, "upside down", upside_down)
    try:
        assert sides.compare(samples[0], 1, 1, least=1.0)["ok"] is False
        assert sides.alike()["ok"] is False
    finally:
        sides.close()


def test_a_sample_that_fails_is_no_figure(sides: Any, samples: list[Sample]) -> None:
    missing = dataclasses.replace(samples[0], name="not there", video=None)
    with pytest.raises((RuntimeError, AssertionError)):
        sides.compare(missing, 1, 1, least=1.0)


def test_the_baseline_plans_the_frames_that_gpupeak_plans(samples: list[Sample]) -> None:
    for sample, clip in zip(samples, CLIPS, strict=True):
        au_file = sample.au_dirs[0] / sample.name / f"{sample.name}_au_analysis.json"
        assert tuple(baseline.planned(au_file)) == plan_frames(sample, clip.frames, "h264").indices


def test_without_decord_the_row_says_what_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    name, decode = baseline.decoder()
    assert "no decord" in name and decode is decoders.pyav_sequential


def test_the_whole_part_in_small(monkeypatch: pytest.MonkeyPatch, samples: list[Sample], work: Path) -> None:
    monkeypatch.setattr(end_to_end, "VIT_B_32", SHAPE)
    monkeypatch.setattr(end_to_end, "VIT_L_14", SHAPE)
    monkeypatch.setattr(end_to_end, "CLIP_VIT_LARGE", SPEC)
    monkeypatch.setattr(end_to_end, "encoder_spec", lambda name: SPEC)
    monkeypatch.setattr(end_to_end, "decode_clips", lambda scale: [*CLIPS, workload.Clip("vp9", (320, 240), 1)])
    for quick in (True, False):
        each = record.Record(work / f"record-{quick}", {})
        with each.part("end to end"):
            end_to_end.end_to_end(each, workload.Scale(quick, 1), work)
        _, *rows = map(json.loads, each.path.read_text().splitlines())
        sizes = ["ViT-B/32, 160x120", "ViT-B/32, 640x360"]
        assert [row["row"] for row in rows] == [*sizes, "ViT-B/32, features", *([] if quick else ["ViT-L/14, 640x360"])]
        assert all(row["ok"] for row in rows)
        assert [row["targets"][0]["limit"] for row in rows if "targets" in row] == [
            1.0,
            1.0,
            *([] if quick else [0.97]),
        ]
