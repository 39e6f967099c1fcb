"""Looking at many files: in order, one by one as long as none waits, and many at once where they do."""

from __future__ import annotations

import threading

import pytest

from gpupeak.storage.overlap import overlapped


@pytest.mark.parametrize("slow_from", [0, 100, 1000])
def test_files_are_looked_at_in_order_by_threads_from_where_they_wait(slow_from: int) -> None:
    def look(number: int) -> tuple[int, threading.Thread]:
        if number >= slow_from:
            threading.Event().wait(0.001)
        return number, threading.current_thread()

    found = list(overlapped(look, iter(range(400))))

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
