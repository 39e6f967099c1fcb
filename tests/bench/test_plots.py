"""What is drawn of a record: the figures that are in it, and nothing where there are none."""

from __future__ import annotations

import builtins
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
plots: Any = importlib.import_module("plots")

FIT = {"x": "needed", "y": "sample_ms", "slope": 0.75, "start": 15.0, "r2": 0.9876}
ROWS: list[dict[str, Any]] = [
    {
        "part": "growth",
        "row": "samples, the line alone",
        "points": [
            {"samples": 100, "parts_s": [0.025, 0.125], "peak_mib": 60.0},
            {"samples": 1000, "parts_s": [0.3, 0.2], "peak_mib": 61.0},
        ],
    },
    {
        "part": "growth",
        "row": "GOP length",
        "points": [{"gop": 12.0, "n": 8, "needed": 33, "sample_ms": 40.0}],
    },
    {
        "part": "growth",
        "row": "frames a sample",
        "points": [{"gop": 50.0, "n": 4, "needed": 49, "sample_ms": 52.0}],
    },
    {"part": "growth", "row": "frames that have to be decoded", "fit": FIT},
    {"part": "growth", "row": "workers", "ok": False},
    {
        "part": "decoding",
        "row": "clip",
        "seconds": {
            "gpupeak": {"median_s": 0.05},
            "bound": {"median_s": 0.04},
            "decord": {"median_s": 0.1},
            "PyAV seeking": {"median_s": 0.2},
            "PyAV sequential": {"median_s": 0.15},
        },
        "ratios": {"decord": {"median": 2.5}},
    },
    {"part": "decoding", "row": "a peer that is missing"},
    {"part": "decoding", "row": "a clip without us", "seconds": {"decord": {"median_s": 0.1}}},
    {"part": "planning", "row": "every clip", "seconds": {"gpupeak": 0.001}},
]


@pytest.fixture
def record(tmp_path: Path) -> Path:
    path = tmp_path / "bench.jsonl"
    path.write_text("\n".join(map(json.dumps, [{"conditions": {"cpu": " EPYC", "commit": "abc"}}, *ROWS])))
    return path


def test_growth_is_what_the_rows_hold(record: Path) -> None:
    conditions, rows = plots.read(record)
    assert conditions["commit"] == "abc"
    time, memory, needed = plots.growth_panels(rows)
    assert time.series[0].points == [(100, 0.5), (1000, 0.4)]  # ms a sample, of the faster part
    assert memory.series[0].points == [(100, 60), (1000, 61)]
    assert (time.log_x, needed.log_x) == (True, False)
    assert [series.points for series in needed.series] == [[(33, 40)], [(49, 52)]]
    assert [series.labels for series in needed.series] == [["GOP 12"], ["n 4"]]
    assert needed.line == (0.75, 15.0)
    assert needed.says == "0.75 ms a frame, R² 0.988"


def test_decoding_is_ours_in_ms_and_the_others_in_times_of_it(record: Path) -> None:
    times = plots.decoding_times(plots.read(record)[1])
    assert list(times) == ["clip"]
    ours, others = times["clip"]
    assert ours == 50
    # Round by round where there are ratios, and of a library's ways the best.
    assert others == pytest.approx({"bound": 0.8, "decord": 2.5, "PyAV": 3})


def test_a_record_of_other_parts_gives_no_plots(record: Path) -> None:
    rows = {"encoding: ViT-B/32": {"seconds": {"gpupeak": {"median_s": 1.0}}}}
    assert plots.growth_panels(rows) == []
    assert plots.decoding_times(rows) == {}


def test_conditions_are_told_in_a_line() -> None:
    told = plots.told({"cpu": " AMD EPYC", "cores": 2, "gpu": None, "commit": "abc"})
    assert told == "AMD EPYC, 2 cores, gpupeak abc, clips drawn by code, weights from a seed"


def test_without_matplotlib_it_says_so(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., Any] = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "matplotlib":
            raise ImportError("No module named 'matplotlib'")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    assert plots.draw(record, record.parent / "out") == {"says": "left out: No module named 'matplotlib'"}
    assert not (record.parent / "out").exists()
