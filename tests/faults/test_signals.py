"""Signals, a wall clock that jumps, two runs in one directory: each in small; and no clock but the monotonic one."""

from __future__ import annotations

import ast
import random
import signal
from collections import Counter
from pathlib import Path

import pytest
import signals
from corpus import SMALL, make_corpus
from disk import Trials
from harness import undisturbed

import gpupeak

CALENDAR = {
    ("page.py", "datetime.now"),
    ("run.py", "datetime.now"),
    ("mirror.py", "time.time_ns"),
    ("store.py", "time.time"),
}
"""Where the calendar is asked: for when something was made, and beside the times of files, which are of it, too: which
cached one was used last, and whether another host's temporary one is more than a day old."""


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Trials:
    work = tmp_path_factory.mktemp("signals")
    corpus = make_corpus(work / "corpus", SMALL.few)
    return Trials(corpus, undisturbed(corpus, work / "undisturbed"), random.Random(7), work)


def sound(trials: Trials) -> None:
    assert trials.wrong == []
    assert trials.found["orphans"] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_once_finishes_saves_and_records_what_is_in_hand(number: signal.Signals, trials: Trials) -> None:
    signals.once(trials, number, Counter())
    sound(trials)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_twice_ends_at_once(number: signal.Signals, trials: Trials) -> None:
    signals.twice(trials, number, Counter())
    sound(trials)


def test_at_the_very_start_nothing_is_left_behind(trials: Trials) -> None:
    signals.early(trials, signal.SIGTERM, Counter())
    sound(trials)


def test_a_hangup_is_a_kill(trials: Trials) -> None:
    signals.hangup(trials)
    sound(trials)


@pytest.mark.parametrize("who", ["run", "worker", "all"])
def test_processes_may_be_stopped_for_longer_than_a_sample_may_take(who: str, trials: Trials) -> None:
    signals.stopped(trials, who)
    sound(trials)


def test_the_time_of_day_may_jump(trials: Trials) -> None:
    signals.clock(trials)
    sound(trials)


def test_a_second_run_in_the_same_directory_is_refused(trials: Trials) -> None:
    signals.two_runs(trials)
    sound(trials)


def test_nothing_is_timed_by_the_time_of_day() -> None:
    """`time.time` and its like jump."""
    wall = {"time.time", "time.time_ns", "time.clock_gettime", "datetime.now", "datetime.utcnow", "datetime.today"}
    used = set()
    for path in Path(gpupeak.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in wall:
                used.add((path.name, ast.unparse(node)))
            if isinstance(node, ast.ImportFrom) and node.module == "time":
                used |= {(path.name, f"time.{name.name}") for name in node.names if f"time.{name.name}" in wall}
    assert used <= CALENDAR
