"""Several lines as one: nothing is lost or doubled, whoever is slow, dies or cannot go on."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Generator, Iterable
from functools import partial
from pathlib import Path

import pytest
from samples import sample
from synthetic_lines import SyntheticLine, assert_stops, make_line, make_no_line, names

from gpupeak.errors import DeviceError, RunError, WriteError
from gpupeak.lines.several import ManyLines
from gpupeak.lines.supervised import SupervisedLine
from gpupeak.storage.places import local
from gpupeak.types import Outcome, Sample, Saved


class Mortal(SyntheticLine):
    """Is lost after three outcomes."""

    def run(self, samples: Iterable[Sample], stop: threading.Event | None = None) -> Generator[Outcome]:
        for number, outcome in enumerate(super().run(samples, stop)):
            if number == 3:
                raise RunError("has fallen off the bus")
            yield outcome


def test_two_children_make_the_files_of_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # children import these files
    for name in ("plain", "many", "pids"):
        (tmp_path / name).mkdir()
    plain = [sample(tmp_path / "plain", f"clip {i}") for i in range(100)]
    assert all(isinstance(outcome, Saved) for outcome in SyntheticLine().run(plain))
    recipes = [(make_line, (device, 0.0, tmp_path / "pids")) for device in ("cuda:0", "cuda:1")]
    many = ManyLines([partial(SupervisedLine, recipe, print, window=8) for recipe in recipes], print)
    assert many.device == "cuda:0,cuda:1"
    mine = [sample(tmp_path / "many", one.name) for one in plain]
    assert names(many.run(mine)) == sorted(one.name for one in mine)
    for one in plain:
        assert (tmp_path / "many" / one.target.name).read_bytes() == local(one.target).read_bytes()
    many.close()
    running = [path.name for path in (tmp_path / "pids").iterdir()]
    assert len(running) == 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in running)


def test_what_a_lost_line_held_goes_to_the_others_and_that_is_said(tmp_path: Path) -> None:
    told: list[str] = []
    samples = [sample(tmp_path, str(i)) for i in range(200)]
    outcomes = list(
        ManyLines([partial(SyntheticLine, "cuda:0", 0.001), partial(Mortal, "cuda:1")], told.append).run(samples)
    )
    assert names(outcomes) == sorted(one.name for one in samples)
    assert all(isinstance(outcome, Saved) for outcome in outcomes)
    (notice,) = told
    assert notice.startswith("cuda:1 is lost: has fallen off the bus; ") and "left to the other one: " in notice


def test_when_the_last_line_is_lost_the_run_ends(tmp_path: Path) -> None:
    told: list[str] = []
    with pytest.raises(RunError, match="has fallen off the bus"):
        list(ManyLines([Mortal, Mortal], told.append).run(sample(tmp_path, str(i)) for i in range(60)))
    assert len(told) == 1


def test_an_output_that_cannot_be_written_ends_all_lines(tmp_path: Path) -> None:
    many = ManyLines([SyntheticLine, SyntheticLine], pytest.fail)  # told of no line that is lost
    with pytest.raises(WriteError, match="cannot be written: No such file"):
        list(many.run(sample(tmp_path / "gone", str(i)) for i in range(1000)))


def test_stopping_leaves_the_rest_without_an_outcome(tmp_path: Path) -> None:
    many = ManyLines([SyntheticLine, SyntheticLine], print)
    assert_stops(many, (sample(tmp_path, str(i)) for i in range(100_000)), tmp_path, most=3000)


def test_a_line_that_cannot_be_made_closes_the_others() -> None:
    closed: list[str] = []

    class Good(SyntheticLine):
        def close(self) -> None:
            closed.append(self.device)

    with pytest.raises(DeviceError, match="there is no such GPU"):
        ManyLines([Good, partial(make_no_line, print)], print)
    assert closed == ["synthetic"]
