"""Batches are taken as they are ready, and nothing is kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from samples import plan

from gpupeak.encode.gpu.inbox import Frames, Inbox
from gpupeak.types import FrameBatch

HERE = Path()


class Source:
    """Batches of so many images each, handed over when they are allowed to be."""

    def __init__(self, *images: int) -> None:
        self.allowed = threading.Semaphore(0)
        self.asked = threading.Semaphore(0)
        self.released: list[str] = []
        self.images = images

    def __iter__(self) -> Iterator[FrameBatch]:
        for i, n in enumerate(self.images):
            self.asked.release()
            assert self.allowed.acquire(timeout=30)
            yield self.batch(str(i), n)

    def batch(self, name: str, n: int) -> FrameBatch:
        pixels = np.zeros((n, 2, 2, 3), np.uint8)
        release = threading.Lock()  # released once only: a lock cannot be released twice
        release.acquire()

        def give_back() -> None:
            release.release()
            self.released.append(name)

        return FrameBatch((plan(HERE, name, n),), pixels, ((0, n),), ({},), give_back)

    def allow(self, count: int) -> None:
        """Let so many batches through, and return when the next one is asked for."""
        for _ in range(count):
            self.allowed.release()
            assert self.asked.acquire(timeout=30)


def names(taken: list[Frames]) -> list[str]:
    return [frames.plan.sample.name for frames in taken]


@pytest.mark.parametrize(
    ("images", "taken"),
    [
        ((8, 8, 7, 9), [["0", "1"], ["2", "3"]]),
        ((8, 40, 8), [["0"], ["1"], ["2"]]),  # one batch however large, and none out of turn
    ],
)
def test_takes_what_is_ready_up_to_the_most(images: tuple[int, ...], taken: list[list[str]]) -> None:
    source = Source(*images, 0)
    with Inbox(source, images=100) as inbox:
        source.asked.acquire()
        source.allow(len(images))
        assert [names(inbox.take(most=16)) for _ in taken] == taken


def test_waits_no_longer_than_until() -> None:
    asked = 0

    def until() -> bool:
        nonlocal asked
        asked += 1
        return asked == 3

    with Inbox(Source(8), images=100) as inbox:
        assert inbox.take(most=16, until=until) == []
    assert asked == 3


def test_reads_ahead_no_further_than_its_limit() -> None:
    source = Source(8, 8, 8, 8)
    with Inbox(source, images=16) as inbox:
        source.asked.acquire()
        source.allow(1)
        source.allowed.release(3)
        # The second batch reaches the limit: the third is not asked for before one is taken.
        assert not source.asked.acquire(timeout=0.1)
        assert names(inbox.take(most=8)) == ["0"]
        assert source.asked.acquire(timeout=30)


def test_what_is_held_or_comes_after_the_end_is_released() -> None:
    source = Source(8, 8, 8, 8)
    with Inbox(source, images=100) as inbox:
        source.asked.acquire()
        source.allow(3)
        assert names(inbox.take(most=8)) == ["0"]
    assert source.released == ["1", "2"]
    source.allowed.release()
    while source.released != ["1", "2", "3"]:
        pass
