"""The benchmark of encoders, in small: it compares towers of the same weights, and notices those that are not."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from gpupeak.encode.vit import VisionTower, expected_state
from gpupeak.encode.weights.random import random_state
from gpupeak.encoders import TowerShape

encoders: Any = importlib.import_module("encoders")
record: Any = importlib.import_module("record")
workload: Any = importlib.import_module("workload")

SHAPE = TowerShape(size=224, patch=56, width=64, layers=2, heads=2, dim=16)
SIDES = ["gpupeak", "open_clip", "transformers"]
CPU = (torch.device("cpu"), torch.float32)


def rate(**changes: Any) -> Any:
    return encoders.rate(SHAPE, **{"images": 2, "ceiling": 1e12, "rounds": 2, "compiling": False, **changes})


def test_a_row_tells_what_was_measured() -> None:
    row = rate()
    assert row["ok"] is True
    assert list(row["images_per_s"]) == SIDES
    assert row["differences"].keys() == set(SIDES[1:])
    for side in SIDES:
        assert row["images_per_s"][side] == 2 / row["seconds"][side]["median_s"]
        flop_per_s = row["of_ceiling"][side] * 1e12
        assert flop_per_s == pytest.approx(row["images_per_s"][side] * encoders.flop_per_image(SHAPE))
    (target,) = row["targets"]
    assert target["figure"] == row["ratios"]["transformers"]["median"]
    assert (target["sign"], target["limit"]) == (">=", 0.97)
    assert f"{target['figure']:.2f}" in row["says"]


def test_a_side_with_one_other_weight_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = encoders.encoders

    def encoders_(shape: TowerShape, state: dict[str, torch.Tensor], *of: Any) -> Any:
        sides = dict(honest(shape, state, *of))
        other = random_state(1, expected_state(shape))["positional_embedding"]
        changed = {**state, "positional_embedding": 0.99 * state["positional_embedding"] + 0.01 * other}
        return {**sides, "open_clip": dict(honest(shape, changed, *of))["open_clip"]}.items()

    monkeypatch.setattr(encoders, "encoders", encoders_)
    assert rate()["ok"] is False


def test_every_parameter_finds_its_place_in_each_side() -> None:
    pixels = tiny.images(2, 224)
    sides: dict[str, Callable[[torch.Tensor], torch.Tensor]]
    for name, value in random_state(0, expected_state(SHAPE)).items():
        state = {**random_state(0, expected_state(SHAPE)), name: value + 0.1 * torch.randn(value.shape)}
        with torch.inference_mode():
            sides = dict(encoders.encoders(SHAPE, state, *CPU))
            wanted = tiny.reference(state, pixels, SHAPE)
            assert {
                side: tiny.difference(encode(pixels), wanted) < 1e-4 for side, encode in sides.items()
            } == dict.fromkeys(SIDES, True), name


def test_the_others_are_given_pixels_once_normalised_and_new_ones_anew() -> None:
    seen: list[torch.Tensor] = []
    tower = encoders.Normalised(lambda images: seen.append(images) or images)
    first, second = tiny.images(2, 224), tiny.images(3, 224)
    for pixels in (first, first, second):
        tower(pixels)
    assert seen[0] is seen[1]
    for images, pixels in zip(seen[1:], (first, second), strict=True):
        torch.testing.assert_close(images, tiny.normalised(pixels))


def test_the_whole_part_in_small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two blocks in place of all of them; a compiler that is not there costs no row."""

    def no_compiler(tower: Callable[..., torch.Tensor], **options: Any) -> Callable[..., torch.Tensor]:
        def fail(pixels: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no C++ compiler\n(and more)")

        assert isinstance(tower, VisionTower)
        return fail

    monkeypatch.setattr(encoders, "VIT_B_32", SHAPE)
    monkeypatch.setattr(encoders, "VIT_L_14", SHAPE)
    monkeypatch.setattr(torch, "compile", no_compiler)
    for quick, names in ((True, ["ViT-B/32"]), (False, ["ViT-B/32", "ViT-L/14"])):
        each = record.Record(tmp_path / str(quick), {})
        with each.part("encoding"):
            encoders.encoding(each, workload.Scale(quick, 1), tmp_path)
        _, ceiling, *rows = map(json.loads, each.path.read_text().splitlines())
        assert [row["row"] for row in rows] == names
        assert all(row["ok"] and row["images"] == 8 for row in rows)
        assert ceiling["flop_per_s"] == pytest.approx(2 * 2048**3 / ceiling["median_s"], rel=1e-3)
        assert rows[0].get("compile_failed") == (None if quick else "RuntimeError: no C++ compiler")
        assert list(rows[0]["images_per_s"]) == SIDES
