"""Frames to features on a GPU: one kernel, one graph replay and one copy a batch, and nothing waits in between.

Who owns which memory, and until when (one stream carries all of it except uploads from the host):

    static input      rows of patches. Written by the patch kernel, read by the replay behind it: the order of
                      the one stream protects it.
    static output     features. The same: the copy to a slot lies between two replays.
    frames, borrowed  until the event behind the patch kernel; then `FrameBatch.release` is called.
    staging           what goes up from the host: the encoder's until the event behind the patch kernel that
                      read it, which is waited for before the next batch is staged.
    pinned slot       features on the host. The writer's, from the event behind the copy to
                      `FeatureBatch.release`.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import TypeAlias

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpupeak.encode.base import Frames, give_back, outcomes
from gpupeak.encode.gpu.attention import APART, Attention, apart
from gpupeak.encode.gpu.device import Cuda, Event, Work
from gpupeak.encode.gpu.inbox import Inbox
from gpupeak.encode.kernels import Kernels
from gpupeak.encode.vit import VisionTower
from gpupeak.errors import DeviceError
from gpupeak.types import Failed, FeatureBatch, FrameBatch

BUCKETS: tuple[int, ...] = (16, 32, 48, 64, 96, 128, 192, 256)
"""Images a graph is captured for. Multiples of 16 fill the matrix units' tiles."""
SLOTS = 8
"""More than the line behind an encoder can keep: a few queued, one in each writer, one being handed over."""


class EagerRunner:
    """Runs a tower from rows at a fixed place to features at a fixed place, launching every operation each time.

    The patch rows of at most `largest` images go to `rows`, `[largest * patches, row]`; their features are in
    `features`, `[largest, dim]`, until the next run. Without an `attention` it is torch that chooses. torch.compile
    compiles once for every number of images, eight at most.
    """

    def __init__(
        self,
        tower: VisionTower,
        cuda: Cuda,
        largest: int,
        kernels: Kernels | None = None,
        attention: Attention | None = None,
        *,
        compile: bool = False,
    ) -> None:
        self.tower = tower = copy.copy(tower)  # the same weights
        tower.kernels = kernels or Kernels()
        self.cuda, self.largest, self._attention = cuda, largest, attention
        self.stream = cuda.stream()
        self._patches = tower.shape.grid**2
        dtype = tower.embed.weight.dtype
        # Zero, not whatever was there: rows of images that are not there are computed with, too.
        self.rows = cuda.zeros((largest * self._patches, tower.row), dtype)
        self.features = cuda.zeros((largest, tower.shape.dim), dtype)
        encode: Callable[[torch.Tensor], torch.Tensor] = tower.encode_rows
        self._encode = torch.compile(encode, dynamic=False, fullgraph=True) if compile else encode

    @torch.inference_mode()
    def run(self, images: int) -> None:
        """Put the work on the current stream that makes features of the first `images` images' rows."""
        with sdpa_kernel(self._attention.backend) if self._attention else contextlib.nullcontext():
            self.features[:images] = self._encode(self.rows[: images * self._patches])


class GraphRunner:
    """Replays the smallest captured graph that holds a batch; what a larger one computes besides is not read.

    Graphs are captured largest first into one pool. Each runs a few times before, on the same stream: that loads its
    kernels and allocates cuBLAS' workspace, neither of which a capture allows.
    """

    def __init__(self, eager: EagerRunner, buckets: Sequence[int] = BUCKETS) -> None:
        self.tower, self.cuda, self.stream = eager.tower, eager.cuda, eager.stream
        self.largest, self.rows, self.features = eager.largest, eager.rows, eager.features
        self._buckets = sorted(set(buckets))
        pool = self.cuda.pool()
        self._graphs: dict[int, Work] = {}
        for bucket in reversed(self._buckets):
            work = partial(eager.run, bucket)
            for _ in range(3):
                self.stream.run("warm up", work)
            self.stream.record().synchronize()
            self._graphs[bucket] = self.cuda.capture(self.stream, pool, work)

    def run(self, images: int) -> None:
        self._graphs[self._buckets[bisect_left(self._buckets, images)]]()

    def check(self) -> None:
        """Hold every graph, kernels and attention included, against torch's plain operations. Raises DeviceError."""
        tower, size, patches = self.tower, self.tower.shape.size, self.tower.shape.grid**2
        plain = copy.copy(tower)
        plain.kernels = Kernels()
        shape = (self.largest, size, size, 3)
        drawn = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        errors: dict[int, float] = {}

        @torch.inference_mode()
        def compare() -> None:
            pixels = drawn.to(self.rows.device)
            images = torch.arange(self.largest, dtype=torch.int32, device=pixels.device)
            with sdpa_kernel(SDPBackend.MATH):
                wanted = torch.cat([plain(some) for some in torch.split(pixels, 16)])
            for bucket in self._buckets:
                rows = self.rows[: bucket * patches]
                tower.write_rows(pixels[:bucket], images[:bucket], rows)
                self.run(bucket)
                errors[bucket] = apart(self.features[:bucket], wanted[:bucket])

        self.stream.run("check", compare)
        self.stream.record().synchronize()
        for bucket, error in errors.items():
            if not error <= APART:  # nor if it is not a number
                raise DeviceError(f"the graph of {bucket} images is wrong: {error:.1g} off torch's plain operations")


Runner: TypeAlias = EagerRunner | GraphRunner


@dataclass(frozen=True, slots=True)
class _Flight:
    """Samples on their way through the GPU: `read` is behind the last read of their frames, `done` behind all."""

    samples: Sequence[Frames]
    features: torch.Tensor
    release: Callable[[], None]
    began: Event
    read: Event
    done: Event


class GraphEncoder:
    """Encodes whatever frames are ready together, on the GPU while the host prepares the next ones.

    It never waits for a second batch while it has one, nor for the disk while a slot is free. A batch is handed on when
    its features have arrived, while the next one is computed. `n` is the most frames a sample can have, `size` their
    edge, the tower's own by default; `slots` is at least 3: two batches are in flight while one is written.
    """

    def __init__(self, runner: Runner, *, n: int = 8, slots: int = SLOTS, size: int | None = None) -> None:
        self._runner, self._write_rows, self._slots = runner, runner.tower.write_rows, slots
        cuda, self._stream, self._uploads = runner.cuda, runner.stream, runner.cuda.stream()
        self._patches, size = runner.tower.shape.grid**2, size or runner.tower.shape.size
        self._most = max(runner.largest, n)  # images a slot
        pictures, numbers = (runner.largest, size, size, 3), (runner.largest,)
        # The tower was made on torch's default stream: these zeros wait for that, too.
        self._pixels, self._staged_pixels = cuda.zeros(pictures, torch.uint8), cuda.pinned(pictures, torch.uint8)
        self._images, self._staged_images = cuda.zeros(numbers, torch.int32), cuda.pinned(numbers, torch.int32)

    def encode(self, batches: Iterable[FrameBatch]) -> Generator[FeatureBatch | Failed]:
        """Yield every sample's features or failure, in order; one call at a time. Raises DeviceError."""
        # Slots live as long as one call: one whose batch was dropped is not missing in the next.
        shape, dtype = (self._most, self._runner.features.shape[1]), self._runner.features.dtype
        free = SimpleQueue[torch.Tensor]()
        for _ in range(self._slots):
            free.put(self._runner.cuda.pinned(shape, dtype))
        reading: list[Frames] = []
        flights: deque[_Flight] = deque()
        with contextlib.closing(Inbox(batches, self._most)) as inbox:
            try:
                while True:
                    reading = inbox.take(self._most, until=flights[0].done.query if flights else None)
                    if not reading:
                        if not flights:
                            return
                        yield from _landed(flights.popleft())
                        continue
                    if free.empty():  # whoever frees a slot may be waiting for these
                        while flights:
                            yield from _landed(flights.popleft())
                    slot = free.get()
                    flights.append(self._launch([*reading], slot, partial(free.put, slot)))
                    landed = _landed(flights.popleft()) if len(flights) > 1 else []
                    # The GPU is past the batch before: its patch kernel is the next thing it does.
                    flights[-1].read.synchronize()
                    give_back(reading)
                    yield from landed
            finally:
                try:
                    self._stream.record().synchronize()  # nobody gets back what is still being read or written
                finally:
                    give_back(reading)

    def _launch(self, samples: Sequence[Frames], slot: torch.Tensor, release: Callable[[], None]) -> _Flight:
        """Put all of the samples' work on the streams; waits for nothing that is not long past."""
        read = began = self._stream.record()
        images = [(frames.batch, row) for frames in samples for row in frames.rows]
        features = slot[: len(images)]
        for first in range(0, len(images), self._runner.largest):
            some = images[first : first + self._runner.largest]
            if first:
                read.synchronize()
            read = self._read(some)
            self._stream.run("replay", partial(self._runner.run, len(some)))
            arrived = features[first : first + len(some)]
            copy = partial(arrived.copy_, self._runner.features[: len(some)], non_blocking=True)
            self._stream.run("copy", copy)
        return _Flight(samples, features, release, began, read, self._stream.record())

    def _read(self, images: Sequence[tuple[FrameBatch, int]]) -> Event:
        """From pixels to the static input; the event is behind the last read of pixels and of what was staged."""
        staged, numbers = self._staged_pixels.numpy(), self._staged_images.numpy()
        last = 0
        for _, group in itertools.groupby(images, _device_batch):
            same = [*group]
            first, last = last, last + len(same)
            batch, _ = same[0]
            if isinstance(batch.pixels, np.ndarray):
                pixels = self._pixels
                for at, (source, row) in enumerate(same, first):
                    staged[at], numbers[at] = source.pixels[row], at
                self._upload(self._staged_pixels[first:last], pixels[first:last])
            else:
                pixels = batch.pixels
                numbers[first:last] = [row for _, row in same]
                if batch.ready is not None:
                    self._stream.wait(batch.ready)
            self._upload(self._staged_images[first:last], self._images[first:last])
            self._stream.wait(self._uploads.record())
            rows = self._runner.rows[first * self._patches : last * self._patches]
            self._stream.run("patch rows", partial(self._write_rows, pixels, self._images[first:last], rows))
        return self._stream.record()

    def _upload(self, staged: torch.Tensor, memory: torch.Tensor) -> None:
        self._uploads.run("upload", partial(memory.copy_, staged, non_blocking=True))


def _landed(flight: _Flight) -> list[FeatureBatch | Failed]:
    flight.done.synchronize()
    seconds = flight.began.elapsed_time(flight.done) / 1000 / len(flight.samples)
    return outcomes(flight.samples, flight.features.numpy(), seconds, flight.release)


def _device_batch(image: tuple[FrameBatch, int]) -> int | None:
    return None if isinstance(image[0].pixels, np.ndarray) else id(image[0])
