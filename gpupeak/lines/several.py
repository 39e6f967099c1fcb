"""Several lines as one: each takes the next sample when it has room, so that a slow GPU is given less."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from gpupeak.channel import merged
from gpupeak.errors import RunError, WriteError, counted
from gpupeak.pipeline import READY_OUTCOMES, Line
from gpupeak.types import Outcome, Place, Sample


class ManyLines:
    """Runs several lines side by side over one list of samples.

    A line that cannot go on is lost alone: it is closed, `tell` is told why, and its samples go to the others when
    these have done theirs. That the output cannot be written ends them all. An error of one of the `makers` closes the
    others and is raised.
    """

    def __init__(self, makers: Sequence[Callable[[], Line]], tell: Callable[[str], None]) -> None:
        self._tell = tell
        with ThreadPoolExecutor(len(makers), thread_name_prefix="gpupeak-start") as threads:
            starting: list[Future[Line]] = [threads.submit(make) for make in makers]
        errors = [error for error in (future.exception() for future in starting) if error is not None]
        self._lines = [future.result() for future in starting if future.exception() is None]
        if errors:
            self.close()
            raise errors[0]

    @property
    def device(self) -> str:
        return ",".join(line.device for line in self._lines)

    def close(self) -> None:
        for line in self._lines:
            line.close()

    def run(self, samples: Iterable[Sample], stop: threading.Event | None = None) -> Generator[Outcome]:
        """Yield one outcome a sample; `stop` as in `pipeline.run`. Raises RunError as the last line did."""
        stop = stop or threading.Event()
        lines, source = [*self._lines], iter(samples)
        while True:
            shared = _Shared(source, lines)
            stages = [self._through(line, shared, stop) for line in tuple(lines)]
            yield from merged(stages, READY_OUTCOMES, cancel=shared.end, name="line", drain=True)
            if not shared.back or stop.is_set():
                return
            source = iter(shared.back)

    def _through(self, line: Line, shared: _Shared, stop: threading.Event) -> Generator[Outcome]:
        held: dict[Place, Sample] = {}  # given to it, not yet answered for
        try:
            with contextlib.closing(line.run(shared.take(held), stop)) as outcomes:
                for outcome in outcomes:
                    del held[outcome.sample.target]
                    yield outcome
        except RunError as error:
            left = shared.lost(line, held.values())
            if isinstance(error, WriteError) or not left:
                raise
            line.close()
            others = "the other one" if left == 1 else f"the {left} others"
            back = f"; left to {others}: {counted(len(held), 'sample')}" if held else ""
            self._tell(f"{line.device} is lost: {error}{back}")


class _Shared:
    """The samples that several lines share, and those that lost ones give back."""

    def __init__(self, source: Iterator[Sample], lines: list[Line]) -> None:
        self._source, self._lines = source, lines
        self._lock = threading.Lock()
        self._over = False
        self.back: list[Sample] = []

    def take(self, held: dict[Place, Sample]) -> Iterator[Sample]:
        while True:
            with self._lock:
                sample = None if self._over else next(self._source, None)
            if sample is None:
                return
            held[sample.target] = sample
            yield sample

    def lost(self, line: Line, held: Iterable[Sample]) -> int:
        """A line cannot go on and gives back what it held: how many lines are left."""
        with self._lock:
            self._lines.remove(line)
            self.back.extend(held)
            return len(self._lines)

    def end(self) -> None:
        """No line is given anything any more."""
        self._over = True
