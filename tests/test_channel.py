"""How the hand-over between threads is ended; the rest shows in `test_pipeline.py`."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from gpupeak.channel import Cancelled, Channel


def in_thread(action: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


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
