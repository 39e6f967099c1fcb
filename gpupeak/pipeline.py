"""The line: samples are planned and decoded, encoded, saved. Each has exactly one outcome."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator, Iterable, Iterator
from types import TracebackType
from typing import Any, Protocol, TypeVar

from gpupeak.channel import Cancelled, Channel
from gpupeak.types import Failed, FeatureBatch, FrameBatch, Outcome, Sample, Saved

T = TypeVar("T")

READY_BATCHES = 2  # between two stages: one being taken while the next is being made
READY_OUTCOMES = 1024


class Decoder(Protocol):
    """Plans samples and decodes their frames, in any order."""

    def decode(self, samples: Iterable[Sample]) -> Generator[FrameBatch | Failed]: ...

    def close(self) -> None:
        """End the processes it holds; decoding to the end does so, too."""


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

    Raises:
        RunError: whatever a stage raised; every thread of the line has been told to end.
    """
    stop = stop or threading.Event()
    with _Line() as line:
        frames = line.ahead("decode", decoder.decode(_until(stop, samples)))
        features = line.ahead("encode", encoder.encode(_until(stop, frames)))
        for _ in range(writers):
            line.to_outcomes("write", writer.write(features))
        yield from line.outcomes
        line.raise_error()


class _Line:
    """The threads and channels around the stages, ended together.

    Failures go to the outcomes at once, so a stage sees only what it can work on. The first exception of any stage
    ends the line: outcomes already reached still come out, then `raise_error` raises it in the caller's thread.
    """

    def __init__(self) -> None:
        self.outcomes: Channel[Outcome] = Channel(READY_OUTCOMES, writers=0)
        self._between: list[Channel[Any]] = []
        self._threads: list[threading.Thread] = []
        self._error: BaseException | None = None

    def __enter__(self) -> _Line:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cancel()
        self.outcomes.cancel()
        if kind is not KeyboardInterrupt:  # at a second Ctrl-C the process is about to end: nothing is waited for
            for thread in self._threads:
                thread.join()

    def ahead(self, name: str, stage: Generator[T | Failed]) -> Channel[T]:
        """Run a stage on a thread of its own, some batches ahead of whoever iterates what this returns."""
        channel: Channel[T] = Channel(READY_BATCHES)
        self._between.append(channel)
        self._start(name, stage, channel)
        return channel

    def to_outcomes(self, name: str, stage: Generator[Outcome]) -> None:
        """Run a last stage on a thread of its own: what it yields are outcomes."""
        self._start(name, stage, None)

    def raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _start(self, name: str, stage: Generator[Any], channel: Channel[Any] | None) -> None:
        self.outcomes.add_writer()
        thread = threading.Thread(target=self._pump, args=(stage, channel), name=f"gpupeak-{name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _pump(self, stage: Generator[Any], channel: Channel[Any] | None) -> None:
        try:
            # Closing: a stage that is cut off ends its processes here, and gives back what it borrowed.
            with contextlib.suppress(Cancelled), contextlib.closing(stage):
                for item in stage:
                    if channel is None or isinstance(item, Failed):
                        self.outcomes.put(item)
                    else:
                        channel.put(item)
        except BaseException as error:
            if self._error is None:
                self._error = error
            self._cancel()
        finally:
            if channel is not None:
                channel.finish()
            self.outcomes.finish()

    def _cancel(self) -> None:
        for channel in self._between:
            channel.cancel()


def _until(stop: threading.Event, items: Iterable[T]) -> Iterator[T]:
    """Pass items on until `stop` is set; the stage that made them is then ended, too."""
    for item in items:
        if stop.is_set():
            if isinstance(items, Channel):
                items.cancel()
            return
        yield item
