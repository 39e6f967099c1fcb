"""Hostile videos cost one worker at most: in small what `media.run` does in full, and each bound on its own."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from clips import write_clip
from faults import media
from faults.corpus import SMALL
from samples import sample

from gpupeak.check.inspect import inspect_video
from gpupeak.config import ExtractConfig
from gpupeak.decode.pool import WorkerPool
from gpupeak.decode.worker import MEMORY
from gpupeak.errors import OUT_OF_MEMORY, SampleError
from gpupeak.types import Failed, FrameBatch, Sample


@pytest.mark.slow
def test_mutants_through_plan_inspect_and_extract(tmp_path: Path) -> None:
    found = media.run(SMALL, 1, tmp_path)
    assert found["mutants"] >= 150
    for name in ("plan", "inspect", "extract"):
        each = found["passes"][name]
        assert sum(each["outcomes"].values()) == found["mutants"], name
        assert (each["lost"], each["doubled"], each["unexpected"]) == (0, 0, []), name
        assert each["out_of_memory"] >= 1, name
    assert found["passes"]["extract"]["outcomes"]["saved"] > 20
    assert found["ok"], found


@pytest.mark.slow
def test_a_crash_of_libav_costs_its_sample_wherever_videos_are_opened(tmp_path: Path, deadly_videos: None) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in ("a", "deadly", "z"):
        write_clip(videos / f"{name}.mp4", frames=12)
    died = f"the decoding process was ended by {signal.SIGSEGV.name}, twice"
    with pytest.raises(SampleError, match=died):
        inspect_video(ExtractConfig(sampling="uniform"), str(videos / "deadly.mp4"))
    passes = media.through(videos, tmp_path, 20.0, workers=2)
    for name in ("plan", "inspect", "extract"):
        assert passes[name]["reasons"] == {died: 1}
        assert sum(passes[name]["outcomes"].values()) == 3


@dataclass
class Greedy:
    sample: Sample
    size: int

    def __call__(self) -> int:
        return len(bytearray(self.size))


def test_a_worker_has_bounded_memory_and_is_replaced_when_that_was_not_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # workers unpickle the task
    clip = write_clip(tmp_path / "fine.mp4", frames=12)
    header = media.patched(clip.read_bytes(), b"stts", 4, 0x0FFFFFFF)  # entries, 8 bytes each
    (tmp_path / "many.mp4").write_bytes(header)
    greedy, many, fine = (sample(tmp_path, name, video=tmp_path / f"{name}.mp4") for name in ("greedy", "many", "fine"))
    pool = WorkerPool(1, 8, 32)
    pids = [pool.pids]
    for answers in (pool.perform([Greedy(greedy, 2 * MEMORY)]), pool.plan([many])):
        (failed,) = answers
        assert isinstance(failed, Failed)
        assert failed.reason == OUT_OF_MEMORY
        pids.append(pool.pids)
    (batch,) = pool.decode([fine])
    assert isinstance(batch, FrameBatch)
    pids.append(pool.pids)
    pool.close()
    assert len(set(pids)) == 3
    assert pids[2] == pids[3]


def test_a_header_that_declares_millions_of_samples_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "base.mp4", frames=12)
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/many.mp4").write_bytes(media.declaring(clip.read_bytes(), 178_000_000))
    passes = media.through(tmp_path / "videos", tmp_path, 20.0, workers=1)
    for name in ("plan", "inspect", "extract"):
        assert passes[name]["reasons"] == {"declares N video packets, expected at most N": 1}
        assert passes[name]["worst_mib"] < 1024


@pytest.mark.slow
def test_real_pictures_of_8k_fit(tmp_path: Path) -> None:
    """What a worker may have is more than legitimate videos take."""
    media.black(tmp_path / "large.mkv", (7680, 4320), "ffv1", "yuv420p10le", frames=3)
    pool = WorkerPool(1, 8, 32)
    (batch,) = pool.decode([sample(tmp_path, "large", video=tmp_path / "large.mkv")])
    pool.close()
    assert isinstance(batch, FrameBatch)
