"""Several generators, each on a thread of its own, as one."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator
from typing import TypeVar

from gpupeak.channel import Cancelled, Channel

__all__ = ["merged"]

T = TypeVar("T")


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
