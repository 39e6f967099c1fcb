"""How are frames decoded on NVDEC? DALI decodes and squashes the wanted ones; torch gets them without a copy."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable
from functools import partial
from typing import Any

import numpy as np
import nvidia.dali
import torch

from gpupeak.channel import Cancelled, merged
from gpupeak.decode.colours import as_swscale
from gpupeak.decode.driver import Abilities, lacking
from gpupeak.decode.nvdec import Refused
from gpupeak.decode.pool import WorkerPool
from gpupeak.decode.worker import Planned
from gpupeak.errors import DeviceError
from gpupeak.types import Failed, FrameBatch, Sample, Span, VideoFacts
from gpupeak.video.remake import Remade, in_blocks

dali: Any = nvidia.dali  # its annotations are not complete

_BUFFERED_FRAMES = 8  # that each of DALI's decoders keeps to put them in order
_WAITING_BYTES = 256 << 20
_READY = 2  # batches that wait for whoever reads `decode`
_MOST_PIPELINES = 8
_FAILURES_IN_A_ROW = 64  # so many, each by itself, are not the samples' fault


class DaliDecoder:
    """Plans samples on the CPU, gathers what goes best together, and decodes it in several DALI pipelines at once.

    What NVDEC must not be given (`nvdec.examine`) and what DALI fails on comes out as `Refused`. The samples of a batch
    that fails are tried again one by one; other batches are not touched. DALI does not tell that a picture was not
    delivered, and leaves its place as the memory was: then the last picture, the first one again, is not the same.
    CUDA's errors after which the process cannot use the GPU are raised as torch does.

    Who owns the frames: DALI allocated their memory for this one batch, and the `FrameBatch` keeps it until `release`.
    DALI and the corrections run on a stream of their own, behind which `ready` is recorded. Whoever reads the frames
    waits for `ready`, and calls `release` only after reading: the memory is then used again.

    Args:
        n, size: the most frames a sample can have, and the side of the squashed frames in pixels, even.
        device: a CUDA device; for tests the CPU, where DALI decodes VP8, VP9 and MJPEG only.
        batch_size, memory: the most videos, and the most `native_bytes`, in a batch; a video of more is refused.
        window: the most plans that wait to be batched.
        pipelines: each on a thread of its own; by default one more than the engines that NVDEC has by `abilities`, at
            most 8, and 8 if that is unknown. All videos of one wait for each other's pictures on one stream.
        threads, ahead: videos that each decodes at the same time, and batches in it at a time.
        abilities: what this GPU's NVDEC decodes, if it was asked; anything else is refused.
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
        pipelines: int | None = None,
        threads: int = 4,
        ahead: int = 2,
        memory: int = 768 << 20,
        abilities: Abilities | None = None,
    ) -> None:
        self._n, self._size, self._planner, self._device = n, size, planner, device
        self._batch_size, self._window, self._ahead, self._memory = batch_size, window, ahead, memory
        self._abilities = abilities
        self._failures = 0
        self._decoders: dict[tuple[str, int, int], tuple[int, int]] = {}
        engines = max((ability.engines for ability in (abilities or {}).values()), default=0)
        count = pipelines or min(engines + 1 if engines else _MOST_PIPELINES, _MOST_PIPELINES)
        try:
            self._pipelines = [frames_pipeline(device, n + 2, size, batch_size, threads) for _ in range(count)]
        except RuntimeError as error:
            self.close()
            raise DeviceError(f"DALI cannot be set up on {device}: {_dali_message(error)}") from error

    def decode(self, samples: Iterable[Sample]) -> Generator[FrameBatch | Failed | Refused]:
        """Yield batches of frames, and what fails or is refused, as they are ready. Raises DeviceError."""
        window = Window(self._window, self._batch_size, self._memory)
        stages = [self._plan(samples, window), *(self._drive(pipeline, window) for pipeline in self._pipelines)]
        return merged(stages, _READY, partial(window.finish, True), "dali")

    def close(self) -> None:
        self._planner.close()
        self._pipelines = []

    def _plan(self, samples: Iterable[Sample], window: Window) -> Generator[Failed | Refused]:
        try:
            with contextlib.closing(self._planner.plan(samples)) as answers:
                for answer in answers:
                    if isinstance(answer, Failed):
                        yield answer
                    elif isinstance(reason := answer.given, str) or (reason := self._unfit(answer)):
                        yield Refused(answer.plan.sample, reason)
                    else:
                        window.add(answer)
        finally:
            window.finish()

    def _unfit(self, planned: Planned) -> str:
        """Why it is not to be decoded here, or ""."""
        codec, size = planned.plan.codec, remade(planned).coded
        if self._abilities and (lacks := lacking(self._abilities, codec, facts(planned).pix_fmt, size)):
            return lacks
        if native_bytes(planned) > self._memory:
            return f"frames of more than {self._memory >> 20} MiB"
        # DALI looks up the coded size, in blocks of 16, among its decoders' shown sizes. They are the same but in HEVC
        # and VP9, which code blocks of 8: 480x264 would get a decoder of 480x272.
        if self._decoders.setdefault((codec, *in_blocks(size)), size) != size:
            return "size that DALI may decode with another's decoder"
        return ""

    def _drive(self, pipeline: Any, window: Window) -> Generator[FrameBatch | Failed | Refused]:
        """Keep one pipeline at work. Results and exceptions come in the order in which it was fed."""
        stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None  # type: ignore[no-untyped-call]
        in_flight: deque[tuple[tuple[Planned, ...], float]] = deque()
        alone: deque[Planned] = deque()
        done = 0.0
        while True:
            while len(in_flight) < self._ahead:
                # Waiting for more plans is for when there are no results to wait for.
                batch = (alone.popleft(),) if alone else window.take(wait=not in_flight)
                if not batch:
                    break
                in_flight.append((batch, time.perf_counter()))
                _start(pipeline, batch)  # its errors are the run's: inputs fed by half would be the next batch's
            if not in_flight:
                return
            batch, began = in_flight.popleft()
            try:
                outputs = pipeline.share_outputs(stream)
                pipeline.release_outputs()  # whoever holds the outputs keeps their memory
                began, done = max(began, done), time.perf_counter()
                items = self._hand_over(batch, outputs, stream, done - began)
            except Exception as error:  # of C++: RuntimeError, IndexError, ValueError, TypeError, MemoryError
                if stream is not None:
                    stream.synchronize()  # raises where CUDA can do no more; else nothing uses the outputs any more
                if len(batch) > 1:
                    alone.extend(batch)
                    continue
                self._failures += 1
                if self._failures >= _FAILURES_IN_A_ROW:
                    reason = f"DALI failed on {self._failures} samples in a row: {_dali_message(error)}"
                    raise DeviceError(reason) from error
                yield Refused(batch[0].plan.sample, "DALI failed", _dali_message(error))
                continue
            self._failures = 0
            yield from items

    def _hand_over(
        self, batch: tuple[Planned, ...], outputs: Any, stream: Any, seconds: float
    ) -> list[FrameBatch | Refused]:
        with torch.cuda.stream(stream):
            tensor = outputs[0].as_tensor()
            # `stream` may read it as soon as DALI has written it.
            capsule = tensor.__dlpack__(stream=stream.cuda_stream) if stream else tensor.__dlpack__()
            videos = torch.utils.dlpack.from_dlpack(capsule)
            # Waits, for the squash of this batch only: pictures have been waited for, the next batch is being decoded.
            same = (videos[:, 0] == videos[:, 1]).flatten(1).all(1).tolist()
            pixels = videos.view(-1, self._size, self._size, 3)
            as_swscale(pixels, [facts(planned) for planned in batch], by_gpu=stream is not None)
            items: list[FrameBatch | Refused] = []
            whole: list[tuple[Planned, Span]] = []
            for number, (planned, delivered) in enumerate(zip(batch, same, strict=True)):
                if not delivered:
                    items.append(Refused(planned.plan.sample, "DALI failed", "a picture was not delivered"))
                    continue
                # The first picture, of row 1, may be wanted, too.
                start = number * (self._n + 2) + (2 if remade(planned).ordinals[0] else 1)
                frames, gather = pixels[start : start + self._n], planned.plan.gather
                if turns := facts(planned).rotation // 90:
                    frames.copy_(torch.rot90(frames, turns, (1, 2)))
                if gather != tuple(range(len(gather))):
                    frames[: len(gather)] = torch.stack([frames[place] for place in gather])
                whole.append((planned, (start, start + len(gather))))
            ready = stream.record_event() if stream else None
        if whole:
            plans, spans = tuple(planned.plan for planned, _ in whole), tuple(span for _, span in whole)
            each = tuple({**planned.seconds, "decode": seconds / len(batch)} for planned, _ in whole)
            lent = [outputs, tensor, videos, pixels]
            items.append(FrameBatch(plans, pixels if stream else pixels.numpy(), spans, each, lent.clear, ready))
        return items


def frames_pipeline(device: torch.device, n: int, size: int, batch_size: int, threads: int) -> Any:
    """A built DALI pipeline that decodes and squashes; `schedule_run` and `share_outputs` once a batch.

    It is fed for each video "encoded", uint8 `[bytes]`, its file, kept until the outputs are there; "frames", int32
    `[u]`, `u <= n` frame numbers, each once; "shown", int32 `[2]`, height and width that are not cropped. Its output is
    uint8 RGB `[videos, n, size, size, 3]`, black from `u` on. A frame that the file does not have is an error.
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
        shown = fn.external_source(name="shown", dtype=types.INT32, ndim=1)
        # Not affine: every pipeline would pin its threads to the same first cores.
        where = "mixed" if mixed else "cpu"
        video = fn.decoders.video(encoded, frames=frames, device=where, affine=False, pad_mode="none")
        # Cropped first: given a region of interest, the filter of `resize` reaches over its edges.
        cropped = fn.slice(video, start=(0, 0), shape=shown, axes=(1, 2))
        # The antialiased triangular filter is swscale's bilinear one.
        squashed = fn.resize(cropped, size=(size, size), interp_type=types.INTERP_TRIANGULAR)
        pipeline.set_outputs(fn.pad(squashed, axes=(0,), shape=(n,)))
    pipeline.build()
    return pipeline


def _start(pipeline: Any, batch: Iterable[Planned]) -> None:
    """Rows are a video's last picture, its first, and the other wanted ones: a row asked for twice would begin anew."""
    made = [remade(planned) for planned in batch]
    pipeline.feed_input("encoded", [np.frombuffer(each.data, np.uint8) for each in made])
    frames = [(each.pictures - 1, 0, *filter(None, each.ordinals)) for each in made]
    pipeline.feed_input("frames", [np.array(each, np.int32) for each in frames])
    pipeline.feed_input("shown", [np.array(each.shown[::-1], np.int32) for each in made])
    pipeline.schedule_run()


def _dali_message(error: Exception) -> str:
    lines = str(error).partition("encountered:")[2].split("\n") + str(error).split("\n")
    return next((line for line in map(str.strip, lines) if line), "no reason given")


class Window:
    """At most `size` plans on their way from the planner to the pipelines, which take those that go best together.

    A decoder of NVDEC is made for one codec and coded size, in 50-70 ms: a batch is of the kind that most plans wait
    for, filled up with others. It has at most `batch_size` plans and `memory` of `native_bytes`, but at least one plan.
    What waits are the packets, too, so at most 256 MiB of them wait, or one plan.
    """

    def __init__(self, size: int, batch_size: int, memory: int) -> None:
        self._size, self._batch_size, self._memory = size, batch_size, memory
        self._groups: dict[tuple[object, ...], deque[Planned]] = {}
        self._waiting = self._bytes = 0
        self._finished = self._cancelled = False
        self._changed = threading.Condition()

    def add(self, planned: Planned) -> None:
        """Add a plan, waiting while the window is full. Raises Cancelled."""
        made = remade(planned)
        kind = (planned.plan.codec, made.coded, facts(planned).pix_fmt)
        with self._changed:
            self._changed.wait_for(lambda: self._has_room(len(made.data)) or self._cancelled)
            if self._cancelled:
                raise Cancelled
            self._groups.setdefault(kind, deque()).append(planned)
            self._waiting += 1
            self._bytes += len(made.data)
            self._changed.notify_all()

    def finish(self, cancelled: bool = False) -> None:
        with self._changed:
            self._finished, self._cancelled = True, self._cancelled or cancelled
            self._changed.notify_all()

    def take(self, wait: bool) -> tuple[Planned, ...]:
        """A batch of what waits; empty at the end, and where nothing waits now unless `wait`."""
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._waiting or self._finished)
            batch = [] if self._cancelled else self._batch()
            self._waiting -= len(batch)
            self._bytes -= sum(len(remade(planned).data) for planned in batch)
            self._changed.notify_all()
            return tuple(batch)

    def _has_room(self, size: int) -> bool:
        return not self._waiting or (self._waiting < self._size and self._bytes + size <= _WAITING_BYTES)

    def _batch(self) -> list[Planned]:
        batch: list[Planned] = []
        memory = 0
        for kind in sorted(self._groups, key=lambda kind: -len(self._groups[kind])):
            group = self._groups[kind]
            while group:
                memory += native_bytes(group[0])
                if batch and (len(batch) == self._batch_size or memory > self._memory):
                    return batch
                batch.append(group.popleft())
            del self._groups[kind]
        return batch


def native_bytes(planned: Planned) -> int:
    """Bytes that decoding a video takes: its RGB frames at coded size, twice, its decoder's, and its packets."""
    made = remade(planned)
    frames = 2 * (len(made.ordinals) + 2) + _BUFFERED_FRAMES
    return frames * made.coded[0] * made.coded[1] * 3 + len(made.data)


def facts(planned: Planned) -> VideoFacts:
    assert planned.plan.video is not None
    return planned.plan.video


def remade(planned: Planned) -> Remade:
    assert not isinstance(planned.given, str), planned.given
    return planned.given
