"""Signals, a wall clock that jumps, two runs in one directory: each in small."""

from __future__ import annotations

import signal
from collections import Counter

import pytest
import signals
from disk import Trials

BOTH = [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_once_finishes_saves_and_records_what_is_in_hand(number: signal.Signals, trials: Trials) -> None:
    signals.once(trials, number, Counter())
    assert trials.sound(), trials.wrong


@pytest.mark.parametrize("number", BOTH)
def test_twice_ends_at_once(number: signal.Signals, trials: Trials) -> None:
    signals.twice(trials, number, Counter())
    assert trials.sound(), trials.wrong


@pytest.mark.slow
def test_at_the_very_start_nothing_is_left_behind(trials: Trials) -> None:
    signals.early(trials, signal.SIGTERM, Counter())
    assert trials.sound(), trials.wrong


@pytest.mark.slow
def test_a_hangup_is_a_kill(trials: Trials) -> None:
    signals.hangup(trials)
    assert trials.sound(), trials.wrong


@pytest.mark.slow
@pytest.mark.parametrize("who", ["run", "worker", "all"])
def test_processes_may_be_stopped_for_longer_than_a_sample_may_take(who: str, trials: Trials) -> None:
    signals.stopped(trials, who)
    assert trials.sound(), trials.wrong


def test_the_time_of_day_may_jump(trials: Trials) -> None:
    signals.clock(trials)
    assert trials.sound(), trials.wrong


@pytest.mark.slow
def test_a_second_run_in_the_same_directory_is_refused(trials: Trials) -> None:
    signals.two_runs(trials)
    assert trials.sound(), trials.wrong
