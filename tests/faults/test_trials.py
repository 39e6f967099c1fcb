"""The parts of `make faults` in small: all but those of hostile files."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import disk, kills, load, signals, soak
from faults.corpus import SMALL
from faults.disk import Trials, prepared
from samples import features

from gpupeak.features.writer import NpyWriter

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
