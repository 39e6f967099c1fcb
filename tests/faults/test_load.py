"""The nine datasets in small, a list of some thousands, and a quarter of a minute of faults."""

from __future__ import annotations

from pathlib import Path

import load
import soak
from corpus import SMALL


def test_the_nine_datasets_go_through_and_are_looked_at_meanwhile(tmp_path: Path) -> None:
    found = load.benchmark(SMALL.divisor, tmp_path)
    assert found["ok"], found
    assert found["datasets"] == 9
    assert (found["lost_samples"], found["doubled_samples"], found["fallbacks"]) == (0, 0, 0)
    assert 60 < found["peak_mib"] < 1000
    assert found["files_second"] >= 9, "the directories' locks alone are as many"


def test_a_long_list_takes_bounded_memory_to_plan(tmp_path: Path) -> None:
    found = load.plan(SMALL.listed, tmp_path)
    assert found["ok"], found
    assert found["listed"] == SMALL.listed
    assert found["bytes_a_sample"] > 0


def test_a_while_of_faults_leaves_what_an_undisturbed_run_makes(tmp_path: Path) -> None:
    found = soak.run(SMALL, 7, tmp_path)
    assert found["ok"], found
    assert found["directories"] >= 1
    assert found["torn_files"] == found["lost_samples"] == 0
