"""How time and memory grow: points from processes of their own, the lines through them, and what is said of both."""

from __future__ import annotations

import importlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
growth: Any = importlib.import_module("growth")
bench_record: Any = importlib.import_module("record")
workload: Any = importlib.import_module("workload")


def test_a_fit_is_the_line_through_the_points_and_how_much_it_explains() -> None:
    line = growth.fit([{"needed": x, "sample_ms": 3 + 0.5 * x} for x in (10, 40, 20, 80)], "needed", "sample_ms")
    assert (line["slope"], line["start"], line["r2"]) == pytest.approx((0.5, 3, 1))
    beside = [{"needed": x, "sample_ms": y} for x, y in ((0, 1), (0, -1), (4, 1), (4, -1))]
    assert growth.fit(beside, "needed", "sample_ms")["r2"] == pytest.approx(0)


def test_a_point_is_a_real_run_of_the_line_in_a_process_of_its_own(
    clip_of: Callable[[str], Path], tmp_path: Path
) -> None:
    point = growth.measured(tmp_path, 30, clip_of("h264"), 4, workers=2)
    assert (point["samples"], point["workers"], len(point["parts_s"])) == (30, 2, 10)
    assert sum(point["parts_s"]) == pytest.approx(point["seconds"])
    assert point["samples_per_s"] == pytest.approx(30 / point["seconds"])
    assert 0 < point["sample_ms"] < 1000 * point["seconds"]
    assert point["peak_mib"] > 60  # three processes that have NumPy and libav loaded
    assert list(tmp_path.iterdir()) == []

    alone = growth.measured(tmp_path, 20, None, workers=1)
    assert (alone["workers"], alone["sample_ms"]) == (0, 0)
    assert alone["peak_mib"] < point["peak_mib"]


def test_a_point_that_cannot_be_measured_says_why(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(RuntimeError, match="sample_00000000: "):
        growth.measured(tmp_path, 1, tmp_path / "text.mp4", workers=1)


def test_the_most_memory_is_seen_after_it_was_given_back() -> None:
    code = "import json, os, sys; sys.path.append(sys.argv[1]); from growth import highest_mib as mib; "
    code += "before = mib(os.getpid()); b'x' * (200 << 20); print(json.dumps([before, mib(os.getpid())]))"
    before, after = growth.answer("-c", code, str(REPOSITORY / "bench"))
    assert 190 < after - before < 250


def points(monkeypatch: pytest.MonkeyPatch, mib_a_sample: float = 0.0, slowing: float = 1.0) -> None:
    """Stand in for what is measured: 1 ms a sample, in the second half of a run `slowing` times as much."""

    numbers = itertools.count(1)

    def measured(work: Path, count: int, video: Path | None, n: int = 8, *, workers: int) -> dict[str, Any]:
        each = count / 10_000
        parts = [each, 9 * each, *[each] * 3, *[slowing * each] * 4, 7 * each]  # two of them disturbed
        return {
            "samples": count,
            "workers": workers,
            "seconds": sum(parts),
            "parts_s": parts,
            "samples_per_s": workers * 1000,
            "sample_ms": float(next(numbers)),
            "peak_mib": 100 + mib_a_sample * count,
        }

    monkeypatch.setattr(growth, "measured", measured)


@pytest.mark.parametrize(
    ("mib_a_sample", "slowing", "memory", "rate"), [(0, 1, 1, 1), (0.01, 1, 200 / 110, 1), (0, 2, 1, 1 / 2)]
)
def test_what_piles_up_is_noticed_and_what_disturbs_is_not(
    monkeypatch: pytest.MonkeyPatch, mib_a_sample: float, slowing: float, memory: float, rate: float
) -> None:
    points(monkeypatch, mib_a_sample, slowing)
    row = growth.by_samples((100, 1000, 10_000), Path("nowhere"))
    assert [target["figure"] for target in row["targets"]] == pytest.approx([memory, rate])
    assert [target["sign"] for target in row["targets"]] == ["<=", ">="]
    assert row["fit"]["r2"] == pytest.approx(1)


def test_finished_files_are_skipped_by_the_real_command(tmp_path: Path) -> None:
    row = growth.by_finished((2, 12), tmp_path)
    assert [point["files"] for point in row["points"]] == [2, 12]
    assert all(0 < point["seconds"] < 60 for point in row["points"])
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_that_skipped_others_than_all_is_no_measurement(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "sample_00000000.mp4").touch()
    home = growth.feature_directory(tmp_path / "out", "growth", "CLIP_VIT_LARGE", "uniform", 8)
    home.mkdir(parents=True)
    np.save(home / "sample_00000000.npy", np.zeros((8, 768), np.float32))
    with pytest.raises(RuntimeError, match="1 of 2 finished samples were skipped"):
        growth.resumed(tmp_path, 2)


@pytest.mark.parametrize("scale", [workload.QUICK, workload.FULL])
def test_every_row_has_its_points(
    scale: Any, clip_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points(monkeypatch)
    monkeypatch.setattr(growth, "resumed", lambda root, count: 0.5 + count / 1e5)
    kinds = ("h264", "h264_slices")
    drawn: list[Any] = []

    def make(clips: list[Any], directory: Path) -> dict[Any, Path]:
        drawn.extend(clips)
        return {clip: clip_of(kinds[number % 2]) for number, clip in enumerate(clips)}

    monkeypatch.setattr(growth, "make", make)
    record = bench_record.Record(tmp_path, {}, "bench")
    with record.part("growth"):
        growth.growth(record, scale, tmp_path)
    rows = {row["row"]: row for row in map(json.loads, record.path.read_text().splitlines()[1:])}
    assert [name for name, row in rows.items() if row.get("ok") is False] == []
    assert len({clip.size for clip in drawn}) >= 3
    assert len({clip.gop for clip in drawn}) >= 2
    most = 2000 if scale.quick else 10_000
    assert rows["samples, the line alone"]["points"][-1]["samples"] == most
    assert [point["files"] for point in rows["finished files"]["points"]][-1] == most
    assert rows["finished files"]["fit"]["slope"] == pytest.approx(1e-5)
    assert {point["gop"] for point in rows["GOP length"]["points"]} == {48, 12}
    assert {point["n"] for point in rows["frames a sample"]["points"]} >= {4, 8, 32}
    assert rows["workers"]["times"] == pytest.approx(2)
    assert {"fit", "says"} <= rows["frames that have to be decoded"].keys()
