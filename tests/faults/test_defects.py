"""What the faults brought to light, each alone: it was wrong once."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from samples import plan, read_manifest, sample

from gpupeak.child import Child
from gpupeak.decode import worker
from gpupeak.decode.pool import WorkerPool
from gpupeak.errors import RunError, WriteError
from gpupeak.features.directory import FeatureDirectory
from gpupeak.features.records import read_records
from gpupeak.types import FrameBatch, Saved


@contextlib.contextmanager
def limited(which: int, value: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(which)
    resource.setrlimit(which, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(which, (soft, hard))


def test_a_line_of_which_the_disk_takes_a_part_ends_the_run(tmp_path: Path) -> None:
    with FeatureDirectory(tmp_path / "out", 8, 4) as directory:
        directory.begin({}, done=set(), overwrite=False)
        directory.record(Saved(plan(tmp_path / "out", "first"), {}))
        written = (tmp_path / "out" / "manifest.jsonl").stat().st_size
        with (
            limited(resource.RLIMIT_FSIZE, written + 20),
            pytest.raises(WriteError, match=r"manifest\.jsonl: cannot be written: No space left"),
        ):
            directory.record(Saved(plan(tmp_path / "out", "second"), {}))
    assert (tmp_path / "out" / "manifest.jsonl").stat().st_size == written + 20
    assert [entry["sample"] for entry in read_manifest(tmp_path / "out")] == ["first"]


def test_where_no_more_files_can_be_opened_a_process_says_so() -> None:
    with limited(resource.RLIMIT_NOFILE, 3), pytest.raises(RunError, match="cannot be started: Too many open files"):
        Child(worker.main)


def test_a_worker_that_is_killed_while_it_starts_is_started_again(
    clip_of: Callable[[str], Path], tmp_path: Path
) -> None:
    pool = WorkerPool(1)
    os.kill(pool.pids[0], signal.SIGKILL)
    (outcome,) = pool.decode([sample(tmp_path, video=clip_of("h264"))])
    pool.close()
    assert isinstance(outcome, FrameBatch)


def test_records_whose_values_are_lists_are_read(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"parts": [{"id": []}, {}]}')
    (tmp_path / "run.00000-of-00002.json").write_text('{"id": {}}')
    (tmp_path / "manifest.00000-of-00002.jsonl").write_text('{"sample": "a", "outcome": ["saved"]}\n')
    records = read_records(tmp_path)
    assert [part.part for part in records.parts] == ["00000-of-00002"] and records.saved() == set()
