"""Kills, the nine datasets in small, a list of some thousands, and a quarter of a minute of faults."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import kills, load, soak
from faults.corpus import SMALL


def test_killed_runs_lose_nothing_and_leave_nothing_torn(tmp_path: Path) -> None:
    found = kills.run(SMALL, 7, tmp_path)
    assert found["ok"], found
    assert found["kills"] == SMALL.kills
    assert found["files_checked"] == SMALL.clips * found["directories"]


@pytest.mark.slow
def test_the_nine_datasets_go_through_and_are_looked_at_meanwhile(tmp_path: Path) -> None:
    found = load.benchmark(SMALL.divisor, tmp_path)
    assert found["ok"], found
    assert found["datasets"] == 9
    assert 60 < found["peak_mib"] < 1000


def test_a_long_list_takes_bounded_memory_to_plan(tmp_path: Path) -> None:
    found = load.plan(SMALL.listed, tmp_path)
    assert found["ok"], found
    assert found["bytes_a_sample"] > 0


@pytest.mark.slow
def test_a_while_of_faults_leaves_what_an_undisturbed_run_makes(tmp_path: Path) -> None:
    found = soak.run(SMALL, 7, tmp_path)
    assert found["ok"], found
    assert found["torn_files"] == found["lost_samples"] == 0
