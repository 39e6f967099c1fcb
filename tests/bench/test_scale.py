"""The synthetic line that Ray's overhead is measured with is a line, and what is told of it are medians."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from gpupeak.types import Failed, Sample, SamplingRule, Saved

REPOSITORY = Path(__file__).resolve().parents[2]
scale: Any = importlib.import_module("scale")
bench_record: Any = importlib.import_module("record")


def test_a_line_saves_every_sample_or_fails_it_at_once(tmp_path: Path) -> None:
    samples = [Sample("c", f"s{i}", None, (), SamplingRule("uniform", 8), tmp_path / f"s{i}.npy") for i in range(20)]
    assert all(isinstance(outcome, Failed) for outcome in scale.line(False).run(samples))
    assert list(tmp_path.iterdir()) == []
    outcomes = list(scale.line(True).run(samples))
    assert {outcome.sample for outcome in outcomes} == set(samples)
    assert all(isinstance(outcome, Saved) for outcome in outcomes)
    assert len(list(tmp_path.glob("*.npy"))) == 20


def test_a_point_without_ray_is_a_real_run() -> None:
    point = scale.measured(scale.LOCAL, 60)
    assert 0 < point["start_s"] < 10
    assert point["samples_per_s"] > 0
    assert point["block"] == 1


def test_a_point_by_ray_is_one_in_actors() -> None:
    point = scale.measured(scale.NOTHING, 256)
    assert point["block"] == 16
    assert point["start_s"] > 0.5  # a cluster does not start sooner
    assert point["samples_per_s"] > 0


def test_sides_take_turns_and_medians_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def measured(side: str, count: int) -> dict[str, float]:
        asked.append(side)
        slow = 1 + (len(asked) > 4)
        rate = (1000 if side == scale.LOCAL else 400) / slow
        return {"start_s": 2.0 * slow, "seconds": 1.0, "samples_per_s": rate, "block": 16}

    monkeypatch.setattr(scale, "measured", measured)
    record = bench_record.Record(tmp_path, {}, "scale")
    monkeypatch.setattr(record, "_part", "engine")
    record._began = float("inf")
    scale.engine(record, 100, 3)
    assert [asked[number] for number in (0, 4, 8)] == list(scale.SIDES)[:3]
    row = record.rows["engine: Ray, 1 actor"]
    assert (row["of_local"], row["samples_per_s"], row["start_s"]) == (0.4, 200, 4.0)
    nothing = record.rows[f"engine: {scale.NOTHING}"]
    assert nothing["block_s"] == pytest.approx(16 / 200)
    assert len(nothing["rounds"]) == 3
