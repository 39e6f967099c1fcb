"""A stand-in for CUDA that runs work as late as CUDA might: when somebody waits for it.

Memory is the host's and work is the real work, on torch's CPU operations. So whatever is overwritten,
given back or read too early changes the results, and `log` tells in which order things were asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from gpupeak.encode.gpu.device import Cuda, Stream, Work

QUERIES = 3  # until an event that nobody waits for has come to pass anyway


class LazyEvent:
    def __init__(self, stream: LazyStream, place: int) -> None:
        self.stream, self.place, self.queries = stream, place, 0

    def query(self) -> bool:
        self.queries += 1
        if self.queries >= QUERIES:
            self.synchronize()
        return self.stream.reached >= self.place

    def synchronize(self) -> None:
        self.stream.run_to(self.place)

    def elapsed_time(self, later: Any, /) -> float:
        assert self.stream.reached >= self.place
        assert later.stream.reached >= later.place
        return 1000.0 * float(later.place - self.place)


class LazyStream(Stream):
    def __init__(self, name: str, cuda: LazyCuda) -> None:
        self.name, self._cuda = name, cuda
        self._work: list[Callable[[], object]] = []
        self.reached = 0

    def run(self, label: str, work: Work) -> None:
        self._cuda.log.append(f"{self.name}: {label}")
        self._work.append(work)

    def wait(self, event: Any) -> None:
        self._work.append(event.synchronize)

    def record(self) -> LazyEvent:
        return LazyEvent(self, len(self._work))

    def run_to(self, place: int) -> None:
        while self.reached < place:
            self.reached += 1
            self._work[self.reached - 1]()


class LazyCuda(Cuda):
    def __init__(self) -> None:
        self.log: list[str] = []
        self.pools: list[object] = []
        self._streams: list[LazyStream] = []

    def stream(self) -> LazyStream:
        self._streams.append(LazyStream(f"stream {len(self._streams) + 1}", self))
        return self._streams[-1]

    def finish(self) -> None:
        """Run whatever has been put on a stream and nobody has waited for."""
        for stream in self._streams:
            stream.record().synchronize()

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype)

    pinned = zeros

    def pool(self) -> object:
        self.pools.append(object())
        return self.pools[-1]

    def capture(self, stream: Stream, pool: object, work: Work) -> Work:
        assert isinstance(stream, LazyStream)
        assert isinstance(work, partial)
        assert pool is self.pools[-1]
        assert stream.reached == stream.record().place, "captured while work is still under way"
        (bucket,) = work.args
        self.log.append(f"{stream.name}: capture {bucket}")

        def replay() -> None:
            self.log.append(f"replays {bucket}")
            work()

        return replay
