"""The hand-over between threads: order, bounds, both ways of ending."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator

import pytest

from gpupeak.channel import Cancelled, Channel, merged


def in_thread(action: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


def test_items_come_out_in_order_and_reading_ends_when_the_writer_has_finished() -> None:
    channel: Channel[int] = Channel(2)

    def write() -> None:
        for item in range(100):
            channel.put(item)
        channel.finish()

    writer = in_thread(write)
    assert list(channel) == list(range(100))
    writer.join(10)
    assert list(channel) == []


def test_a_full_channel_holds_its_writer_back() -> None:
    channel: Channel[int] = Channel(2)
    reached: list[int] = []

    def write() -> None:
        for item in range(4):
            channel.put(item)
            reached.append(item)
        channel.finish()

    writer = in_thread(write)
    writer.join(0.2)
    assert reached == [0, 1], "the third put waits"
    assert next(channel) == 0
    assert list(channel) == [1, 2, 3]
    writer.join(10)


def test_cancel_wakes_a_waiting_writer_and_a_waiting_reader() -> None:
    full: Channel[int] = Channel(1)
    full.put(0)
    raised = threading.Event()

    def write() -> None:
        with pytest.raises(Cancelled):
            full.put(1)
        raised.set()

    in_thread(write)
    full.cancel()
    assert raised.wait(10)
    assert list(full) == [], "what was queued is dropped"

    empty: Channel[int] = Channel(1)
    read: list[list[int]] = []
    reader = in_thread(lambda: read.append(list(empty)))
    empty.cancel()
    reader.join(10)
    assert read == [[]]


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
