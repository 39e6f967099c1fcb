"""Several lines as one: each takes the next sample when it has room, so that a slow GPU is given less."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from gpupeak.decode.merge import merged
from gpupeak.errors import RunError, WriteError
from gpupeak.pipeline import READY_OUTCOMES, Line
from gpupeak.types import Outcome, Sample

__all__ = ["ManyLines"]


class ManyLines:
    """Runs several lines side by side over one list of samples.

    A line that cannot go on is lost alone: it is closed, `tell` is told why, and the samples it has not answered
    for go to the others. That the output cannot be written is no line's own fault, and ends them all.

    Args:
        makers: called at once, each on a thread of its own, to make the lines; an error of one closes the others.
        tell: told of a line that is lost, in one line.

    Raises:
        GpupeakError: what making a line raised.
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
        self._lost: set[int] = set()

    @property
    def device(self) -> str:
        """The devices of all lines, joined by commas."""
        return ",".join(line.device for line in self._lines)

    def close(self) -> None:
        """Close every line."""
        for line in self._lines:
            line.close()

    def run(self, samples: Iterable[Sample], stop: threading.Event | None = None) -> Generator[Outcome]:
        """Yield one outcome a sample, in the order in which they come; `stop` as in `pipeline.run`.

        Raises:
            RunError: what the last line that was left raised, or that the output cannot be written. The outcomes
                that were reached by then come out first.
        """
        stop = stop or threading.Event()
        shared = _Shared(samples, stop, len(self._lines) - len(self._lost))
        stages = [self._through(i, shared, stop) for i in range(len(self._lines)) if i not in self._lost]
        yield from merged(stages, READY_OUTCOMES, cancel=shared.end, name="line")
        if shared.error is not None:
            raise shared.error

    def _through(self, number: int, shared: _Shared, stop: threading.Event) -> Generator[Outcome]:
        """Take samples through one line until there is nothing left that it could be given."""
        line = self._lines[number]
        while shared.more():
            mine: dict[Path, Sample] = {}  # given to this line and not yet answered for, by target
            try:
                with contextlib.closing(line.run(shared.take(mine), stop)) as outcomes:
                    for outcome in outcomes:
                        shared.answered(mine, outcome)
                        yield outcome
            except RunError as error:
                if isinstance(error, WriteError) or (left := shared.lost(mine)) == 0:
                    shared.fail(error)
                    return
                self._lost.add(number)
                line.close()
                others = "the other one" if left == 1 else f"the {left} others"
                back = f"; {len(mine)} samples of its go to {others}" if mine else ""
                self._tell(f"{line.device} is lost: {error}{back}")
                return
            shared.stopped(mine)


class _Shared:
    """The samples that several lines share: each is with one of them, and comes back when that one is lost."""

    def __init__(self, samples: Iterable[Sample], stop: threading.Event, lines: int) -> None:
        self._source: Iterator[Sample] = iter(samples)
        self._stop = stop
        self._lines = lines
        self._ended = False  # the source is
        self._over = False
        self._back: deque[Sample] = deque()
        self._out = 0  # samples that are with a line
        self._change = threading.Condition()
        self.error: BaseException | None = None

    def take(self, mine: dict[Path, Sample]) -> Iterator[Sample]:
        """The next samples for one line, noted in `mine`: as many as there are at this moment, it waits for none."""
        while True:
            with self._change:
                if self._over:
                    return
                sample = self._back.popleft() if self._back else None
                if sample is None and not self._ended:
                    sample = next(self._source, None)
                    self._ended = sample is None
                if sample is None:
                    self._change.notify_all()
                    return
                mine[sample.target] = sample
                self._out += 1
            yield sample

    def more(self) -> bool:
        """Wait until there is a sample to take; False if there will be none any more."""
        with self._change:
            self._change.wait_for(lambda: self._over or not self._ended or self._back or not self._out)
            return not (self._over or self._stop.is_set() or (self._ended and not self._back))

    def answered(self, mine: dict[Path, Sample], outcome: Outcome) -> None:
        """A line has reached an outcome."""
        with self._change:
            del mine[outcome.sample.target]
            self._out -= 1
            if self._out == 0:
                self._change.notify_all()

    def stopped(self, mine: dict[Path, Sample]) -> None:
        """A line's run is over; what it has not answered for, because it was stopped, has no outcome."""
        with self._change:
            self._out -= len(mine)
            self._change.notify_all()

    def lost(self, mine: dict[Path, Sample]) -> int:
        """A line cannot go on: give back what was with it, and say how many lines are left."""
        with self._change:
            self._lines -= 1
            if not self._stop.is_set():
                self._back.extend(mine.values())
            self._out -= len(mine)
            self._change.notify_all()
            return self._lines

    def fail(self, error: BaseException) -> None:
        """No line is given anything any more, and this is why."""
        self.error = self.error or error
        self.end()

    def end(self) -> None:
        """No line is given anything any more."""
        with self._change:
            self._over = True
            self._change.notify_all()
