"""Several lines as one: each takes the next sample when it has room, so that a slow GPU is given less."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from gpupeak.channel import merged
from gpupeak.errors import RunError, WriteError
from gpupeak.pipeline import READY_OUTCOMES, Line
from gpupeak.types import Outcome, Place, Sample


class ManyLines:
    """Runs several lines side by side over one list of samples.

    A line that cannot go on is lost alone: it is closed, `tell` is told why, and its samples go to the others. That
    the output cannot be written ends them all. An error of one of the `makers` closes the others and is raised.
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
        shared = _Shared(samples, stop, self._lines)
        stages = [self._through(line, shared, stop) for line in shared.held]
        yield from merged(stages, READY_OUTCOMES, cancel=shared.end, name="line")
        if shared.error is not None:
            raise shared.error

    def _through(self, line: Line, shared: _Shared, stop: threading.Event) -> Generator[Outcome]:
        try:
            while shared.more():
                with contextlib.closing(line.run(shared.take(line), stop)) as outcomes:
                    for outcome in outcomes:
                        shared.answered(line, outcome)
                        yield outcome
        except RunError as error:
            given_back, left = shared.lost(line)
            if isinstance(error, WriteError) or not left:
                shared.end(error)
                return
            line.close()
            others = "the other one" if left == 1 else f"the {left} others"
            back = f"; {given_back} samples of its go to {others}" if given_back else ""
            self._tell(f"{line.device} is lost: {error}{back}")


class _Shared:
    """The samples that several lines share: each is with one of them, and comes back when that one is lost."""

    def __init__(self, samples: Iterable[Sample], stop: threading.Event, lines: Sequence[Line]) -> None:
        self._source = iter(samples)
        self._stop = stop
        self._ended = False  # the source is
        self._over = False
        self._back: deque[Sample] = deque()
        self._change = threading.Condition()
        self.held: dict[Line, dict[Place, Sample]] = {line: {} for line in lines}  # given to it, not yet answered for
        self.error: RunError | None = None

    def take(self, line: Line) -> Iterator[Sample]:
        """As many of the next samples as there are at this moment: it waits for none."""
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
                self.held[line][sample.target] = sample
            yield sample

    def more(self) -> bool:
        """Wait until there is a sample to take; False if there will be none any more."""
        with self._change:
            self._change.notify_all()  # whoever waits is to see a stop, too
            self._change.wait_for(lambda: self._cut_off() or self._available() or not any(self.held.values()))
            return not self._cut_off() and self._available()

    def _cut_off(self) -> bool:
        return self._over or self._stop.is_set()

    def _available(self) -> bool:
        return not self._ended or bool(self._back)

    def answered(self, line: Line, outcome: Outcome) -> None:
        with self._change:
            del self.held[line][outcome.sample.target]
            if not self.held[line]:
                self._change.notify_all()

    def lost(self, line: Line) -> tuple[int, int]:
        """A line cannot go on: how many samples it gives back, and how many lines are left."""
        with self._change:
            samples = self.held.pop(line).values()
            self._back.extend(samples)
            self._change.notify_all()
            return len(samples), len(self.held)

    def end(self, error: RunError | None = None) -> None:
        """No line is given anything any more; `error` is why."""
        with self._change:
            self.error = self.error or error
            self._over = True
            self._change.notify_all()
