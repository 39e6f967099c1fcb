"""How are frames decoded on NVDEC? DALI decodes and squashes the wanted ones; torch gets them without a copy."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import nvidia.dali
import torch

from gpupeak.channel import merged
from gpupeak.decode.colours import as_swscale
from gpupeak.decode.nvdec import Refused
from gpupeak.decode.pool import WorkerPool
from gpupeak.decode.window import Window, facts
from gpupeak.decode.worker import Planned
from gpupeak.errors import DeviceError
from gpupeak.types import Failed, FrameBatch, Sample

dali: Any = nvidia.dali  # its annotations are not complete

_READY = 2  # batches that wait for whoever reads `decode`
_READERS = 8
_FAILURES_IN_A_ROW = 64  # so many, each by itself, are not the samples' fault


class DaliDecoder:
    """Plans samples on the CPU, gathers what goes best together, and decodes it in several DALI pipelines at once.

    What NVDEC must not be given (`nvdec.examine`) and what DALI fails on comes out as `Refused`. The samples of a batch
    that fails are tried again one by one; other batches are not touched.

    Who owns the frames: DALI allocated their memory for this one batch, and the `FrameBatch` keeps it until `release`.
    DALI and the corrections run on a stream of their own, behind which `ready` is recorded. Whoever reads the frames
    waits for `ready`, and calls `release` only after reading: the memory is then used again.

    Args:
        n, size: the most frames a sample can have, and the side of the squashed frames in pixels, even.
        device: a CUDA device; for tests the CPU, where DALI decodes VP8, VP9 and MJPEG only.
        batch_size, memory: the most videos, and the most `native_bytes`, in a batch.
        window: the most plans that wait to be batched.
        pipelines: each on a thread of its own: one does not load all of NVDEC's engines.
        threads, ahead: videos that each decodes at the same time, and batches in it at a time.
    """

    def __init__(
        self,
        n: int,
        size: int,
        planner: WorkerPool,
        device: torch.device,
        *,
        batch_size: int = 16,
        window: int = 256,
        pipelines: int = 4,
        threads: int = 8,
        ahead: int = 2,
        memory: int = 1 << 30,
    ) -> None:
        self._n, self._size, self._planner, self._device = n, size, planner, device
        self._batch_size, self._window, self._ahead, self._memory = batch_size, window, ahead, memory
        self._failures = 0
        self._sizes_of_decoders: set[tuple[str, int, int]] = set()
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="gpupeak-read")
        try:
            self._pipelines = [frames_pipeline(device, n, size, batch_size, threads) for _ in range(pipelines)]
        except RuntimeError as error:
            self.close()
            raise DeviceError(f"DALI cannot be set up on {device}: {_dali_message(error)}") from error

    def decode(self, samples: Iterable[Sample]) -> Generator[FrameBatch | Failed | Refused]:
        """Yield batches of frames, and what fails or is refused, as they are ready. Raises DeviceError."""
        window = Window(self._window, self._batch_size, self._memory)
        stages = [self._plan(samples, window), *(self._drive(pipeline, window) for pipeline in self._pipelines)]
        return merged(stages, _READY, window.cancel, "dali")

    def close(self) -> None:
        self._planner.close()
        self._readers.shutdown(cancel_futures=True)
        self._pipelines = []

    def _plan(self, samples: Iterable[Sample], window: Window) -> Generator[Failed | Refused]:
        try:
            with contextlib.closing(self._planner.plan(samples)) as answers:
                for answer in answers:
                    if isinstance(answer, Failed):
                        yield answer
                    elif reason := answer.unfit or self._shares_a_decoder(answer):
                        yield Refused(answer.plan.sample, reason)
                    else:
                        window.add(answer)
        finally:
            window.finish()

    def _shares_a_decoder(self, planned: Planned) -> str | None:
        """DALI looks up the coded size, in blocks of 16, among its decoders' shown sizes: 480x270 gets one of
        480x272."""
        codec, video = planned.plan.codec, facts(planned)
        coded = (codec, -(-video.width // 16) * 16, -(-video.height // 16) * 16)
        if (codec, video.width, video.height) == coded:
            self._sizes_of_decoders.add(coded)
        elif coded in self._sizes_of_decoders:
            return "size that DALI may decode with another's decoder"
        return None

    def _drive(self, pipeline: Any, window: Window) -> Generator[FrameBatch | Failed | Refused]:
        """Keep one pipeline at work. Results and exceptions come in the order in which it was fed."""
        stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None  # type: ignore[no-untyped-call]
        in_flight: deque[_Flight] = deque()
        alone: deque[Planned] = deque()
        done = 0.0
        while True:
            while len(in_flight) < self._ahead:
                # Waiting for more plans is for when there are no results to wait for.
                batch = (alone.popleft(),) if alone else window.take(wait=not in_flight)
                if not batch:
                    break
                flight, failed = self._read(batch)
                yield from failed
                if flight.batch:
                    flight.start(pipeline)
                    in_flight.append(flight)
            if not in_flight:
                return
            flight = in_flight.popleft()
            try:
                outputs = pipeline.share_outputs(stream)
                pipeline.release_outputs()  # whoever holds the outputs keeps their memory
            except RuntimeError as error:
                if len(flight.batch) > 1:
                    alone.extend(flight.batch)
                    continue
                self._failures += 1
                if self._failures >= _FAILURES_IN_A_ROW:
                    reason = f"DALI failed on {self._failures} samples in a row: {_dali_message(error)}"
                    raise DeviceError(reason) from error
                yield Refused(flight.batch[0].plan.sample, "DALI failed", _dali_message(error))
                continue
            self._failures = 0
            began, done = max(flight.began, done), time.perf_counter()
            yield self._hand_over(flight.batch, outputs, stream, done - began)

    def _read(self, batch: tuple[Planned, ...]) -> tuple[_Flight, list[Failed]]:
        """Read the files of a batch, several at a time: the planner has read them, so the system has them cached."""
        flight, failed = _Flight([], [], time.perf_counter()), list[Failed]()
        reads = [self._readers.submit(encoded, planned) for planned in batch]
        for planned, read in zip(batch, reads, strict=True):
            if isinstance(error := read.exception(), OSError):
                reason = f"cannot be read: {error.strerror or error}"
                failed.append(Failed(planned.plan.sample, "decode", reason, planned.plan))
            else:
                flight.given.append(read.result())
                flight.batch.append(planned)
        return flight, failed

    def _hand_over(self, batch: list[Planned], outputs: Any, stream: Any, seconds: float) -> FrameBatch:
        n, plans = self._n, tuple(planned.plan for planned in batch)
        with torch.cuda.stream(stream):
            tensor = outputs[0].as_tensor()
            # `stream` may read it as soon as DALI has written it: nothing is waited for here.
            capsule = tensor.__dlpack__(stream=stream.cuda_stream) if stream else tensor.__dlpack__()
            pixels = torch.utils.dlpack.from_dlpack(capsule).view(-1, self._size, self._size, 3)
            as_swscale(pixels, [facts(planned).bt709 for planned in batch])
            for frames, planned in zip(torch.split(pixels, n), batch, strict=True):
                gather = planned.plan.gather
                if turns := facts(planned).rotation // 90:
                    frames.copy_(torch.rot90(frames, turns, (1, 2)))
                if gather != tuple(range(len(gather))):
                    frames[: len(gather)] = torch.stack([frames[place] for place in gather])
            ready = stream.record_event() if stream else None
        lent = [outputs, tensor, pixels]
        return FrameBatch(
            plans,
            pixels if stream else pixels.numpy(),
            tuple((number * n, number * n + len(plan.indices)) for number, plan in enumerate(plans)),
            tuple({**planned.seconds, "decode": seconds / len(batch)} for planned in batch),
            lent.clear,
            ready,
        )


def frames_pipeline(device: torch.device, n: int, size: int, batch_size: int, threads: int) -> Any:
    """A built DALI pipeline that decodes and squashes; `schedule_run` and `share_outputs` once a batch.

    It is fed for each video "encoded", uint8 `[bytes]`, its file, kept until the outputs are there, and "frames", int32
    `[u]`, `u <= n` frame numbers. Its output is uint8 RGB `[videos, n, size, size, 3]`, black from `u` on.
    """
    mixed = device.type == "cuda"
    fn, types = dali.fn, dali.types
    pipeline = dali.Pipeline(
        batch_size=batch_size,
        num_threads=threads,
        device_id=device.index or 0 if mixed else None,
        exec_dynamic=True,  # after a batch that raised, it goes on with the next
        prefetch_queue_depth=1,  # what the first schedule_run starts; it queues as many as it is told to
    )
    with pipeline:
        encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1, no_copy=True)
        frames = fn.external_source(name="frames", dtype=types.INT32, ndim=1)
        # Not affine: every pipeline would pin its threads to the same first cores.
        video = fn.decoders.video(encoded, frames=frames, device="mixed" if mixed else "cpu", affine=False)
        # The antialiased triangular filter is swscale's bilinear one.
        squashed = fn.resize(video, size=(size, size), interp_type=types.INTERP_TRIANGULAR)
        pipeline.set_outputs(fn.pad(squashed, axes=(0,), shape=(n,)))
    pipeline.build()
    return pipeline


@dataclass(frozen=True, slots=True)
class _Flight:
    batch: list[Planned]
    given: list[Encoded]
    began: float

    def start(self, pipeline: Any) -> None:
        pipeline.feed_input("encoded", [given.file for given in self.given])
        pipeline.feed_input("frames", [np.array(given.frames, np.int32) for given in self.given])
        pipeline.schedule_run()


class Encoded(NamedTuple):
    """What DALI is given of a sample: a file, uint8 `[bytes]`, and which of its frames are the plan's `unique`."""

    file: npt.NDArray[np.uint8]
    frames: tuple[int, ...]


def encoded(planned: Planned) -> Encoded:
    """A sample's video as it lies on disk. Raises OSError."""
    return Encoded(np.fromfile(str(planned.plan.sample.video), np.uint8), planned.plan.unique)


def _dali_message(error: RuntimeError) -> str:
    lines = str(error).partition("encountered:")[2].split("\n") + str(error).split("\n")
    return next((line for line in map(str.strip, lines) if line), "no reason given")
