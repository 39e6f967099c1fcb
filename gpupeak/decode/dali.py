"""The GPU decoder: NVDEC decodes just the wanted frames, the GPU squashes them, torch is handed them without a copy."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import nvidia.dali
import torch

from gpupeak.channel import Cancelled
from gpupeak.decode.merge import merged
from gpupeak.decode.nvdec import Refused
from gpupeak.decode.worker import Planned
from gpupeak.errors import DeviceError, SampleError
from gpupeak.storage.fetching import at_hand
from gpupeak.types import Failed, FrameBatch, Sample, VideoFacts

__all__ = ["DaliDecoder", "Encoded", "Planner", "Window", "as_swscale", "encoded", "frames_pipeline", "native_bytes"]

dali: Any = nvidia.dali  # its annotations are not complete

_BUFFERED_FRAMES = 8
"""Frames at native size that each of DALI's decoders keeps to put them in order, beside those it was asked for."""
_READY = 2
"""Batches that wait for whoever reads `decode`."""
_READERS = 8
_FAILURES_IN_A_ROW = 64
"""So many samples failing one after another, each by itself, are not the samples' fault."""


class Planner(Protocol):
    """Plans samples in any order, as `pool.WorkerPool` does."""

    def plan(self, samples: Iterable[Sample]) -> Generator[Planned | Failed]: ...

    def close(self) -> None: ...


class DaliDecoder:
    """Plans samples on the CPU, gathers what goes best together, and decodes it in several DALI pipelines at once.

    What NVDEC must not be given (`nvdec.examine`) and what DALI fails on comes out as `Refused`. A batch
    that fails is tried again one sample at a time; the batches before and behind it are not touched.

    Who owns the frames: they lie in memory that DALI allocated for this one batch, kept alive by the
    `FrameBatch` until its `release`. DALI and the corrections here run on a stream of their own, behind
    which `ready` is recorded; what reads the frames waits for it, and calls `release` only when it has
    read them, since the memory is then given out again at once.

    Args:
        n: the most frames a sample can have.
        size: the side of the squashed frames, in pixels; even.
        planner: plans the samples; closed with this decoder.
        device: a CUDA device; or the CPU, where DALI decodes VP8, VP9 and MJPEG only, for tests.
        batch_size: the most videos in a batch.
        window: the most plans that wait to be batched.
        pipelines: DALI pipelines, each on a thread of its own: one does not load all of NVDEC's engines.
        threads: videos that each pipeline decodes at the same time.
        ahead: batches in each pipeline at a time.
        memory: the most bytes of one batch's decoders, frames at native size and files (`native_bytes`);
            each pipeline is at one batch, and the frames of the one before it may not be free yet.

    Raises:
        DeviceError: DALI cannot be set up on the device.
    """

    def __init__(
        self,
        n: int,
        size: int,
        planner: Planner,
        device: torch.device,
        *,
        batch_size: int = 16,
        window: int = 256,
        pipelines: int = 4,
        threads: int = 8,
        ahead: int = 2,
        memory: int = 1 << 30,
    ) -> None:
        if size % 2:
            raise ValueError(f"size is {size}, expected an even number")
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
        """Yield batches of frames, and the samples that fail or are refused, in the order in which they are ready.

        When it has come to the end, it can be called again; cut off before, it cannot.

        Raises:
            DeviceError: DALI fails on whatever it is given.
        """
        window = Window(self._window, self._batch_size, self._memory)
        stages = [self._plan(samples, window), *(self._drive(pipeline, window) for pipeline in self._pipelines)]
        return merged(stages, _READY, window.cancel, "dali")

    def close(self) -> None:
        """End the planner and the pipelines."""
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
        """Whether DALI would decode this video with another size's decoder, and with its colours out of place.

        It looks for a free decoder by the size that is coded, in blocks of 16 pixels, among sizes that are
        shown: 480x270, coded as 480x272, is decoded by what was made for 480x272.
        """
        codec, video = planned.plan.codec, _video(planned)
        coded = (codec, -(-video.width // 16) * 16, -(-video.height // 16) * 16)
        if (codec, video.width, video.height) == coded:
            self._sizes_of_decoders.add(coded)
        elif coded in self._sizes_of_decoders:
            return "size that DALI may decode with another's decoder"
        return None

    def _drive(self, pipeline: Any, window: Window) -> Generator[FrameBatch | Failed | Refused]:
        """Keep one pipeline at work. Its results come in the order of what it was fed, exceptions, too."""
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
                else:
                    self._count_failure(error)
                    yield Refused(flight.batch[0].plan.sample, "DALI failed", _dali_message(error))
                continue
            self._failures = 0
            began, done = max(flight.began, done), time.perf_counter()
            yield self._hand_over(flight.batch, outputs, stream, done - began)

    def _read(self, batch: tuple[Planned, ...]) -> tuple[_Flight, list[Failed]]:
        """Read the files of a batch, several at a time: the planner has just read them, so they are in memory."""
        flight, failed = _Flight([], [], time.perf_counter()), []
        for planned, given in zip(batch, self._readers.map(_encoded, batch), strict=True):
            if isinstance(given, SampleError):
                failed.append(Failed(planned.plan.sample, given.stage, given.reason, planned.plan))
            elif isinstance(given, OSError):
                reason = f"cannot be read: {given.strerror or given}"
                failed.append(Failed(planned.plan.sample, "decode", reason, planned.plan))
            else:
                flight.batch.append(planned)
                flight.given.append(given)
        return flight, failed

    def _count_failure(self, error: RuntimeError) -> None:
        self._failures += 1
        if self._failures >= _FAILURES_IN_A_ROW:
            raise DeviceError(f"DALI failed on {self._failures} samples in a row: {_dali_message(error)}") from error

    def _hand_over(self, batch: list[Planned], outputs: Any, stream: Any, seconds: float) -> FrameBatch:
        """What the encoder is given of a pipeline's outputs: corrected, turned upright, repeats repeated."""
        n, plans = self._n, tuple(planned.plan for planned in batch)
        with torch.cuda.stream(stream):
            tensor = outputs[0].as_tensor()
            # `stream` may read it as soon as DALI has written it: nothing is waited for here.
            capsule = tensor.__dlpack__(stream=stream.cuda_stream) if stream else tensor.__dlpack__()
            pixels = torch.utils.dlpack.from_dlpack(capsule).view(-1, self._size, self._size, 3)
            as_swscale(pixels, [_video(planned).bt709 for planned in batch])
            for frames, planned in zip(torch.split(pixels, n), batch, strict=True):
                gather = planned.plan.gather
                if turns := _video(planned).rotation // 90:
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

    Fed by name, for each video: "encoded", uint8 `[bytes]`, its file, not copied: it is kept until the
    batch's outputs are there; and "frames", int32 `[u]`, `u <= n` different frame numbers. The one output
    is uint8 RGB `[videos, n, size, size, 3]` on `device`; the frames from `u` on are black.
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


class Window:
    """Plans on their way from the planner to the pipelines: whoever has room takes those that go best together.

    A decoder of NVDEC is made for one codec and size, which takes 50-70 ms, so a batch is of the codec and
    size that most plans wait for; only where these are too few is it filled up with others. Nobody waits
    for a batch to become full.

    Args:
        size: the most plans that wait.
        batch_size: the most plans in a batch.
        memory: the most `native_bytes` of a batch; a single plan may take more.
    """

    def __init__(self, size: int, batch_size: int, memory: int) -> None:
        self._size, self._batch_size, self._memory = size, batch_size, memory
        self._groups: dict[tuple[object, ...], deque[Planned]] = {}
        self._waiting = 0
        self._finished = self._cancelled = False
        self._changed = threading.Condition()

    def add(self, planned: Planned) -> None:
        """Add a plan, waiting while the window is full. Raises Cancelled."""
        video = _video(planned)
        kind = (planned.plan.codec, video.width, video.height, video.pix_fmt)
        with self._changed:
            self._changed.wait_for(lambda: self._waiting < self._size or self._cancelled)
            if self._cancelled:
                raise Cancelled
            self._groups.setdefault(kind, deque()).append(planned)
            self._waiting += 1
            self._changed.notify_all()

    def finish(self) -> None:
        """No plan will be added any more."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def cancel(self) -> None:
        """Wake whoever waits here: nothing is taken or added from now on."""
        with self._changed:
            self._cancelled = True
            self._changed.notify_all()

    def take(self, wait: bool) -> tuple[Planned, ...]:
        """A batch of what waits; empty at the end, and where nothing waits now unless `wait`."""
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._waiting or self._finished or self._cancelled)
            if self._cancelled:
                return ()
            batch = self._batch()
            self._waiting -= len(batch)
            self._changed.notify_all()
            return tuple(batch)

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
    """Bytes that decoding a video takes: its RGB frames at native size, its decoder's, and its file."""
    video = _video(planned)
    frames = len(planned.plan.unique) + _BUFFERED_FRAMES
    return frames * video.width * video.height * 3 + video.bytes


# The weights of R, G and B in luma, by ITU-R BT.601 and BT.709. Cb and Cr are B - luma and R - luma, scaled so that
# the largest is 1/2; which range of integers stands for all this is the same in both.
_BT601, _BT709 = (0.299, 0.587, 0.114), (0.2126, 0.7152, 0.0722)
# By how much swscale's SIMD code rounds down, on average, by matrix: flat pictures of every colour, FFmpeg 8, x86.
_ROUNDED_DOWN = {_BT601: (1.8, 1.2, 1.5), _BT709: (2.3, 1.8, 2.1)}
_AT_ONCE = 8
"""Samples corrected at once: what is corrected takes 12 times its memory meanwhile."""


def as_swscale(pixels: torch.Tensor, bt709: Sequence[bool]) -> None:
    """Bring what DALI made of some videos close to what libav's swscale would have made of them, in place.

    DALI takes every video for BT.601, so those of BT.709 are converted once more. swscale squashes Cb and Cr to
    half the width when it makes RGB, and rounds down. On films of 320x240 to 1280x720 (VP9, decoded by DALI on
    the CPU) this takes the mean absolute difference from 1.5-2.0 of 255 to 0.5-0.7.

    Args:
        pixels: uint8 RGB `[videos * n, size, size, 3]`, `size` even, of any device.
        bt709: whether the stream is tagged as BT.709, for each video.
    """
    n = len(pixels) // len(bt709)
    start = 0
    for tagged, same in groupby(bt709):
        stop = start + n * len(list(same))
        for frames in torch.split(pixels[start:stop], n * _AT_ONCE):
            rgb = frames.float()
            if tagged:
                rgb = _mixed(rgb, _bt709_from_bt601())
            weights = _BT709 if tagged else _BT601
            pairs = rgb.view(*rgb.shape[:2], -1, 2, 3)
            luma = _mixed(pairs, np.array([weights]))
            colour = (pairs - luma).mean(3, keepdim=True)
            # Each by a number: a tensor of them would be copied to the device, and that waits for the decoder.
            channels = zip((luma + colour).unbind(-1), _ROUNDED_DOWN[weights], strict=True)
            rgb = torch.stack([channel - down for channel, down in channels], -1).view(rgb.shape)
            frames.copy_(rgb.round_().clamp_(0, 255))
        start = stop


def _mixed(rgb: torch.Tensor, matrix: npt.NDArray[np.float64]) -> torch.Tensor:
    """`rgb @ matrix.T`; not as a matrix product, which the encoder may have allowed to be one of TF32."""
    red, green, blue = rgb.unbind(-1)
    return torch.stack([float(r) * red + float(g) * green + float(b) * blue for r, g, b in matrix], -1)


def _bt709_from_bt601() -> npt.NDArray[np.float64]:
    """The matrix from the RGB that BT.601 makes of some YCbCr to the RGB that BT.709 makes of it."""
    made: npt.NDArray[np.float64] = np.linalg.inv(_to_ycbcr(_BT709)) @ _to_ycbcr(_BT601)
    return made


def _to_ycbcr(weights: tuple[float, float, float]) -> npt.NDArray[np.float64]:
    (red, _, blue), luma = weights, np.array(weights)
    cb = (np.array([0, 0, 1]) - luma) / (2 * (1 - blue))
    cr = (np.array([1, 0, 0]) - luma) / (2 * (1 - red))
    return np.stack([luma, cb, cr])


@dataclass(frozen=True, slots=True)
class _Flight:
    """A batch in a pipeline, with the files that the pipeline reads without a copy."""

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
    """A sample's video as it lies on disk. Raises OSError; SampleError if it cannot be fetched to there any more."""
    with at_hand(planned.plan.sample, aus=False):
        return Encoded(np.fromfile(str(planned.plan.sample.video), np.uint8), planned.plan.unique)


def _encoded(planned: Planned) -> Encoded | OSError | SampleError:
    try:
        return encoded(planned)
    except (OSError, SampleError) as error:
        return error


def _video(planned: Planned) -> VideoFacts:
    video = planned.plan.video
    assert video is not None  # the planner examines every video
    return video


def _dali_message(error: RuntimeError) -> str:
    """The line of DALI's account that says what was wrong."""
    lines = str(error).partition("encountered:")[2].split("\n") + str(error).split("\n")
    return next((line for line in map(str.strip, lines) if line), "no reason given")
