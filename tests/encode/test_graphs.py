"""Bucketed graph replay: the eager tower's features whatever meets whatever, and memory never reused too early.

The device is `lazy_cuda.LazyCuda`: it runs work at the latest moment that CUDA might.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from frames import SHAPE, Frames, assert_same, features, pictures, tower
from lazy_cuda import LazyCuda
from tiny import DINO2_SHAPE, SIGLIP_SHAPE
from torch._subclasses.fake_tensor import FakeTensorMode

from gpupeak.encode.gpu.device import Cuda
from gpupeak.encode.gpu.graphs import EagerRunner, GraphEncoder, GraphRunner
from gpupeak.encode.kernels import Kernels
from gpupeak.encode.vit import VisionTower, expected_state
from gpupeak.encoders import ENCODERS, TowerShape
from gpupeak.errors import DeviceError
from gpupeak.kernels.patch_rows import patch_rows
from gpupeak.types import Failed, FeatureBatch, FrameBatch

BUCKETS = (4, 8, 16, 24)


def encoder(
    cuda: LazyCuda,
    *,
    graphs: bool = True,
    n: int = 8,
    slots: int = 4,
    patch: Callable[..., None] = patch_rows,
    shape: TowerShape = SHAPE,
) -> GraphEncoder:
    eager = EagerRunner(tower(shape), cuda, max(BUCKETS), Kernels(patch_rows=patch))
    return GraphEncoder(GraphRunner(eager, BUCKETS) if graphs else eager, n=n, slots=slots, size=SHAPE.size)


def mixed(frames: Frames) -> list[FrameBatch]:
    """All that may come: single samples and several, both memories, sizes below, at, between and above buckets."""
    return [
        frames.on_host("a"),
        frames.on_device("b", "c"),
        frames.on_host("d", "e", n=2),
        frames.on_device("f", n=1),
        frames.on_device("g", "h", "i", "j", "k"),
        frames.on_host("l", "m", "n", "o", "p", "q", "r"),
        frames.on_device("s"),
        frames.on_device("t", "u"),
        frames.on_host("v", n=5),
        frames.on_device("w"),
    ]


@pytest.mark.parametrize(
    ("graphs", "shape"), [(True, SHAPE), (False, SHAPE), (True, DINO2_SHAPE), (True, SIGLIP_SHAPE)]
)
def test_features_are_those_of_the_eager_tower(graphs: bool, shape: TowerShape) -> None:
    frames = Frames(cuda := LazyCuda(), shape)
    found = features(encoder(cuda, graphs=graphs, shape=shape).encode(mixed(frames)))
    assert_same(found, frames.wanted)
    assert frames.borrowed == set()


@pytest.mark.parametrize("name", ENCODERS)
def test_every_tower_computes_on_the_gpu_in_half_precision(name: str) -> None:
    """Shapes, dtypes and devices of its full sizes but for the number of blocks, in tensors without memory."""
    spec = ENCODERS[name]
    assert spec.tower is not None
    shape = replace(spec.tower, layers=2)
    with FakeTensorMode(), torch.device("cuda:0"), torch.inference_mode():
        full = VisionTower.from_state(expected_state(shape), shape, device="cuda:0", dtype=torch.float16)
        pixels = torch.empty((3, spec.size, spec.size, 3), dtype=torch.uint8)
        rows = full.patch_rows(pixels)
        found = full.encode_rows(rows)
    assert (rows.shape, rows.dtype) == ((3 * shape.grid**2, 592), torch.float16)
    assert (found.shape, found.dtype, str(found.device)) == ((3, spec.dim), torch.float32, "cuda:0")


def one_at_a_time(subject: GraphEncoder, batches: Sequence[FrameBatch]) -> Iterator[FeatureBatch | Failed]:
    """Encode batches of which each comes when the outcomes of the last one have."""
    landed = threading.Semaphore(0)

    def source() -> Iterator[FrameBatch]:
        for batch in batches:
            yield batch
            for _ in batch.plans:
                assert landed.acquire(timeout=30)

    for outcome in subject.encode(source()):
        landed.release(len(outcome.plans) if isinstance(outcome, FeatureBatch) else 1)
        yield outcome


def test_nothing_is_withheld_until_more_comes(frames: Frames) -> None:
    assert_same(features(one_at_a_time(encoder(frames.cuda), mixed(frames))), frames.wanted)


def gated(
    cuda: LazyCuda, batches: Sequence[FrameBatch], patch: Callable[..., None] = patch_rows, n: int = 8
) -> Iterator[FeatureBatch | Failed]:
    """Encode batches that all become ready while the first one is launched."""
    launched, all_read = threading.Event(), threading.Event()

    def source() -> Iterator[FrameBatch]:
        yield batches[0]
        assert launched.wait(30)
        yield from batches[1:]
        all_read.set()

    def gate(*arguments: torch.Tensor) -> None:
        launched.set()
        assert all_read.wait(30)
        patch(*arguments)

    return encoder(cuda, patch=gate, n=n).encode(source())


def test_what_is_ready_shares_a_replay_of_the_smallest_bucket_that_holds_it(frames: Frames) -> None:
    batches = [frames.on_host("a", n=3), frames.on_host("b", n=2), frames.on_host("c", n=2)]
    batches += [frames.on_device("d", n=4), frames.on_host("e", n=4)]
    assert_same(features(gated(frames.cuda, batches)), frames.wanted)
    assert replays(frames.cuda) == [4, 16]  # 3 images, then 12


def test_a_batch_beyond_the_largest_bucket_is_cut_between_samples(frames: Frames) -> None:
    batch = frames.on_host(*(f"clip {i}" for i in range(8)))
    outcomes = list(encoder(frames.cuda, slots=8).encode([batch]))
    assert [len(outcome.plans) for outcome in outcomes] == [3, 3, 2]  # type: ignore[union-attr]
    assert replays(frames.cuda) == [24, 24, 16]
    assert_same(features(outcomes), frames.wanted)


@pytest.mark.parametrize("memory", ["host", "device"])
def test_a_sample_of_more_frames_than_the_largest_bucket_takes_several_replays(memory: str, frames: Frames) -> None:
    batches = [
        frames.on_host("long", n=100) if memory == "host" else frames.on_device("long", n=100),
        frames.on_host("short", n=5),
    ]
    assert_same(features(encoder(frames.cuda, n=100).encode(batches)), frames.wanted)
    assert replays(frames.cuda)[:5] == [24, 24, 24, 24, 4]
    assert frames.borrowed == set()


def replays(cuda: LazyCuda) -> list[int]:
    return [int(line.split()[1]) for line in cuda.log if line.startswith("replays")]


def test_graphs_are_captured_largest_first_into_one_pool_on_the_stream_that_is_warm() -> None:
    cuda = LazyCuda()
    runner = GraphRunner(EagerRunner(tower(), cuda, 24), (8, 24, 4, 16, 8))
    stream = runner.stream.name  # type: ignore[attr-defined]
    warm = [f"{stream}: warm up"] * 3
    assert cuda.log == [line for bucket in (24, 16, 8, 4) for line in (*warm, f"{stream}: capture {bucket}")]
    assert len(cuda.pools) == 1
    assert replays(cuda) == []


def test_frames_are_given_back_when_they_were_read_and_not_when_features_are_taken(frames: Frames) -> None:
    asked: list[set[str]] = []

    def source() -> Iterator[FrameBatch]:
        for name in "abcd":
            yield frames.on_device(name)
            while len(frames.borrowed) > 1:  # a decoder with room for two batches asks for one back
                pass
            asked.append(set(frames.borrowed))

    outcomes = encoder(frames.cuda).encode(source())
    first = next(outcomes)
    assert_same(features([first, *outcomes]), frames.wanted)
    assert len(asked) == 4


def test_a_full_ring_holds_the_encoder_back_and_a_slot_given_back_wakes_it(frames: Frames) -> None:
    def one_by_one() -> Iterator[FrameBatch]:
        for i in range(10):
            yield frames.on_host(f"clip {i}", n=24)

    outcomes: list[FeatureBatch] = []
    arrived = threading.Semaphore(0)

    def encode() -> None:
        for outcome in encoder(frames.cuda, n=24, slots=3).encode(one_by_one()):
            assert isinstance(outcome, FeatureBatch)
            outcomes.append(outcome)
            arrived.release()

    thread = threading.Thread(target=encode, daemon=True)
    thread.start()
    for _ in range(3):
        assert arrived.acquire(timeout=30)
    assert not arrived.acquire(timeout=0.1)
    assert len(frames.wanted) <= 5, "no more is read ahead than the next one and one more"
    found: dict[str, np.ndarray] = {}
    for i in range(10):
        found |= features([outcomes[i]])
        if i < 7:
            assert arrived.acquire(timeout=30)
    thread.join(30)
    assert_same(found, frames.wanted)


@pytest.mark.parametrize("taken", [1, 3])
def test_a_consumer_that_leaves_gets_nothing_lost(taken: int, frames: Frames) -> None:
    """Every batch that was borrowed is given back, whether it was read, on its way or waiting."""
    outcomes = encoder(frames.cuda).encode(frames.on_device(f"clip {i}") for i in range(10))
    for _ in range(taken):
        next(outcomes)
    time.sleep(0.2)  # so that some wait
    outcomes.close()
    for thread in threading.enumerate():
        if thread.name == "gpupeak-inbox":
            thread.join(30)  # to which one more comes
    assert frames.borrowed == set()


def test_the_next_run_has_every_slot_again() -> None:
    cuda = LazyCuda()
    subject = encoder(cuda, slots=3)
    for run in range(4):
        frames = Frames(cuda)
        outcomes = subject.encode([frames.on_host(f"clip {run} {i}", n=24) for i in range(2)])
        next(outcomes)  # dropped, and never given back
        outcomes.close()
    frames = Frames(cuda)
    assert_same(features(subject.encode(mixed(frames))), frames.wanted)


def test_features_that_are_not_finite_fail_their_sample_and_no_other(frames: Frames) -> None:
    def patch(pixels: torch.Tensor, images: torch.Tensor, scale_shift: torch.Tensor, out: torch.Tensor) -> None:
        patch_rows(pixels, images, scale_shift, out)
        if len(images) == 24:
            out[4 * (8 + 3)] = float("nan")  # the second sample's fourth image
        elif len(images) == 2:
            out[:] = float("inf")

    whole = [f"all {i}" for i in range(3)]  # of a batch, whose slots are used again
    batches = [frames.on_host("a", "b", "c"), *(frames.on_host(name, n=2) for name in whole), frames.on_host("d")]
    outcomes = list(one_at_a_time(encoder(frames.cuda, patch=patch, slots=3), batches))
    failed = {one.sample.name: (one.stage, one.reason, one.plan) for one in outcomes if isinstance(one, Failed)}
    assert failed == {"b": ("encode", "the features of 1 of 8 frames are not finite", batches[0].plans[1])} | {
        batch.plans[0].sample.name: ("encode", "the features of 2 of 2 frames are not finite", batch.plans[0])
        for batch in batches[1:-1]
    }
    found = features(one for one in outcomes if isinstance(one, FeatureBatch))
    assert_same(found, {name: frames.wanted[name] for name in "acd"})
    assert frames.borrowed == set()


def test_an_error_of_the_decoder_comes_out_and_everything_is_given_back(frames: Frames) -> None:
    def source() -> Iterator[FrameBatch]:
        yield frames.on_device("a")
        raise RuntimeError("the decoder broke")

    found: dict[str, np.ndarray] = {}
    with pytest.raises(RuntimeError, match="the decoder broke"):
        for outcome in encoder(frames.cuda).encode(source()):
            found |= features([outcome])
    assert_same(found, frames.wanted)
    assert frames.borrowed == set()


def test_an_error_midway_gives_frames_back_only_when_they_have_been_read(frames: Frames) -> None:
    seen: list[torch.Tensor] = []

    def patch(pixels: torch.Tensor, images: torch.Tensor, scale_shift: torch.Tensor, out: torch.Tensor) -> None:
        seen.append(pixels.clone())
        patch_rows(pixels, images, scale_shift, out)

    # The last batch is refused after the one before it, in the same piece, has been put on the stream.
    bad = replace(frames.on_device("bad"), ready="no event")
    batches = [frames.on_host("first"), frames.on_device("a", "b", "c"), bad]
    frames.cuda.finish()  # decoded
    with pytest.raises(AttributeError, match="synchronize"):
        list(gated(frames.cuda, batches, patch, n=100))
    assert frames.borrowed == set()
    frames.cuda.finish()
    assert len(seen) == 2
    assert torch.equal(seen[1][1:9], torch.from_numpy(pictures("a", 8)))


def test_an_error_of_the_device_gives_everything_back(frames: Frames) -> None:
    def patch(*arguments: torch.Tensor) -> None:
        raise DeviceError("frames.cuda:0 has not memory enough")

    with pytest.raises(DeviceError):
        list(encoder(frames.cuda, patch=patch).encode([frames.on_device("a"), frames.on_host("b")]))
    assert frames.borrowed <= {"b"}, "unless its thread still holds it, to give it back"


def test_what_is_put_on_a_stream_is_an_nvtx_range_on_whatever_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(torch.cuda.nvtx, "range_push", seen.append)
    monkeypatch.setattr(torch.cuda.nvtx, "range_pop", lambda: seen.append("end"))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: f"a stream of {device}")

    @contextlib.contextmanager
    def on(stream: object) -> Iterator[None]:
        seen.append(stream)
        yield

    monkeypatch.setattr(torch.cuda, "stream", on)
    stream = Cuda(torch.device("cuda:1")).stream()
    thread = threading.Thread(target=stream.run, args=("patch rows", lambda: seen.append("work")))
    thread.start()
    thread.join()
    assert seen == ["a stream of cuda:1", "patch rows", "work", "end"]


def test_a_device_without_memory_enough_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    monkeypatch.setattr(torch, "zeros", refuse)
    with pytest.raises(DeviceError, match=r"^the GPU has not memory enough .*2.00 GiB\.$"):
        Cuda(torch.device("cuda:1")).zeros((24, 8), torch.float16)
