"""The benchmark of encoders, in small: it compares towers of the same weights, and notices those that are not."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from gpupeak.encode.vit import expected_state
from gpupeak.encode.weights.random import random_state
from gpupeak.encoders import TowerShape

encoders: Any = importlib.import_module("encoders")
record: Any = importlib.import_module("record")
workload: Any = importlib.import_module("workload")

SHAPE = TowerShape(size=224, patch=56, width=64, layers=2, heads=2, dim=16)


def test_the_part_in_small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(encoders, "VIT_B_32", SHAPE)
    found = record.Record(tmp_path, {})
    with found.part("encoding"):
        encoders.encoding(found, workload.Scale(True, 1), tmp_path)
    ceiling, row = found.rows.values()
    assert ceiling["flop_per_s"] > 0
    assert row["ok"] is True, row
    assert list(row["images_per_s"]) == ["gpupeak", "open_clip", "transformers"]
    assert row["images_per_s"]["gpupeak"] == 8 / row["seconds"]["gpupeak"]["median_s"]


def test_a_side_with_another_weight_fails_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = encoders.encoders

    def encoders_(shape: TowerShape, state: dict[str, torch.Tensor], *of: Any) -> Any:
        other = random_state(1, expected_state(shape))["positional_embedding"]
        changed = {**state, "positional_embedding": 0.99 * state["positional_embedding"] + 0.01 * other}
        return {**dict(honest(shape, state, *of)), "open_clip": dict(honest(shape, changed, *of))["open_clip"]}.items()

    monkeypatch.setattr(encoders, "encoders", encoders_)
    assert encoders.rate(SHAPE, images=2, ceiling=1e12, rounds=1, compiling=False)["ok"] is False
