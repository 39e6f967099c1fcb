"""The encoder that runs any tower, one batch after another."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from frames import Frames, assert_same, features, pictures, tower

from gpupeak.encode.base import TowerEncoder
from gpupeak.errors import DeviceError
from gpupeak.types import Failed, FeatureBatch


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_every_sample_gets_the_features_of_its_own_frames(batch_size: int, frames: Frames) -> None:
    batches = [frames.on_host("a"), frames.on_host("b", "c", n=3), frames.on_host("d", n=1)]
    assert_same(features(TowerEncoder(tower(), batch_size=batch_size).encode(batches)), frames.wanted)
    assert frames.borrowed == set()


@pytest.mark.parametrize(
    ("batch_size", "images", "calls"),
    [(1, 9, [2, 2, 2, 2, 2]), (2, 9, [4, 4, 2]), (3, 9, [6, 4]), (9, 10, [10]), (2, 3, [3, 1, 3, 1, 2])],
)
def test_as_many_samples_as_asked_for_go_in_together_in_parts_that_memory_holds(
    batch_size: int, images: int, calls: list[int], frames: Frames
) -> None:
    rows = []

    def counted(pixels: torch.Tensor) -> torch.Tensor:
        rows.append(len(pixels))
        return pixels.float().mean((1, 2))

    encoder = TowerEncoder(counted, batch_size=batch_size, images=images)
    list(encoder.encode(frames.on_host(name, n=2) for name in "abcde"))
    assert rows == calls


def test_a_batch_is_read_before_it_is_released_and_released_before_it_is_yielded(frames: Frames) -> None:
    def watched(pixels: torch.Tensor) -> torch.Tensor:
        assert frames.borrowed == {"a", "c"}
        return pixels.float().mean((1, 2))

    results = TowerEncoder(watched).encode([frames.on_host("a", "b"), frames.on_host("c")])
    next(results)
    assert frames.borrowed == {"c"}
    results.close()
    assert frames.borrowed == {"c"}, "nobody reads on: the next one was not borrowed"


@pytest.mark.parametrize("batch_size", [1, 3])  # alone in its batch, and among others
def test_a_sample_whose_features_are_no_numbers_fails_alone(batch_size: int, frames: Frames) -> None:
    bad = torch.from_numpy(pictures("b", 2)[1])

    def spoilt(pixels: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = tower()(pixels)
        found[(pixels == bad).flatten(1).all(1), 0] = torch.nan
        return found

    results = list(TowerEncoder(spoilt, batch_size=batch_size).encode([frames.on_host("a", "b", "c", n=2)]))
    (failed,) = [result for result in results if isinstance(result, Failed)]
    assert (failed.sample.name, failed.stage) == ("b", "encode") and failed.plan is not None
    assert failed.reason == "the features of 1 of 2 frames are not finite"
    found = features(result for result in results if isinstance(result, FeatureBatch))
    assert_same(found, {name: frames.wanted[name] for name in "ac"})
    assert frames.borrowed == set()


@pytest.mark.parametrize(
    ("fault", "raised"),
    [(RuntimeError("no such kernel"), RuntimeError), (torch.OutOfMemoryError("CUDA out of memory"), DeviceError)],
)
def test_a_broken_tower_ends_the_run_and_releases_once(
    fault: Exception, raised: type[Exception], frames: Frames
) -> None:
    def broken(pixels: torch.Tensor) -> torch.Tensor:
        raise fault

    with pytest.raises(raised):
        list(TowerEncoder(broken, batch_size=2).encode([frames.on_host(name) for name in "abc"]))
    assert frames.borrowed == {"c"}


def test_frames_on_a_device_are_waited_for_on_its_stream(frames: Frames, monkeypatch: pytest.MonkeyPatch) -> None:
    class Event:
        waits: ClassVar[list[str]] = []

        def wait(self, stream: str) -> None:
            self.waits.append(stream)

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"the stream of {device}")
    host = frames.on_host("a", "b")
    device = replace(host, pixels=torch.from_numpy(host.pixels), ready=Event())
    assert_same(features(TowerEncoder(tower()).encode([device])), frames.wanted)
    assert Event.waits == ["the stream of cpu"]
