"""The decoding processes: the same frames from any number of them, and a fault takes one of them."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import write_clip
from samples import sample

from gpupeak.decode import decode_frames
from gpupeak.decode.pool import WorkerPool
from gpupeak.decode.worker import Done, Planned, prepare
from gpupeak.errors import RunError, SampleError
from gpupeak.storage.places import local
from gpupeak.types import Failed, FrameBatch, Sample

SIZE = 32


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    directory = tmp_path_factory.mktemp("pool")
    return [write_clip(directory / f"clip{i}.mp4", frames=12 + i) for i in range(6)]


def decoded(samples: list[Sample], workers: int, **options: Any) -> dict[str, FrameBatch | Failed]:
    pool = WorkerPool(workers, 8, SIZE, **options)
    results: dict[str, FrameBatch | Failed] = {}
    for item in pool.decode(samples):
        if isinstance(item, FrameBatch):
            name = item.plans[0].sample.name
            item = FrameBatch(item.plans, np.array(item.pixels), item.spans, item.seconds, item.release)
            item.release()
        else:
            name = item.sample.name
        assert name not in results
        results[name] = item
    return results


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_frames_do_not_depend_on_the_number_of_workers_and_a_bad_video_fails_alone(
    tmp_path: Path, clips: list[Path], workers: int
) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    samples = [sample(tmp_path, "text", video=tmp_path / "text.mp4"), sample(tmp_path, "missing")]
    samples += [sample(tmp_path, "few", n=3, video=clips[0]), *(sample(tmp_path, c.stem, video=c) for c in clips)]
    results = decoded(samples, workers)
    assert results.keys() == {each.name for each in samples}
    failed = {name: result.stage for name, result in results.items() if isinstance(result, Failed)}
    assert failed == {"text": "plan", "missing": "find"}
    for each in samples[2:]:
        batch = results[each.name]
        assert isinstance(batch, FrameBatch) and each.video is not None
        assert batch.pixels.shape == (each.rule.n, SIZE, SIZE, 3)
        np.testing.assert_array_equal(batch.pixels, decode_frames(local(each.video), batch.plans[0].indices, SIZE))
        assert set(batch.seconds[0]) == {"plan", "decode"}


@pytest.mark.parametrize(
    ("name", "count", "how"),
    [("hang", 1, "gave no answer within the time limit"), ("deadly", 2, "was ended by SIGSEGV")],
)
def test_a_worker_that_hangs_or_crashes_is_replaced_and_its_sample_set_aside(
    tmp_path: Path, clips: list[Path], deadly_videos: None, name: str, count: int, how: str
) -> None:
    faulty = [Path(shutil.copy(clips[0], tmp_path / f"{name}{i}.mp4")) for i in range(count)]
    samples = [sample(tmp_path, video.stem, video=video) for video in faulty]
    samples[1:1] = [sample(tmp_path, clip.stem, video=clip) for clip in clips]
    results = decoded(samples, 2, time_limit=1.0)
    failed = {name: result.reason for name, result in results.items() if isinstance(result, Failed)}
    assert failed == {f"{name}{i}": f"the decoding process {how}, twice" for i in range(count)}
    assert results.keys() == {each.name for each in samples}


def test_a_sample_whose_worker_died_once_is_tried_again(tmp_path: Path, clips: list[Path], deadly_videos: None) -> None:
    shutil.copy(clips[0], tmp_path / "once.mp4")
    (batch,) = WorkerPool(1, 8, SIZE).decode([sample(tmp_path, "once", video=tmp_path / "once.mp4")])
    assert (tmp_path / "died").exists()
    assert isinstance(batch, FrameBatch)
    np.testing.assert_array_equal(batch.pixels, decode_frames(clips[0], batch.plans[0].indices, SIZE))


def test_a_worker_that_cannot_start_stops_the_run_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "av.py").write_text("raise ImportError('libav is not installed')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RunError, match="cannot start: it exited with code 1: ImportError: libav is not installed"):
        list(WorkerPool(1, 8, SIZE).decode([sample(tmp_path)]))


def test_workers_import_no_torch_and_end_when_decoding_is_cut_off(tmp_path: Path, clips: list[Path]) -> None:
    pool = WorkerPool(2, 8, SIZE)
    pids = pool.pids

    def endless() -> Iterator[Sample]:
        while True:
            yield sample(tmp_path, "a", video=clips[0])

    stream = pool.decode(endless())
    next(stream)
    for pid in pids:
        assert "libtorch" not in Path(f"/proc/{pid}/maps").read_text()
    stream.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.parametrize(
    ("n", "told"), [(2**40, "Cannot allocate memory|Invalid argument|File too large"), (2**60, "file")]
)
def test_memory_that_cannot_be_had_is_one_line(n: int, told: str) -> None:
    with pytest.raises(RunError, match=rf"bytes of shared memory cannot be had: .*({told})"):
        WorkerPool(1, n=n)


def test_planning_alone_takes_no_memory_for_frames(tmp_path: Path, clips: list[Path]) -> None:
    samples = [sample(tmp_path, clip.stem, video=clip) for clip in clips] + [sample(tmp_path, "missing")]
    pool = WorkerPool(2, 8, SIZE, held=0)
    for _ in range(2):
        answers = {
            answer.plan.sample.name if isinstance(answer, Planned) else answer.sample.name: answer
            for answer in pool.plan(samples)
        }
        assert answers.keys() == {each.name for each in samples}
        assert isinstance(answers.pop("missing"), Failed)
        for each in samples[:-1]:
            here, there = prepare(each, None), answers[each.name]
            assert isinstance(here, Planned)
            assert isinstance(there, Planned)
            assert (there.plan, there.given) == (here.plan, here.given)
            assert there.plan.video is not None
            assert there.seconds.keys() == {"plan"}
    pool.close()


@dataclass(frozen=True)
class Fault:
    """Fails, dies or answers, as its sample's name says."""

    sample: Sample

    def __call__(self) -> str:
        if self.sample.name == "fails":
            raise SampleError("find", "nothing there")
        if self.sample.name == "odd":
            raise RuntimeError("two\nlines")
        if self.sample.name == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        return f"{self.sample.name} of {os.getpid()}"


def test_tasks_are_performed_in_the_workers_and_fail_as_samples_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Path(__file__).parent  # the workers import this file
    monkeypatch.setenv("PYTHONPATH", f"{here}:{here.parent}")
    pool = WorkerPool(2, 1, 1, held=0)
    names = ("fine", "fails", "odd", "dies", "also fine")
    answers = {answer.sample.name: answer for answer in pool.perform([Fault(sample(tmp_path, n)) for n in names])}
    pool.close()
    failed = {name: (a.stage, a.reason) for name, a in answers.items() if isinstance(a, Failed)}
    assert failed == {
        "fails": ("find", "nothing there"),
        "odd": ("decode", "unexpected RuntimeError: two"),
        "dies": ("decode", "the decoding process was ended by SIGKILL, twice"),
    }
    done = [answers["fine"], answers["also fine"]]
    for answer in done:
        assert isinstance(answer, Done)
        name, _, pid = answer.value.partition(" of ")
        assert (name, int(pid) != os.getpid()) == (answer.sample.name, True)
