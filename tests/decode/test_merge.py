"""Generators on threads: everything comes through, an error ends all, a reader that leaves is noticed."""

from __future__ import annotations

import threading
from collections.abc import Generator

import pytest

from gpupeak.decode.merge import merged


def test_everything_every_stage_yields_comes_through() -> None:
    def stage(start: int) -> Generator[int]:
        yield from range(start, start + 50)

    assert sorted(merged([stage(0), stage(50), stage(100)], depth=2)) == list(range(150))


def test_stages_run_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=20)

    def stage() -> Generator[int]:
        yield both.wait()

    assert sorted(merged([stage(), stage()], depth=2)) == [0, 1]


def test_an_error_of_one_stage_ends_the_others_and_is_raised() -> None:
    woken = threading.Event()
    closed = threading.Event()

    def waiting() -> Generator[int]:
        try:
            assert woken.wait(20)  # for something that only `cancel` brings
            yield 1
        finally:
            closed.set()

    def failing() -> Generator[int]:
        yield 0
        raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        list(merged([waiting(), failing()], 2, woken.set))
    assert closed.is_set()


def test_stages_are_closed_when_the_reader_leaves() -> None:
    closed: list[str] = []
    cancelled: list[bool] = []

    def endless(name: str) -> Generator[str]:
        try:
            while True:
                yield name
        finally:
            closed.append(name)

    stream = merged([endless("a"), endless("b")], 1, lambda: cancelled.append(True))
    next(stream)
    stream.close()
    assert sorted(closed) == ["a", "b"]
    assert cancelled
