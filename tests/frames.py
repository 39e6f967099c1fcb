"""Frames on their way to an encoder: what their features must be, and whether each batch is given back, once."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from lazy_cuda import LazyCuda
from samples import plan
from tiny import state

from gpupeak.encode.vit import VisionTower
from gpupeak.encoders import TowerShape
from gpupeak.types import Failed, FeatureBatch, FrameBatch

SHAPE = TowerShape(size=28, patch=14, width=32, layers=2, heads=2, dim=8)
HERE = Path("features")


@cache
def tower(shape: TowerShape = SHAPE) -> VisionTower:
    return VisionTower.from_state(state(7, shape), shape)


def pictures(name: str, count: int) -> np.ndarray:
    """Frames that belong to this name only."""
    shape = (count, SHAPE.size, SHAPE.size, 3)
    return np.random.default_rng(zlib.crc32(name.encode())).integers(0, 256, shape, np.uint8)


class Frames:
    """Batches of one kind, what their features must be, and whether they were given back, once."""

    def __init__(self, cuda: LazyCuda, shape: TowerShape = SHAPE) -> None:
        self.cuda, self._tower = cuda, tower(shape)
        self.wanted: dict[str, np.ndarray] = {}
        self.borrowed: set[str] = set()
        self._decoder = cuda.stream()

    def on_host(self, *names: str, n: int = 8) -> FrameBatch:
        """Finished pictures, with rows of no sample between them; spoilt when they are given back."""
        pixels = np.full((len(names) * (n + 1), SHAPE.size, SHAPE.size, 3), 99, np.uint8)
        spans = tuple((i * (n + 1) + 1, (i + 1) * (n + 1)) for i in range(len(names)))
        for name, (start, stop) in zip(names, spans, strict=True):
            pixels[start:stop] = pictures(name, n)
            with torch.inference_mode():
                self.wanted[name] = self._tower(torch.from_numpy(pictures(name, n))).numpy()
        release = self._lend(names[0], lambda: pixels.fill(0))
        return FrameBatch(
            tuple(plan(HERE, name, n) for name in names), pixels, spans, ({"plan": 1.0},) * len(names), release
        )

    def on_device(self, *names: str, n: int = 8) -> FrameBatch:
        """The same, there when the decoder has run."""
        finished = self.on_host(*names, n=n)
        pixels = torch.full(finished.pixels.shape, 99, dtype=torch.uint8)
        decoded = torch.from_numpy(np.array(finished.pixels))
        self._decoder.run("decode", partial(pixels.copy_, decoded))
        return replace(
            finished, pixels=pixels, ready=self._decoder.record(), release=self._lend(names[0], pixels.zero_)
        )

    def _lend(self, name: str, spoil: Callable[[], object]) -> Callable[[], None]:
        self.borrowed.add(name)

        def give_back() -> None:
            self.borrowed.remove(name)
            spoil()

        return give_back


def features(outcomes: Iterable[FeatureBatch | Failed]) -> dict[str, np.ndarray]:
    """Every sample's features, in order, each batch given back after it has been read."""
    found = {}
    for batch in outcomes:
        assert isinstance(batch, FeatureBatch), batch
        for one, (start, stop), seconds in zip(batch.plans, batch.spans, batch.seconds, strict=True):
            assert one.sample.name not in found
            found[one.sample.name] = batch.features[start:stop].copy()
            assert set(seconds) == {"plan", "encode"}
            assert seconds["encode"] > 0
        batch.release()
    return found


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert list(found) == list(wanted)
    for name, rows in wanted.items():
        np.testing.assert_allclose(found[name], rows, rtol=0, atol=2e-5, err_msg=name)
