"""Disks and descriptors that fail a run, signals, a clock that jumps, two runs in one directory: each in small."""

from __future__ import annotations

from pathlib import Path

import disk
import pytest
import signals
from corpus import SMALL
from disk import Trials, prepared
from harness import look

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


def test_a_torn_line_is_seen(tmp_path: Path) -> None:
    line = b'{"sample":"a","outcome":"saved"}\n'
    (tmp_path / "manifest.jsonl").write_bytes(line + line + b'{"sam')
    tree = look(tmp_path)
    assert (tree.doubled_lines, tree.unreadable_lines) == (1, 1)
