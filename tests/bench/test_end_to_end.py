"""The benchmark from files to files, in small: both sides' features are of the same frames, or it is noticed."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gpupeak.encoders import EncoderSpec, TowerShape

decoders: Any = importlib.import_module("peers.decoders")
end_to_end: Any = importlib.import_module("end_to_end")
record: Any = importlib.import_module("record")
workload: Any = importlib.import_module("workload")

SHAPE = TowerShape(size=224, patch=56, width=64, layers=2, heads=2, dim=16)
SPEC = EncoderSpec("TINY", "TINY", SHAPE.dim, SHAPE.size, "ViT-L-14-quickgelu", "openai", SHAPE)
CLIP = workload.Clip("h264", (160, 120), 1.2)


def test_the_part_in_small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(end_to_end, "VIT_B_32", SHAPE)
    monkeypatch.setattr(end_to_end, "encoder_spec", lambda name: SPEC)
    monkeypatch.setattr(end_to_end, "decode_clips", lambda scale: [CLIP, workload.Clip("vp9", (320, 240), 1)])
    found = record.Record(tmp_path, {})
    with found.part("end to end"):
        end_to_end.end_to_end(found, workload.Scale(True, 1), tmp_path)
    row, features = found.rows.values()
    assert (row["row"], row["ok"], features["ok"]) == ("ViT-B/32, 160x120", True, True)
    assert row["steps_s"]["gpupeak"].keys() == {"plan", "decode", "encode", "write"}
    assert row["targets"][0]["figure"] == row["ratios"]["baseline"]["median"]


def test_other_pictures_fail_the_row(tmp_path: Path) -> None:
    def upside_down(path: Path, indices: Sequence[int]) -> Any:
        return decoders.pyav_sequential(path, indices)[:, ::-1]

    (path,) = workload.make([CLIP], tmp_path / "clips").values()
    with closing(end_to_end.Sides(SPEC, SHAPE, "upside down", upside_down)) as sides:
        each = workload.sample_of(path, tmp_path / "features", tmp_path / "aus")
        assert sides.compare(each, 1, 1, least=1.0)["ok"] is False
