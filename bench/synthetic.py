"""A decoder that opens no file and an encoder that computes nothing: the rest of the line measured and tested alone."""

from __future__ import annotations

import random
import time
from collections.abc import Generator, Iterable

import numpy as np

from gpupeak.types import FeatureBatch, FrameBatch, FramePlan, Sample

_GRID = 8


class SyntheticDecoder:
    """Gives every sample frames that depend on its name only: a sample mixed up with another is noticed.

    Frames are uint8 `[n, size, size, 3]`, each of one grey; planning pretends a video of `frames` frames.
    """

    def __init__(self, size: int = 224, frames: int = 100) -> None:
        self._size, self._frames = size, frames

    def decode(self, samples: Iterable[Sample]) -> Generator[FrameBatch]:
        """Yield one batch a sample, in order."""
        for sample in samples:
            n = sample.rule.n
            plan = FramePlan(sample, tuple(i * self._frames // n for i in range(n)), self._frames, "synthetic")
            pixels = np.empty((n, self._size, self._size, 3), np.uint8)
            for frame, grey in zip(pixels, random.Random(str(sample)).randbytes(n), strict=True):
                frame.fill(grey)
            yield FrameBatch((plan,), pixels, ((0, n),), ({"plan": 0.0, "decode": 0.0},))

    def close(self) -> None:
        """Nothing to end."""


class SyntheticEncoder:
    """Features are values of pixels, float32 `[R, dim]`: frames mixed up with others are noticed.

    Feature d is the d-th number, from the start again after the last, of the 8 x 8 pixels that lie
    `size // 8` apart.
    """

    def __init__(self, dim: int, size: int) -> None:
        self._size = size
        line = np.arange(0, size, max(1, size // _GRID))
        numbers = ((line[:, None] * size + line)[..., None] * 3 + np.arange(3)).ravel()
        self._where = np.resize(numbers, dim)

    def encode(self, batches: Iterable[FrameBatch]) -> Generator[FeatureBatch]:
        """Yield one batch for each, with its spans; release what was read."""
        for batch in batches:
            began = time.perf_counter()
            try:
                frames = np.asarray(batch.pixels).reshape(len(batch.pixels), 3 * self._size**2)
                features = frames[:, self._where].astype(np.float32)
            finally:
                batch.release()
            each = (time.perf_counter() - began) / max(1, len(batch.plans))
            seconds = tuple({**spent, "encode": each} for spent in batch.seconds)
            yield FeatureBatch(batch.plans, features, batch.spans, seconds)
