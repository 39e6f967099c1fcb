"""An encoder that computes nothing: the rest of the line driven, measured and tested alone."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable

import numpy as np

from gpupeak.types import FeatureBatch, FrameBatch

__all__ = ["SyntheticEncoder"]

_GRID = 8


class SyntheticEncoder:
    """Features are values of pixels, float32 `[R, dim]`: frames mixed up with others are noticed.

    Feature d is the d-th number, from the start again after the last, of the 8 x 8 pixels that lie
    `size // 8` apart.
    """

    def __init__(self, dim: int, size: int) -> None:
        self._size = size
        step = max(1, size // _GRID)
        line = np.arange(0, size, step)
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
