"""The line: samples are planned and decoded, encoded, saved. Each has exactly one outcome."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator, Iterable, Iterator
from typing import Protocol, TypeVar

from gpupeak.channel import Channel, merged
from gpupeak.types import Failed, FeatureBatch, FrameBatch, Outcome, Sample, Saved

T = TypeVar("T")

READY_BATCHES = 2  # between two stages: one being taken while the next is being made
READY_OUTCOMES = 1024


class Decoder(Protocol):
    """Plans samples and decodes their frames, in any order."""

    def decode(self, samples: Iterable[Sample]) -> Generator[FrameBatch | Failed]: ...

    def close(self) -> None:
        """End the processes it holds."""


class Encoder(Protocol):
    """Turns frames into features and releases the frames."""

    def encode(self, batches: Iterable[FrameBatch]) -> Generator[FeatureBatch | Failed]: ...


class Writer(Protocol):
    """Saves features and releases them. Safe on several threads at once."""

    def write(self, batches: Iterable[FeatureBatch]) -> Generator[Saved | Failed]: ...


class Line(Protocol):
    """Takes samples to their outcomes on one device: in this process by `run`, or in one of its own."""

    @property
    def device(self) -> str: ...

    def run(self, samples: Iterable[Sample], stop: threading.Event | None = None) -> Generator[Outcome]:
        """Yield one outcome a sample; ends early when `stop` is set."""

    def close(self) -> None:
        """End the processes that the line holds."""


def run(
    samples: Iterable[Sample],
    decoder: Decoder,
    encoder: Encoder,
    writer: Writer,
    *,
    stop: threading.Event | None = None,
    writers: int = 2,
) -> Generator[Outcome]:
    """Take every sample to its outcome; outcomes come as they are ready.

    Decoding, encoding and writing overlap on threads of their own, with bounded channels between them: a slow stage
    holds back those before it. When `stop` is set, what is being encoded is still encoded and written, what was
    decoded ahead is dropped, and the samples not reached have no outcome.

    Raises whatever a stage raised, a RunError, after the outcomes that were reached by then.
    """
    stop = stop or threading.Event()
    frames, features = Channel[FrameBatch](READY_BATCHES), Channel[FeatureBatch](READY_BATCHES)

    def cancel() -> None:
        frames.cancel()
        features.cancel()

    stages: list[Generator[Outcome]] = [
        _handed_on(decoder.decode(_until(stop, samples)), frames),
        _handed_on(encoder.encode(_until(stop, frames)), features),
        *(writer.write(features) for _ in range(writers)),
    ]
    yield from merged(stages, READY_OUTCOMES, cancel, "line", drain=True)


def _handed_on(stage: Generator[T | Failed], channel: Channel[T]) -> Generator[Failed]:
    """Hand on what a stage makes, and yield its failures: a stage sees only what it can work on."""
    try:
        with contextlib.closing(stage):
            for item in stage:
                if isinstance(item, Failed):
                    yield item
                else:
                    channel.put(item)
    finally:
        channel.finish()


def _until(stop: threading.Event, items: Iterable[T]) -> Iterator[T]:
    """Pass items on until `stop` is set; the stage that made them is then ended, too."""
    for item in items:
        if stop.is_set():
            if isinstance(items, Channel):
                items.cancel()
            return
        yield item
