"""Looking at many files: in order, one by one as long as none waits, and many at once where they do."""

from __future__ import annotations

import itertools
import math
import select
import threading
from functools import partial
from typing import Any

import pytest

from gpupeak.child import Child
from gpupeak.storage.overlap import overlapped


@pytest.mark.parametrize("slow_from", [0, 100, 1000])
def test_files_are_looked_at_in_order_by_threads_from_where_they_wait(slow_from: int) -> None:
    def look(number: int) -> tuple[int, threading.Thread]:
        if number >= slow_from:
            threading.Event().wait(0.001)
        return number, threading.current_thread()

    found = list(overlapped(look, range(400)))

    assert [number for number, _ in found] == list(range(400))
    here = [number for number, thread in found if thread is threading.current_thread()]
    assert here == list(range(len(here)))
    assert len(here) == 400 if slow_from == 1000 else slow_from <= len(here) < slow_from + 40


def test_what_looking_raises_is_raised_and_what_nobody_takes_is_left() -> None:
    looked: list[int] = []

    def look(number: int) -> int:
        looked.append(number)
        threading.Event().wait(0.001)
        if number == 50:
            raise OSError("gone")
        return number

    with pytest.raises(OSError, match="gone"):
        list(overlapped(look, range(100_000)))
    assert len(looked) < 2000


@pytest.mark.parametrize("killed", [False, True])
def test_processes_find_all_in_order_though_they_are_killed(killed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    children: list[Child] = []

    def started(*arguments: Any) -> Child:
        children.append(child := Child(*arguments))
        if killed:
            child.process.kill()
        return child

    monkeypatch.setattr("gpupeak.storage.overlap.SECONDS_ALONE", 0)
    monkeypatch.setattr("gpupeak.storage.overlap.Child", started)
    numbers = range(4000, 4600)  # a millisecond each
    assert list(overlapped(math.factorial, numbers, processes=True)) == list(map(math.factorial, numbers))
    waits = partial(select.select, [], [], [])
    looks: list[tuple[Any, float, float]] = [(math.factorial, 4000, -1), (waits, 0.001, -0.1)]
    for function, usual, wrong in looks:
        found = overlapped(function, [*[usual] * 400, wrong], processes=True)
        assert len(list(itertools.islice(found, 200))) == 200
        with pytest.raises(ValueError, match="negative"):
            list(found)
    assert children and all(child.process.returncode for child in children)


def test_what_only_waits_is_left_to_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpupeak.storage.overlap.Child", None)
    assert not any(overlapped(threading.Event().wait, [0.003] * 1000, processes=True)), "3 s one after another"
