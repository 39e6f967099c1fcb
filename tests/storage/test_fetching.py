"""Samples whose files are in stores: fetched ahead within a bound, told of by their URLs, gone when decoded."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from gpupeak.errors import RunError, SampleError
from gpupeak.storage import remote
from gpupeak.storage.fetching import FetchingDecoder, at_hand, fetched, local_file, video_bytes
from gpupeak.types import Failed, FrameBatch, FramePlan, NoPeak, Peak, RemoteFile, Sample, SamplingRule, Url

AUS = Url("memory", "aus")
LIMIT = 1 << 20


def stored(name: str, size: int = 5, *, there: bool = True) -> Sample:
    """A sample with a video and an action-unit file in a store."""
    video, au = Url("memory", f"store/{name}.mp4"), Url("memory", f"aus/{name}/{name}.csv")
    if there:
        remote.put(video, b"x" * size)
        remote.put(au, b"au")
    files = (RemoteFile(video, size), RemoteFile(au, 2))
    target = Url("memory", f"out/{name}.npy")
    return Sample("mine", name, video, (AUS,), SamplingRule("uniform", n=1), target, remote=files)


class Reader:
    """A decoder that reads each video, says what it saw, and holds up to `held` samples before it yields."""

    def __init__(self, held: int = 1, look: Callable[[Sample], None] = lambda sample: None) -> None:
        self._held, self._look = held, look

    def decode(self, samples: Iterable[Sample]) -> Generator[FrameBatch | Failed]:
        waiting: list[Sample] = []
        for sample in samples:
            waiting.append(sample)
            if len(waiting) == self._held:
                yield from map(self._read, waiting)
                waiting.clear()
        yield from map(self._read, waiting)

    def _read(self, sample: Sample) -> FrameBatch | Failed:
        self._look(sample)
        assert isinstance(sample.video, Path) and sample.video.read_bytes()
        (aus,) = sample.au_dirs
        assert isinstance(aus, Path)
        if sample.name == "bad":
            return Failed(sample, "decode", f"{sample.video}: no frames")
        if sample.name == "none":
            plan = FramePlan(sample, (0,), 1, "h264", fallback=NoPeak("no AU file", f"nothing in {aus}"))
        else:
            peak = Peak(0, None, None, None, "openface", aus / f"{sample.name}/{sample.name}.csv")
            plan = FramePlan(sample, (0,), 1, "h264", peak=peak)
        return FrameBatch((plan,), np.zeros((1, 2, 2, 3), np.uint8), ((0, 1),), ({},))

    def close(self) -> None: ...


def test_a_decoder_sees_files_and_tells_of_urls(tmp_path: Path) -> None:
    samples = [stored("a"), stored("bad"), stored("none"), stored("lost", there=False)]
    local = Sample("mine", "local", tmp_path / "local.mp4", (tmp_path,), SamplingRule("uniform", n=1), tmp_path / "x")
    (tmp_path / "local.mp4").write_bytes(b"here")
    cache = tmp_path / "cache"
    found = {}
    for batch in FetchingDecoder(Reader(), cache, LIMIT).decode([*samples, local]):
        if isinstance(batch, Failed):
            found[batch.sample.name] = batch.sample, batch.reason
        else:
            (plan,) = batch.plans
            found[plan.sample.name] = plan.sample, str(plan.peak.file if plan.peak else plan.fallback)
    assert [found[sample.name][0] for sample in samples] == samples, "they are what they were before"
    assert found["a"][1] == "memory://aus/a/a.csv"
    assert found["bad"][1] == "memory://store/bad.mp4: no frames"
    assert "memory://aus" in found["none"][1] and str(cache) not in found["none"][1]
    assert found["lost"][1].startswith("memory://store/lost.mp4: ")
    assert found["local"] == (local, str(tmp_path / "local/local.csv"))
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("held", [1, 4])
def test_no_more_is_fetched_than_there_may_be(held: int, tmp_path: Path) -> None:
    """Also where a decoder gathers several samples: `held` of them fit."""
    sizes: list[int] = []

    def look(sample: Sample) -> None:
        sizes.append(sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()))

    samples = [stored(str(number), 1000) for number in range(40)]
    batches = list(FetchingDecoder(Reader(held, look), tmp_path, 4200).decode(samples))
    assert len(batches) == 40 and all(isinstance(batch, FrameBatch) for batch in batches)
    assert 0 < max(sizes) <= 4200
    (failed,) = FetchingDecoder(Reader(), tmp_path, 500).decode([samples[0]])
    assert isinstance(failed, Failed) and failed.stage == "find"
    assert failed.reason == "memory://store/0.mp4: 1,002 bytes at once, more than the 500 of --cache-size"
    assert list(tmp_path.iterdir()) == []


def test_a_decoder_that_wants_more_than_fits_is_not_left_waiting(tmp_path: Path) -> None:
    samples = [stored(str(number), 1000) for number in range(8)]
    assert len(list(FetchingDecoder(Reader(held=8), tmp_path, 2500).decode(samples))) == 8


def test_an_error_of_whoever_gives_the_samples_is_raised(tmp_path: Path) -> None:
    def broken() -> Iterator[Sample]:
        yield stored("1")
        raise RunError("no more of them")

    with pytest.raises(RunError, match="no more of them"):
        list(fetched(broken(), tmp_path, LIMIT))
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_goes_away_ends_the_run(tmp_path: Path) -> None:
    samples = [stored(str(number), there=False) for number in range(100)]
    got: list[SampleError | None] = []
    with pytest.raises(RunError, match=r"^64 samples in a row cannot be fetched, the last one: memory://store/"):
        got.extend(found.error for found in fetched(samples, tmp_path, LIMIT))
    assert len(got) == 63 and all(isinstance(error, SampleError) for error in got)


def test_a_cache_that_cannot_be_written_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"^the cache .*/file: .*; --cache names another directory"):
        list(fetched([stored("a")], tmp_path / "file", LIMIT))


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        unfinished = fetched([stored("a"), stored("b")], tmp_path, LIMIT)
        os._exit(next(unfinished).error is not None)
    os.waitpid(pid, 0)
    assert list(tmp_path.rglob("*.mp4"))
    list(fetched([stored("c")], tmp_path, LIMIT))
    assert list(tmp_path.iterdir()) == []


def test_one_sample_is_at_hand_for_a_look() -> None:
    sample = stored("a")
    with at_hand(sample) as found:
        assert isinstance(found.here.video, Path) and found.here.video.read_bytes() == b"xxxxx"
        copy = found.here.video
    assert not copy.exists() and video_bytes(sample) == 5
    with pytest.raises(SampleError, match=r"memory://store/a\.mp4: torn"), at_hand(sample) as found:
        raise SampleError("plan", f"{found.here.video}: torn")
    with local_file(Url("memory", "store/a.mp4")) as path:
        assert path.name == "a.mp4" and path.read_bytes() == b"xxxxx"
    with local_file(Url("memory", "store/nobody.txt")) as path:
        assert not path.exists(), "its reader says so"
