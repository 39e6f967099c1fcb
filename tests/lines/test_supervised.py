"""The supervised line: a child that dies or hangs costs the sample it was at, and nothing else."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from samples import sample
from synthetic_lines import assert_stops, make_dead_line, make_line, make_no_line, names

from gpupeak.errors import DeviceError, RunError
from gpupeak.lines import Recipe
from gpupeak.lines.supervised import SupervisedLine
from gpupeak.storage.places import local
from gpupeak.types import Failed, Saved

TORCHS = "AcceleratorError" if hasattr(torch, "AcceleratorError") else "RuntimeError"
RECIPE: Recipe = (make_line, ("synthetic", 0.0, None))


@pytest.fixture(autouse=True)
def _children_import_this_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


def test_outcomes_come_back_and_a_line_serves_more_than_one_run(tmp_path: Path) -> None:
    told: list[str] = []
    (pids := tmp_path / "pids").mkdir()
    line = SupervisedLine((make_line, ("synthetic", 0.0, pids)), told.append, window=16)
    assert (line.device, told) == ("synthetic", ["a synthetic line"])
    for run in ("a", "b"):
        outcomes = list(line.run(sample(tmp_path, f"{run}{i}") for i in range(50)))
        assert names(outcomes) == sorted(f"{run}{i}" for i in range(50))
        assert all(isinstance(o, Saved) and local(o.sample.target).exists() for o in outcomes)
    line.close()
    (pid,) = pids.iterdir()
    assert not Path("/proc", pid.name).exists()


@pytest.mark.parametrize(
    ("fault", "how"),
    [
        ("deadly", "was ended by SIGKILL"),
        ("hang", "gave no answer within the time limit"),
        ("AcceleratorError", f"failed with {TORCHS}: CUDA error: an illegal memory access was encountered"),
        ("IndexError", "failed with IndexError: vector::_M_range_check"),
    ],
)
def test_a_sample_that_ends_the_child_twice_is_decoded_on_the_cpu(tmp_path: Path, fault: str, how: str) -> None:
    samples = [sample(tmp_path, f"good{i}") for i in range(20)]
    samples[7:7] = [sample(tmp_path, f"{fault} on NVDEC")]
    told: list[str] = []
    line = SupervisedLine(RECIPE, told.append, window=20, time_limit=1.0 if fault == "hang" else 60.0)
    outcomes = list(line.run(samples))
    line.close()
    assert names(outcomes) == sorted(s.name for s in samples), "one outcome each"
    assert all(isinstance(o, Saved) for o in outcomes)
    assert [text for text in told if text != "a synthetic line"] == [
        f"synthetic: the line {how}; it is started again, what it had goes one by one",
        f"synthetic: mine/{fault} on NVDEC is decoded on the CPU: the line {how}, twice",
    ]
    assert told.count("a synthetic line") == 3, "no good sample has ended it"


@pytest.mark.parametrize(
    ("on_cpu", "starts", "times"),
    [(False, 6, "the third time on this sample, then"), (True, 4, "twice on this sample,")],
)
def test_what_ends_the_child_on_the_cpu_too_has_failed(tmp_path: Path, on_cpu: bool, starts: int, times: str) -> None:
    """Where all are decoded there, another try would be the same one again."""
    samples = [sample(tmp_path, f"good{i}") for i in range(20)]
    samples[7:7] = [sample(tmp_path, "deadly0"), sample(tmp_path, "deadly1")]
    told: list[str] = []
    line = SupervisedLine(RECIPE, told.append, window=30, on_cpu=on_cpu)
    outcomes = list(line.run(samples))
    line.close()
    assert names(outcomes) == sorted(s.name for s in samples), "one outcome each"
    failed = {o.sample.name: o.reason for o in outcomes if isinstance(o, Failed)}
    reason = f"the GPU line was ended by SIGKILL, {times} decoded on the CPU"
    assert failed == {"deadly0": reason, "deadly1": reason}
    assert told.count("a synthetic line") == starts


def test_an_nvdec_that_no_sample_survives_ends_the_run(tmp_path: Path) -> None:
    line = SupervisedLine(RECIPE, print, window=20)
    with pytest.raises(RunError, match="the GPU line failed 10 times in a row, the last time it was ended by SIGKILL"):
        list(line.run(sample(tmp_path, f"deadly{i} on NVDEC") for i in range(30)))
    line.close()


def test_stopping_leaves_the_rest_without_an_outcome(tmp_path: Path) -> None:
    line = SupervisedLine(RECIPE, print, window=8)
    assert_stops(line, (sample(tmp_path, str(i)) for i in range(100_000)), tmp_path, most=100)
    line.close()


def test_a_line_that_cannot_be_built_says_why() -> None:
    with pytest.raises(DeviceError, match="there is no such GPU"):
        SupervisedLine((make_no_line, ()), print)
    with pytest.raises(RunError, match="the GPU line cannot start: it exited with code 9"):
        SupervisedLine((make_dead_line, ()), print)
