"""A bounded hand-over between threads that can be ended from either side, and generators joined by one."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from typing import Generic, TypeVar

T = TypeVar("T")


class Cancelled(Exception):
    """The channel's reader is gone, or its run is over: nothing more can be handed over."""


class Channel(Generic[T]):
    """A queue of at most `depth` items from `writers` threads to any number of reading ones.

    Reading is iterating: it waits for the next item and ends when every writer has called `finish`
    and nothing is left. `cancel` wakes everyone on both sides: `put` raises `Cancelled` from then on,
    and reading ends at once, whatever is still queued.

    `wait_seconds` holds how long [writers, readers] have waited, in all: who waits is not the bottleneck.
    `waiting_writers` is how many are held back right now.
    """

    def __init__(self, depth: int, writers: int = 1) -> None:
        self._items: deque[T] = deque()
        self._depth = depth
        self._writers = writers
        self._cancelled = False
        lock = threading.Lock()
        self._room = threading.Condition(lock)
        self._something = threading.Condition(lock)
        self.wait_seconds = [0.0, 0.0]
        self.waiting_writers = 0

    def put(self, item: T) -> None:
        """Hand over one item, waiting while the channel is full. Raises Cancelled."""
        with self._room:
            if len(self._items) >= self._depth and not self._cancelled:
                began = time.perf_counter()
                self.waiting_writers += 1
                self._room.wait_for(lambda: len(self._items) < self._depth or self._cancelled)
                self.waiting_writers -= 1
                self.wait_seconds[0] += time.perf_counter() - began
            if self._cancelled:
                raise Cancelled
            self._items.append(item)
            self._something.notify()

    def add_writer(self) -> None:
        """One more writer will call `finish`; before reading begins."""
        with self._something:
            self._writers += 1

    def finish(self) -> None:
        """One writer has no more to hand over."""
        with self._something:
            self._writers -= 1
            if self._writers == 0:
                self._something.notify_all()

    def cancel(self) -> None:
        """End the channel now, on both sides."""
        with self._something:
            self._cancelled = True
            self._something.notify_all()
            self._room.notify_all()

    def __iter__(self) -> Channel[T]:
        return self

    def __next__(self) -> T:
        with self._something:
            if not self._items and self._writers and not self._cancelled:
                began = time.perf_counter()
                self._something.wait_for(lambda: bool(self._items) or not self._writers or self._cancelled)
                self.wait_seconds[1] += time.perf_counter() - began
            if self._cancelled or not self._items:
                raise StopIteration
            item = self._items.popleft()
            self._room.notify()
            return item


def merged(
    stages: list[Generator[T]], depth: int, cancel: Callable[[], None] = lambda: None, name: str = "stage"
) -> Generator[T]:
    """Yield what the stages yield, as it comes, at most `depth` items ahead of the reader.

    The first exception of any stage ends all of them and is raised here; what was ready then is dropped.
    `cancel` is called then, and when the reader leaves, to wake the stages that wait for something else
    than this reader.
    """
    channel: Channel[T] = Channel(depth, writers=len(stages))
    errors: list[BaseException] = []

    def end() -> None:
        channel.cancel()
        cancel()

    def pump(stage: Generator[T]) -> None:
        try:
            with contextlib.suppress(Cancelled), contextlib.closing(stage):
                for item in stage:
                    channel.put(item)
        except BaseException as error:
            errors.append(error)
            end()
        finally:
            channel.finish()

    threads = [
        threading.Thread(target=pump, args=(stage,), name=f"gpupeak-{name}-{number}", daemon=True)
        for number, stage in enumerate(stages)
    ]
    for thread in threads:
        thread.start()
    try:
        yield from channel
    finally:
        end()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
