"""NVDEC and the CPU's cores decode one run together: who takes which sample, and is it worth both?"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from itertools import chain, islice
from queue import Empty, Queue
from typing import TYPE_CHECKING

from gpupeak.channel import merged
from gpupeak.decode.nvdec import Refused
from gpupeak.pipeline import Decoder
from gpupeak.types import Failed, FrameBatch, Sample

if TYPE_CHECKING:
    from gpupeak.decode.dali import DaliDecoder

_READY = 4  # batches that wait for whoever reads `decode`
_REFUSED = 256  # samples that may wait for the CPU before the GPU's decoder takes no more
_TRIAL = 96
_WORTHWHILE = 0.1  # of the other's speed: a slower side may cost more than it brings


class HybridDecoder:
    """Decodes on NVDEC, and on the CPU what is refused there; each takes its next sample when it has room.

    With `mode` "nvdec" the CPU decodes only what `gpu` refuses or is `on_cpu`, with "hybrid" other samples, too; with
    "auto" each side first decodes `trial` samples by itself, then `choose` says. `notice` is told of that, and of every
    new reason to refuse samples, on any thread.
    """

    def __init__(
        self, gpu: DaliDecoder, cpu: Decoder, mode: str, notice: Callable[[str], None], *, trial: int = _TRIAL
    ) -> None:
        self._gpu, self._cpu, self._mode, self._notice, self._trial = gpu, cpu, mode, notice, trial
        self.refused: Counter[str] = Counter()  # samples by reason

    def decode(self, samples: Iterable[Sample]) -> Generator[FrameBatch | Failed]:
        """Yield the frames or the failure of every sample as they are ready. A RunError of either side ends both."""
        work = _Work(samples)
        mode = (yield from self._measure(work)) if self._mode == "auto" else self._mode
        stages = [self._on_cpu(work, share=mode != "nvdec")]
        if mode == "cpu":
            work.refuse(None)
        else:
            stages.append(self._on_gpu(work))
        yield from merged(stages, _READY, work.cancel, mode)

    def close(self) -> None:
        self._gpu.close()
        self._cpu.close()

    def _on_gpu(self, work: _Work) -> Generator[FrameBatch | Failed]:
        try:
            yield from self._accepted(work, work.for_gpu())
        finally:
            work.refuse(None)

    def _on_cpu(self, work: _Work, share: bool) -> Generator[FrameBatch | Failed]:
        while (first := work.for_cpu(share, wait=True)) is not None:
            # This ends where nothing is there for the CPU now, so that what is decoded does not wait.
            yield from self._cpu.decode(chain((first,), iter(lambda: work.for_cpu(share), None)))

    def _accepted(self, work: _Work, samples: Iterable[Sample]) -> Generator[FrameBatch | Failed]:
        with closing(self._gpu.decode(samples)) as items:
            for item in items:
                if not isinstance(item, Refused):
                    yield item
                    continue
                if item.reason not in self.refused:
                    why = f"{item.reason} ({item.detail})" if item.detail else item.reason
                    self._notice(f"decoded on the CPU, not on NVDEC: {why}; {item.sample} is the first")
                self.refused[item.reason] += 1
                work.refuse(item.sample)

    def _measure(self, work: _Work) -> Generator[FrameBatch | Failed, None, str]:
        for_gpu, for_cpu = work.for_gpu(), iter(lambda: work.for_cpu(share=True), None)
        yield from self._accepted(work, islice(for_gpu, self._trial // 3))
        nvdec = yield from _timed(self._accepted(work, islice(for_gpu, self._trial)))
        yield from self._cpu.decode(islice(for_cpu, self._trial // 3))
        cpu = yield from _timed(self._cpu.decode(islice(for_cpu, self._trial)))
        mode = choose(nvdec, cpu)
        means = {"nvdec": "on NVDEC", "cpu": "on the CPU", "hybrid": "on NVDEC and the CPU together"}[mode]
        if nvdec or cpu:
            self._notice(f"decoding {means}: by itself, NVDEC had {nvdec:.0f} samples/s, the CPU {cpu:.0f}")
        return mode


def choose(nvdec: float, cpu: float) -> str:
    """The mode to go on in, by the samples/s of each side alone, 0 where it had none."""
    if 0 < cpu < _WORTHWHILE * nvdec:
        return "nvdec"
    if 0 < nvdec < _WORTHWHILE * cpu:
        return "cpu"
    return "hybrid"


def _timed(items: Generator[FrameBatch | Failed]) -> Generator[FrameBatch | Failed, None, float]:
    """Pass items on, and return their samples a second without the time that their taker takes."""
    count = 0
    waited = 0.0
    began = time.perf_counter()
    with closing(items):
        for item in items:
            count += len(item.plans) if isinstance(item, FrameBatch) else 1
            left = time.perf_counter()
            yield item
            waited += time.perf_counter() - left
    return count / max(time.perf_counter() - began - waited, 1e-9)


class _Work:
    """The samples of a run, as two sides take them, each on a thread of its own."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._source, self._lock = iter(samples), threading.Lock()
        self._refused: Queue[Sample | None] = Queue(_REFUSED)
        self._exhausted = self._gpu_finished = False

    def for_gpu(self) -> Iterator[Sample]:
        while (sample := self._next()) is not None:
            if sample.on_cpu:
                self.refuse(sample)
            else:
                yield sample

    def for_cpu(self, share: bool, wait: bool = False) -> Sample | None:
        """A refused sample or, if it is to `share`, a new one; None if there is none now, to `wait`, never any more."""
        waiting = False
        while True:
            with suppress(Empty):
                if (refused := self._refused.get(waiting)) is not None:
                    return refused
                self._gpu_finished = True
            if (share or self._gpu_finished) and (sample := self._next()) is not None:
                return sample
            if self._gpu_finished or not wait:
                return None
            waiting = True

    def refuse(self, sample: Sample | None) -> None:
        """Leave a sample to the CPU, waiting while too many do; None: no more will be, and new ones are the CPU's."""
        self._refused.put(sample)

    def cancel(self) -> None:
        self._exhausted = True
        with suppress(Empty):
            while True:  # room for who waits
                self._refused.get_nowait()
        self.refuse(None)

    def _next(self) -> Sample | None:
        with self._lock:
            sample = None if self._exhausted else next(self._source, None)
            self._exhausted |= sample is None
            return sample
