"""The encoder that runs any tower, one batch after another."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import pytest
import torch
from samples import plan

from gpupeak.encode.base import TowerEncoder
from gpupeak.errors import DeviceError
from gpupeak.types import Failed, FeatureBatch, FrameBatch

SIZE, DIM, N = 4, 3, 2


def mean(pixels: torch.Tensor) -> torch.Tensor:
    """A tower whose features are the mean of each channel; one bright red pixel anywhere makes the first NaN."""
    features = pixels.float().mean(dim=(1, 2))
    features[(pixels[..., 0] == 255).flatten(1).any(dim=1), 0] = float("nan")
    return features


class Frames:
    """Makes batches and counts what is given back."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.released: list[str] = []

    def batch(self, *names: str, hole: int = 0, bad: tuple[str, ...] = ()) -> FrameBatch:
        """A batch of the named samples, `hole` rows of rubbish before each."""
        rows, spans = [], []
        for name in names:
            rows.append(np.full((hole, SIZE, SIZE, 3), 255, np.uint8))
            start = sum(map(len, rows))
            rows.append(self.pixels(name, bad))
            spans.append((start, start + N))
        return FrameBatch(
            plans=tuple(plan(self.directory, name, N) for name in names),
            pixels=np.concatenate(rows),
            spans=tuple(spans),
            seconds=tuple(MappingProxyType({"decode": 1.0}) for _ in names),
            release=lambda: self.released.append("+".join(names)),
        )

    @staticmethod
    def pixels(name: str, bad: tuple[str, ...] = ()) -> np.ndarray:
        pixels = np.random.default_rng(ord(name[0])).integers(0, 255, (N, SIZE, SIZE, 3)).astype(np.uint8)
        if name in bad:
            pixels[1, 2, 3, 0] = 255
        return pixels


@pytest.fixture
def frames(tmp_path: Path) -> Frames:
    return Frames(tmp_path)


def by_name(results: list[FeatureBatch | Failed]) -> dict[str, np.ndarray]:
    return {
        each.sample.name: batch.features[start:stop]
        for batch in results
        if isinstance(batch, FeatureBatch)
        for each, (start, stop) in zip(batch.plans, batch.spans, strict=True)
    }


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_every_sample_gets_the_features_of_its_own_frames(batch_size: int, frames: Frames) -> None:
    encoder = TowerEncoder(mean, batch_size=batch_size)
    batches = [frames.batch("a"), frames.batch("b", "c", hole=3), frames.batch("d", hole=1)]
    features = by_name(list(encoder.encode(batches)))
    assert list(features) == ["a", "b", "c", "d"]
    for name, rows in features.items():
        np.testing.assert_allclose(rows, Frames.pixels(name).mean(axis=(1, 2)), rtol=1e-5)
        assert rows.dtype == np.float32 and rows.shape == (N, DIM)
    assert sorted(frames.released) == ["a", "b+c", "d"]


@pytest.mark.parametrize(
    ("batch_size", "images", "calls"),
    [(1, 9, [2, 2, 2, 2, 2]), (2, 9, [4, 4, 2]), (3, 9, [6, 4]), (9, 10, [10]), (2, 3, [3, 1, 3, 1, 2])],
)
def test_as_many_samples_as_asked_for_go_in_together_in_parts_that_memory_holds(
    batch_size: int, images: int, calls: list[int], frames: Frames
) -> None:
    rows = []

    def tower(pixels: torch.Tensor) -> torch.Tensor:
        rows.append(len(pixels))
        return mean(pixels)

    encoder = TowerEncoder(tower, batch_size=batch_size, images=images)
    list(encoder.encode(frames.batch(name) for name in "abcde"))
    assert rows == calls


def test_a_batch_is_read_before_it_is_released_and_released_before_it_is_yielded(frames: Frames) -> None:
    def tower(pixels: torch.Tensor) -> torch.Tensor:
        assert frames.released == []
        return mean(pixels)

    results = TowerEncoder(tower).encode([frames.batch("a", "b"), frames.batch("c")])
    next(results)
    assert frames.released == ["a+b"]
    results.close()
    assert frames.released == ["a+b"], "nobody reads on: the next one was not borrowed"


def test_seconds_are_added_to_a_copy(frames: Frames) -> None:
    (result,) = TowerEncoder(mean, batch_size=2).encode([frames.batch("a", "b")])
    assert isinstance(result, FeatureBatch)
    first, second = result.seconds
    assert set(first) == {"decode", "encode"} and first["decode"] == 1.0
    assert first["encode"] == second["encode"] > 0


@pytest.mark.parametrize("batch_size", [1, 3])  # alone in its batch, and among others
def test_a_sample_whose_features_are_no_numbers_fails_alone(batch_size: int, frames: Frames) -> None:
    encoder = TowerEncoder(mean, batch_size=batch_size)
    results = list(encoder.encode([frames.batch("a", "b", "c", bad=("b",))]))
    assert set(by_name(results)) == {"a", "c"}
    for name, rows in by_name(results).items():
        np.testing.assert_allclose(rows, Frames.pixels(name).mean(axis=(1, 2)), rtol=1e-5)
    (failed,) = [result for result in results if isinstance(result, Failed)]
    assert (failed.sample.name, failed.stage) == ("b", "encode") and failed.plan is not None
    assert failed.reason == "the features of 1 of 2 frames are not finite"
    assert frames.released == ["a+b+c"]


@pytest.mark.parametrize(
    ("fault", "raised"),
    [(RuntimeError("no such kernel"), RuntimeError), (torch.OutOfMemoryError("CUDA out of memory"), DeviceError)],
)
def test_a_broken_tower_ends_the_run_and_releases_once(
    fault: Exception, raised: type[Exception], frames: Frames
) -> None:
    def tower(pixels: torch.Tensor) -> torch.Tensor:
        raise fault

    with pytest.raises(raised):
        list(TowerEncoder(tower, batch_size=2).encode([frames.batch("a"), frames.batch("b"), frames.batch("c")]))
    assert sorted(frames.released) == ["a", "b"]


def test_frames_on_a_device_are_waited_for_on_its_stream(frames: Frames, monkeypatch: pytest.MonkeyPatch) -> None:
    class Event:
        waits: ClassVar[list[str]] = []

        def wait(self, stream: str) -> None:
            self.waits.append(stream)

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"the stream of {device}")
    host, event = frames.batch("a", "b", hole=1), Event()
    device = FrameBatch(host.plans, torch.from_numpy(host.pixels), host.spans, host.seconds, host.release, event)
    features = by_name(list(TowerEncoder(mean).encode([device])))
    np.testing.assert_allclose(features["b"], Frames.pixels("b").mean(axis=(1, 2)), rtol=1e-5)
    assert event.waits == ["the stream of cpu"]
