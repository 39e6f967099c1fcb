"""The parts of `make faults` in small, all but those of hostile files; and what they brought to light, each alone."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults import disk, kills, load, signals, soak
from faults.corpus import SMALL
from faults.disk import Trials, prepared
from samples import features, plan, read_manifest, sample

from gpupeak.child import Child
from gpupeak.decode import worker
from gpupeak.decode.pool import WorkerPool
from gpupeak.errors import RunError, WriteError
from gpupeak.features.directory import FeatureDirectory
from gpupeak.features.records import read_records
from gpupeak.features.writer import NpyWriter
from gpupeak.types import FrameBatch, Saved

FAULTS = {**disk.FAULTS, **signals.FAULTS}
QUICK = ("disk_full", "SIGTERM twice")


@pytest.fixture(scope="module")
def undisturbed_trials(tmp_path_factory: pytest.TempPathFactory) -> Trials:
    return prepared(tmp_path_factory.mktemp("faults"), SMALL.few, seed=7)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAULTS]
)
def test_a_run_ends_as_promised_and_the_next_one_makes_it_good(
    name: str, undisturbed_trials: Trials, tmp_path: Path
) -> None:
    trials = Trials(undisturbed_trials.corpus, undisturbed_trials.expected, undisturbed_trials.draw, tmp_path)
    FAULTS[name](trials)
    assert trials.sound(), trials.wrong
    assert trials.happened.total() or trials.left_out


def test_killed_runs_lose_nothing_and_leave_nothing_torn(tmp_path: Path) -> None:
    found = kills.run(SMALL, 7, tmp_path)
    assert found["ok"], found
    assert found["kills"] == SMALL.kills


def test_whoever_reads_a_file_that_is_made_again_has_it_whole(tmp_path: Path) -> None:
    list(NpyWriter().write([features(tmp_path, "a")]))
    with (tmp_path / "a.npy").open("rb") as file:
        before = (tmp_path / "a.npy").read_bytes()
        list(NpyWriter().write([features(tmp_path, "a", dim=5)]))
        assert file.read() == before != (tmp_path / "a.npy").read_bytes()


@pytest.mark.slow
def test_the_nine_datasets_go_through_and_are_looked_at_meanwhile(tmp_path: Path) -> None:
    found = load.benchmark(SMALL.divisor, tmp_path)
    assert found["ok"], found
    assert found["datasets"] == 9
    assert 60 < found["peak_mib"] < 1000


def test_a_long_list_takes_bounded_memory_to_plan(tmp_path: Path) -> None:
    found = load.plan(SMALL.listed, tmp_path)
    assert found["ok"], found
    assert found["bytes_a_sample"] > 0


@pytest.mark.slow
def test_a_while_of_faults_leaves_what_an_undisturbed_run_makes(tmp_path: Path) -> None:
    found = soak.run(SMALL, 7, tmp_path)
    assert found["ok"], found
    assert found["torn_files"] == found["lost_samples"] == 0


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
