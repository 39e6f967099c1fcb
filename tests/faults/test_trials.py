"""Disks and descriptors that fail a run, signals, a clock that jumps, two runs in one directory: each in small."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import disk, signals
from faults.corpus import SMALL
from faults.disk import Trials, prepared

FAULTS = {**disk.FAULTS, **signals.FAULTS}
QUICK = ("disk_full", "not_permitted", "SIGINT once", "SIGTERM once", "SIGINT twice", "clock")


@pytest.fixture(scope="module")
def undisturbed_trials(tmp_path_factory: pytest.TempPathFactory) -> Trials:
    return prepared(tmp_path_factory.mktemp("faults"), SMALL.few, seed=7)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAULTS]
)
def test_a_run_ends_as_promised_and_the_next_one_makes_it_good(
    name: str, undisturbed_trials: Trials, tmp_path: Path
) -> None:
    trials = Trials(undisturbed_trials.corpus, undisturbed_trials.expected, undisturbed_trials.draw, tmp_path)
    FAULTS[name](trials)
    assert trials.sound(), trials.wrong
    assert trials.happened.total() or trials.left_out
