"""A decoder that opens no file: the rest of the line driven, measured and tested alone."""

from __future__ import annotations

import random
from collections.abc import Generator, Iterable

import numpy as np

from gpupeak.types import FrameBatch, FramePlan, Sample

__all__ = ["SyntheticDecoder"]


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
