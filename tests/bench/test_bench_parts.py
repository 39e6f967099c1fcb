"""Every part of the benchmark in small: its sides do the same work, and what is wrong is noticed."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clips import write_clip
from synthetic import SyntheticEncoder

from gpupeak.decode import decode_frames
from gpupeak.decode.pool import WorkerPool
from gpupeak.demo.corpus import EXPRESSIONS, write_openface
from gpupeak.demo.corpus import Clip as Performance
from gpupeak.encode.vit import expected_state
from gpupeak.encode.weights.random import random_state
from gpupeak.encoders import EncoderSpec, TowerShape
from gpupeak.features.writer import NpyWriter
from gpupeak.lines.build import Parts

decoders: Any = importlib.import_module("peers.decoders")
encoders: Any = importlib.import_module("encoders")
end_to_end: Any = importlib.import_module("end_to_end")
growth: Any = importlib.import_module("growth")
profiling: Any = importlib.import_module("profiling")
record: Any = importlib.import_module("record")
stages: Any = importlib.import_module("stages")
workload: Any = importlib.import_module("workload")

ClipOf = Callable[[str], Path]
INDICES = [0, 7, 20, 21, 22, 23, 24, 30]
SHAPE = TowerShape(size=224, patch=56, width=64, layers=2, heads=2, dim=16)
SPEC = EncoderSpec("TINY", "TINY", SHAPE.dim, SHAPE.size, "ViT-L-14-quickgelu", "openai", SHAPE)
CLIP = workload.Clip("h264", (160, 120), 1.2)


def measured(directory: Path, *parts: Callable[..., None]) -> dict[str, dict[str, Any]]:
    """The rows of parts, none of which failed."""
    found = record.Record(directory / "record", {})
    for part in parts:
        with found.part(part.__name__):
            part(found, dataclasses.replace(workload.QUICK, rounds=1), directory)
    rows: dict[str, dict[str, Any]] = found.rows
    assert [name for name, row in rows.items() if row.get("ok") is False] == []
    return rows


@pytest.mark.parametrize("kind", ["h264_open_gop", "h264_edit_list", "mpeg4_avi_b"])
def test_the_bound_decodes_what_gpupeak_decodes(clip_of: ClipOf, kind: str) -> None:
    assert np.array_equal(stages.Bound(clip_of(kind), INDICES)(), decode_frames(clip_of(kind), INDICES))


def test_wrong_frames_are_counted(clip_of: ClipOf) -> None:
    pictures = decode_frames(clip_of("h264"), range(48))
    for wrong, rows in {0: INDICES, 8: [i + 1 for i in INDICES], 1: [*INDICES[:-1], 29]}.items():
        shown = pictures[rows]
        assert stages.judge(shown.copy, INDICES, dict(enumerate(pictures)))["wrong"] == wrong


def test_every_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the peers that this environment does not have."""
    (tmp_path / "clips").mkdir()
    paths = {"clip": write_clip(tmp_path / "clips/clip.mp4", options={"g": "12", "bf": "0"})}
    write_openface(Performance("bench", "clip", 48, 30, EXPRESSIONS[0], None), tmp_path / "aus")
    for package in ("decord", "torchcodec", "cv2"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(stages, "make", lambda clips, directory: paths)
    monkeypatch.setattr(stages, "real_clips", list)
    rows = measured(tmp_path, stages.planning, stages.decoding, stages.loading)
    missing = [name for name, row in rows.items() if row["says"].startswith("left out")]
    assert missing == ["decoding: decord", "decoding: torchcodec", "decoding: OpenCV"]
    assert {judged["wrong"] for judged in rows["decoding: clip"]["judged"].values()} == {0}
    whats = [target["what"] for target in rows["decoding: every clip"]["targets"]]
    assert whats == ["the fastest peer / gpupeak", "gpupeak / bound"]


def test_encoders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(encoders, "VIT_B_32", SHAPE)
    _, row = measured(tmp_path, encoders.encoding).values()
    assert list(row["images_per_s"]) == ["gpupeak", "open_clip", "transformers"]
    assert row["images_per_s"]["gpupeak"] == 8 / row["seconds"]["gpupeak"]["median_s"]


def test_a_side_with_another_weight_fails_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = encoders.encoders

    def encoders_(shape: TowerShape, state: dict[str, torch.Tensor], *of: Any) -> Any:
        other = random_state(1, expected_state(shape))["positional_embedding"]
        changed = {**state, "positional_embedding": 0.99 * state["positional_embedding"] + 0.01 * other}
        return {**dict(honest(shape, state, *of)), "open_clip": dict(honest(shape, changed, *of))["open_clip"]}.items()

    monkeypatch.setattr(encoders, "encoders", encoders_)
    assert encoders.rate(SHAPE, 2, 1e12, 1)["ok"] is False


def test_from_files_to_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(end_to_end, "VIT_B_32", SHAPE)
    monkeypatch.setattr(end_to_end, "encoder_spec", lambda name: SPEC)
    monkeypatch.setattr(end_to_end, "decode_clips", lambda scale: [CLIP, workload.Clip("vp9", (320, 240), 1)])
    (row,) = measured(tmp_path, end_to_end.end_to_end).values()
    assert row["row"] == "ViT-B/32, 160x120"
    assert row["steps_s"]["gpupeak"].keys() == {"plan", "decode", "encode", "write"}


def test_other_pictures_fail_the_row(tmp_path: Path) -> None:
    def upside_down(path: Path, indices: Sequence[int]) -> Any:
        return decoders.pyav_sequential(path, indices)[:, ::-1]

    (path,) = workload.make([CLIP], tmp_path / "clips").values()
    with closing(end_to_end.Sides(SPEC, SHAPE, "upside down", upside_down)) as sides:
        each = workload.sample_of(path, tmp_path / "features", tmp_path / "aus")
        assert sides.compare(each, 1, 1, least=1.0)["ok"] is False


def test_growth_is_measured_on_real_runs(clip_of: ClipOf, tmp_path: Path) -> None:
    row = growth.by_samples((10, 20), tmp_path, clip_of("h264"))
    for point, samples in zip(row["points"], (10, 20), strict=True):
        assert (point["samples"], point["workers"]) == (samples, 1)
        assert 0 < point["sample_ms"] < 1000 * point["seconds"]
        assert point["peak_mib"] > 60  # two processes that have NumPy and libav loaded
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(RuntimeError, match="sample_00000000: "):
        growth.measured(tmp_path, 1, tmp_path / "text.mp4", workers=1)


def test_a_profile_has_the_stages_times_and_torchs_trace(
    clip_of: ClipOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = Parts(WorkerPool(1), SyntheticEncoder(8, 224), NpyWriter(), "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(profiling, "make", lambda asked, directory: {"clip": clip_of("h264")})
    monkeypatch.setattr(profiling, "build", lambda config, spec, n, tell: parts)

    def profile(*given: Any) -> None:
        profiling.profile(*given, tmp_path / "trace.json")

    (line,) = measured(tmp_path, profile).values()
    assert line["samples"] == 3
    assert set(line["ms_per_sample"]) == {"plan", "decode", "encode", "write"}
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
