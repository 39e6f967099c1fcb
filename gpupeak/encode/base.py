"""From frames to features on any torch device, one batch after another."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, MutableSequence, Sequence
from typing import NamedTuple

import numpy as np
import torch

from gpupeak.errors import DeviceError
from gpupeak.types import Failed, FeatureBatch, FrameBatch, FramePlan, Seconds, Span


class TowerEncoder:
    """Runs `tower`, uint8 RGB `[N, size, size, 3]` -> float32 `[N, dim]`, over `batch_size` samples at a time, in
    parts of at most `images`.

    With one at a time features do not depend on which samples meet: rounding changes with a product's number of rows.
    """

    def __init__(
        self,
        tower: Callable[[torch.Tensor], torch.Tensor],
        device: torch.device | str = "cpu",
        batch_size: int = 1,
        images: int = 256,
    ) -> None:
        self._tower = tower
        self._device = torch.device(device)
        self._batch_size, self._images = batch_size, images

    def encode(self, batches: Iterable[FrameBatch]) -> Generator[FeatureBatch | Failed]:
        """Yield every sample's features or failure; release each `FrameBatch` when it has been read. Raises
        DeviceError."""
        samples: list[Frames] = []
        try:
            for batch in batches:
                if batch.ready is not None:
                    batch.ready.wait(torch.cuda.current_stream(self._device))
                samples += frames_of(batch)
                if len(samples) >= self._batch_size:
                    done = list(self._encode(samples))
                    give_back(samples)
                    yield from done
            done = list(self._encode(samples))
        finally:
            give_back(samples)
        yield from done

    def _encode(self, samples: list[Frames]) -> Iterator[FeatureBatch | Failed]:
        for at in range(0, len(samples), self._batch_size):
            together = samples[at : at + self._batch_size]
            began = time.perf_counter()
            features = self._features(torch.cat([_pixels(frames) for frames in together]))
            yield from outcomes(together, features, (time.perf_counter() - began) / len(together))

    @torch.inference_mode()
    def _features(self, pixels: torch.Tensor) -> np.ndarray:
        try:
            parts = [self._tower(part.to(self._device)) for part in torch.split(pixels, self._images)]
            return torch.cat(parts).cpu().numpy()
        except torch.OutOfMemoryError as error:
            images = min(len(pixels), self._images)
            raise DeviceError(f"{self._device.type} has not memory enough for {images} frames at once") from error


class Frames(NamedTuple):
    """One sample's frames, `rows` of a batch. Behind the `last` sample of a batch, its frames are given back."""

    plan: FramePlan
    seconds: Seconds
    batch: FrameBatch
    rows: range
    last: bool


def frames_of(batch: FrameBatch) -> Iterator[Frames]:
    """The samples of a batch, of which it has at least one."""
    for number, plan in enumerate(batch.plans, 1):
        rows = range(*batch.spans[number - 1])
        yield Frames(plan, batch.seconds[number - 1], batch, rows, number == len(batch.plans))


def give_back(read: MutableSequence[Frames]) -> None:
    """Release the batches of which these are the last samples, once: nothing is left in `read`."""
    for frames in read:
        if frames.last:
            frames.batch.release()
    read.clear()


def _pixels(frames: Frames) -> torch.Tensor:
    pixels = frames.batch.pixels[frames.rows.start : frames.rows.stop]
    if isinstance(pixels, torch.Tensor):
        return pixels
    return torch.from_numpy(np.require(pixels, requirements="W"))  # torch warns of read-only arrays


def outcomes(
    samples: Sequence[Frames], features: np.ndarray, seconds: float, release: Callable[[], None] = lambda: None
) -> list[FeatureBatch | Failed]:
    """What becomes of samples that were encoded together, `features` `[R, dim]` being their rows one after another."""
    finite = np.isfinite(features).all(axis=1)
    good: list[tuple[FramePlan, Span, Seconds]] = []
    failed: list[Failed] = []
    stop = 0
    for plan, spent, _, rows, _ in samples:
        start, stop = stop, stop + len(rows)
        bad = int((~finite[start:stop]).sum())
        if bad:
            reason = f"the features of {bad} of {stop - start} frames are not finite"
            failed.append(Failed(plan.sample, "encode", reason, plan))
        else:
            good.append((plan, (start, stop), {**spent, "encode": seconds}))
    if not good:
        release()
        return [*failed]
    plans, spans, spent_on = zip(*good, strict=True)
    return [*failed, FeatureBatch(plans, features, spans, spent_on, release)]
