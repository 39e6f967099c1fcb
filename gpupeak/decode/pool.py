"""The CPU decoder: spawned processes, frames in shared memory. A libav that crashes or hangs takes one with it, not the
run."""

from __future__ import annotations

import math
import mmap
import os
import queue
import time
from collections.abc import Generator, Iterable, Iterator
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import cast

import numpy as np

from gpupeak.child import Child, Ended, Suspects
from gpupeak.decode.worker import NO_SLOT, READY, Answer, Done, Planned, Task, main
from gpupeak.errors import OUT_OF_MEMORY, RunError
from gpupeak.types import Failed, FrameBatch, Sample

_START_SECONDS = 120.0  # imports from a cold network file system are slow
_STARTS = 3  # of a process that is killed before it is ready


class WorkerPool:
    """A decoder of `workers` processes (`gpupeak.decode.worker`), one sample in each at a time.

    Who owns a slot of the shared memory: the worker from the moment it is sent a sample until it has answered; then
    whoever holds the `FrameBatch`, until `release`; then it is free again.

    A sample whose worker dies or does not answer within `time_limit` seconds is tried once more, alone in a new worker,
    then recorded as failed; one that asks for more memory than `worker.MEMORY` fails at once.

    `n` and `size` are the most frames a sample can have and their side in pixels. There are `held` slots more than
    workers: as many batches as the line behind can hold, so an idle worker always finds one.
    """

    def __init__(self, workers: int, n: int = 8, size: int = 224, *, time_limit: float = 120.0, held: int = 4) -> None:
        self._shape = (workers + held, n, size, size, 3)
        self._time_limit = time_limit
        self._memory, mapped = _shared_memory(math.prod(self._shape))
        self._slots = np.frombuffer(mapped, np.uint8).reshape(self._shape)
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(self._shape[0]):
            self._free.put(slot)
        self._suspects = Suspects[Sample | Task]("the decoding process")
        self._workers = [_Worker(self._memory, self._shape) for _ in range(workers)]

    @property
    def pids(self) -> tuple[int, ...]:
        return tuple(worker.child.process.pid for worker in self._workers)

    def decode(self, samples: Iterable[Sample]) -> Generator[FrameBatch | Failed]:
        """Yield every sample's frames, a batch of one, or its failure, as they are ready; cut off, end the workers."""
        return cast("Generator[FrameBatch | Failed]", self._work(samples, decoding=True))

    def plan(self, samples: Iterable[Sample]) -> Generator[Planned | Failed]:
        """Yield what another decoder has to know of every sample, or its failure, as `decode` does."""
        return cast("Generator[Planned | Failed]", self._work(samples, decoding=False))

    def perform(self, tasks: Iterable[Task]) -> Generator[Done | Failed]:
        """Yield what every task gives, or its sample's failure, as `decode` does."""
        return cast("Generator[Done | Failed]", self._work(tasks, decoding=False))

    def close(self) -> None:
        """End the workers. Frames already handed out stay readable."""
        for worker in self._workers:
            worker.child.end()
        if self._memory >= 0:
            os.close(self._memory)  # the mapping lives on until the last array that shows it is gone
            self._memory = -1

    def _work(self, work: Iterable[Sample | Task], decoding: bool) -> Generator[FrameBatch | Planned | Done | Failed]:
        source = iter(work)
        try:
            while busy := self._dispatch(source, decoding):
                ready = wait(busy, timeout=max(0.0, min(each.deadline for each in busy.values()) - time.monotonic()))
                # Who has answered is never too late: the answer may have lain waiting while the line was full.
                now = time.monotonic()
                for connection, worker in busy.items():
                    if connection in ready or worker.deadline <= now:
                        yield from self._collect(worker)
        except BaseException:
            self.close()
            raise

    def _dispatch(self, source: Iterator[Sample | Task], decoding: bool) -> dict[Connection, _Worker]:
        """Give every idle worker work, second tries first; those that have some."""
        for worker in self._workers:
            if worker.work is None:
                second = bool(self._suspects)
                work = self._suspects.popleft() if second else next(source, None)
                if work is None:
                    break
                worker.take(self._free.get() if decoding else NO_SLOT, work, second, self._time_limit)
        return {worker.child.connection: worker for worker in self._workers if worker.work is not None}

    def _collect(self, worker: _Worker) -> Iterator[FrameBatch | Planned | Done | Failed]:
        work, worker.work = worker.work, None
        assert work is not None
        try:
            answer: Answer = worker.child.receive(0)
        except Ended as ended:
            self._release(worker.slot)
            self._replace(worker)
            for aside in self._suspects.ended([work], worker.second, ended):
                sample = aside if isinstance(aside, Sample) else aside.sample
                yield Failed(sample, "decode", f"the decoding process {ended}, twice")
            return
        if isinstance(answer, Planned | Done | Failed):
            self._release(worker.slot)
            if isinstance(answer, Failed) and answer.reason == OUT_OF_MEMORY:
                self._replace(worker)  # what libav leaves behind where allocating failed is not relied upon
            yield answer
        else:
            plan, seconds = answer
            n = plan.sample.rule.n
            release = partial(self._release, worker.slot)
            yield FrameBatch((plan,), self._slots[worker.slot, :n], ((0, n),), (seconds,), release)

    def _replace(self, worker: _Worker) -> None:
        worker.child.end()
        self._workers[self._workers.index(worker)] = _Worker(self._memory, self._shape)

    def _release(self, slot: int) -> None:
        if slot != NO_SLOT:
            self._free.put(slot)


class _Worker:
    """A process, and what it works on: `work` in `slot`, until `deadline`, for the `second` time or not."""

    work: Sample | Task | None = None
    slot, second, deadline = NO_SLOT, False, 0.0

    def __init__(self, memory: int, shape: tuple[int, ...]) -> None:
        self._start = partial(Child, main, *shape, descriptors=(memory,))
        self.child = self._start()
        self._starts, self._ready = 1, False

    def take(self, slot: int, work: Sample | Task, second: bool, time_limit: float) -> None:
        while not self._ready:
            self._await_ready()
        self.child.send((slot, work))
        self.work, self.slot, self.second = work, slot, second
        self.deadline = time.monotonic() + time_limit

    def _await_ready(self) -> None:
        try:
            self._ready = self.child.receive(_START_SECONDS) == READY
        except Ended as ended:
            if self._starts == _STARTS or (self.child.process.returncode or 0) >= 0:
                raise RunError(f"a decoding process cannot start: it {ended}{self.child.last_words()}") from ended
            # Somebody's signal, that of a system short of memory say, is no fault of what it runs.
            self.child.end()
            self.child = self._start()
            self._starts += 1


def _shared_memory(size: int) -> tuple[int, mmap.mmap]:
    """A descriptor of `size` zeroed bytes, and the bytes: nothing to clean up after a kill, no bound by /dev/shm."""
    descriptor = os.memfd_create("gpupeak-frames")
    try:
        os.ftruncate(descriptor, size)
        return descriptor, mmap.mmap(descriptor, size)
    except (OSError, OverflowError) as error:
        os.close(descriptor)
        reason = error.strerror if isinstance(error, OSError) else "more than any file has"
        raise RunError(f"{size:,} bytes of shared memory cannot be had: {reason}") from error
