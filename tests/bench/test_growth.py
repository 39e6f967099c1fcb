"""How time and memory grow: points are real runs in processes of their own, and what piles up is told."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

growth: Any = importlib.import_module("growth")
bench_record: Any = importlib.import_module("record")
workload: Any = importlib.import_module("workload")


def test_a_point_is_a_real_run(clip_of: Callable[[str], Path], tmp_path: Path) -> None:
    point = growth.measured(tmp_path, 30, clip_of("h264"), workers=1)
    assert (point["samples"], point["workers"]) == (30, 1)
    assert 0 < point["sample_ms"] < 1000 * point["seconds"]
    assert point["peak_mib"] > 60  # two processes that have NumPy and libav loaded
    assert list(tmp_path.iterdir()) == []


def test_a_point_that_cannot_be_measured_says_why(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(RuntimeError, match="sample_00000000: "):
        growth.measured(tmp_path, 1, tmp_path / "text.mp4", workers=1)


def test_every_row_has_its_points_and_what_piles_up_is_told(
    clip_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(work: Path, count: int, video: Path | None, *, workers: int) -> dict[str, Any]:
        """1 ms a sample, 2 in the second half of a run; 10 kB a sample that nobody gives back."""
        parts = [count / 10_000] * 5 + [count / 5_000] * 5
        figures = {"seconds": sum(parts), "parts_s": parts, "samples_per_s": 1000 * workers}
        return {**figures, "samples": count, "workers": workers, "sample_ms": count, "peak_mib": 100 + 0.01 * count}

    monkeypatch.setattr(growth, "measured", measured)
    monkeypatch.setattr(growth, "resumed", lambda root, count: 0.5 + count / 1e5)
    monkeypatch.setattr(
        growth,
        "make",
        lambda clips, _: {c: clip_of(k) for c, k in zip(clips, ["h264", "h264_slices"] * 9, strict=False)},
    )
    record = bench_record.Record(tmp_path, {}, "bench")
    with record.part("growth"):
        growth.growth(record, workload.QUICK, tmp_path)
    rows = {row["row"]: row for row in record.rows.values()}
    assert list(rows) == ["samples, the line alone", "samples, decoding", "workers", "finished files"]
    assert [target["figure"] for target in rows["samples, the line alone"]["targets"]] == [120 / 110, 0.5]
    assert rows["workers"]["times"] == 2
    assert rows["finished files"]["fit"]["slope"] == pytest.approx(1e-5)
