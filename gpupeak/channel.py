"""A bounded hand-over between threads that can be ended from either side, and generators joined by one."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Cancelled(Exception):
    """The channel's reader is gone, or its run is over: nothing more can be handed over."""


class Channel(Generic[T]):
    """A queue of at most `depth` items from `writers` threads to any number of reading ones.

    Iterating ends when every writer has called `finish` and nothing is left; `cancel` ends it at once on both sides.
    """

    def __init__(self, depth: int, writers: int = 1) -> None:
        self._items: deque[T] = deque()
        self._depth = depth
        self._writers = writers
        self._cancelled = False
        lock = threading.Lock()
        self._room = threading.Condition(lock)
        self._something = threading.Condition(lock)

    def put(self, item: T) -> None:
        with self._room:
            self._room.wait_for(lambda: len(self._items) < self._depth or self._cancelled)
            if self._cancelled:
                raise Cancelled
            self._items.append(item)
            self._something.notify()

    def finish(self) -> None:
        with self._something:
            self._writers -= 1
            if self._writers == 0:
                self._something.notify_all()

    def cancel(self) -> None:
        with self._something:
            self._cancelled = True
            self._something.notify_all()
            self._room.notify_all()

    def __iter__(self) -> Channel[T]:
        return self

    def __next__(self) -> T:
        with self._something:
            self._something.wait_for(lambda: bool(self._items) or not self._writers or self._cancelled)
            if self._cancelled or not self._items:
                raise StopIteration
            item = self._items.popleft()
            self._room.notify()
            return item


def merged(
    stages: Sequence[Generator[T]],
    depth: int,
    cancel: Callable[[], None] = lambda: None,
    name: str = "stage",
    *,
    drain: bool = False,
) -> Generator[T]:
    """Yield what the stages yield, each on a thread of its own, at most `depth` items ahead of the reader.

    The first exception of any stage ends all of them and is raised here, at once or, to `drain`, after what is ready.
    `cancel` is called then and when the reader leaves, to wake stages that wait for something else.
    """
    channel: Channel[T] = Channel(depth, writers=len(stages))
    errors: list[BaseException] = []

    def pump(stage: Generator[T]) -> None:
        try:
            # Closing: a stage that is cut off ends its processes here, and gives back what it borrowed.
            with contextlib.suppress(Cancelled), contextlib.closing(stage):
                for item in stage:
                    channel.put(item)
        except BaseException as error:
            errors.append(error)
            if not drain:
                channel.cancel()
            cancel()
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
    except KeyboardInterrupt:
        threads.clear()  # at a second Ctrl-C the process is about to end: nothing is waited for
        raise
    finally:
        channel.cancel()
        cancel()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
