"""Several lines as one: nothing is lost or doubled, whoever is slow, dies or cannot go on."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import pytest
from samples import sample
from synthetic_lines import SyntheticLine, make_line, make_line_once, make_no_line

from gpupeak.errors import DeviceError, RunError, WriteError
from gpupeak.lines import Recipe
from gpupeak.lines import supervised as supervise
from gpupeak.lines.several import ManyLines
from gpupeak.lines.supervised import SupervisedLine
from gpupeak.storage.places import local
from gpupeak.types import Outcome, Saved


@pytest.fixture(autouse=True)
def _children_import_these_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


def children(*recipes: Recipe, tell: Callable[[str], None] = print, window: int = 8) -> ManyLines:
    """Several lines, each in a child process of its own."""
    return ManyLines([partial(SupervisedLine, recipe, tell, window=window) for recipe in recipes], tell)


def two(pids: Path | None = None) -> tuple[Recipe, Recipe]:
    return (make_line, ("cuda:0", 0.0, pids)), (make_line, ("cuda:1", 0.0, pids))


def names(outcomes: Iterable[Outcome]) -> list[str]:
    return sorted(outcome.sample.name for outcome in outcomes)


def test_two_children_make_the_files_of_one_line(tmp_path: Path) -> None:
    for name in ("plain", "many", "pids"):
        (tmp_path / name).mkdir()
    plain = [sample(tmp_path / "plain", f"clip {i}") for i in range(100)]
    assert all(isinstance(outcome, Saved) for outcome in SyntheticLine().run(plain))
    many = children(*two(tmp_path / "pids"))
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
    mark = tmp_path / "mark"
    once: Recipe = (make_line_once, ("cuda:1", mark))
    many = children(two()[0], once, tell=told.append)
    samples = [sample(tmp_path, str(i)) for i in range(200)]
    outcomes = many.run(iter(samples))
    seen = [next(outcomes)]
    os.kill(int(mark.read_text()), signal.SIGKILL)
    seen += outcomes
    assert names(seen) == sorted(one.name for one in samples)
    assert all(isinstance(outcome, Saved) for outcome in seen)
    (notice,) = (text for text in told if "lost" in text)
    assert notice.startswith("cuda:1 is lost: cuda:1 has fallen off the bus")
    many.close()


def test_when_the_last_line_is_lost_the_run_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "MAX_DEATHS", 2)
    told: list[str] = []
    many = children(*two(), tell=told.append)
    with pytest.raises(RunError, match="the GPU line failed 2 times in a row"):
        list(many.run(sample(tmp_path, f"deadly {i}") for i in range(60)))
    assert len([text for text in told if "is lost" in text]) == 1
    many.close()


def test_an_output_that_cannot_be_written_ends_all_lines(tmp_path: Path) -> None:
    many = children(*two())
    with pytest.raises(WriteError, match="cannot be written: No such file"):
        list(many.run(sample(tmp_path / "gone", str(i)) for i in range(1000)))
    many.close()


def test_stopping_leaves_the_rest_without_an_outcome(tmp_path: Path) -> None:
    many, stop = children(*two()), threading.Event()
    outcomes = []
    for outcome in many.run((sample(tmp_path, str(i)) for i in range(100_000)), stop):
        outcomes.append(outcome)
        stop.set()
    many.close()
    assert 1 <= len(outcomes) < 3000
    assert {outcome.sample.name for outcome in outcomes} == {path.stem for path in tmp_path.iterdir()}


def test_a_line_that_cannot_be_made_closes_the_others() -> None:
    closed: list[str] = []

    class Good(SyntheticLine):
        def close(self) -> None:
            closed.append(self.device)

    with pytest.raises(DeviceError, match="there is no such GPU"):
        ManyLines([Good, partial(make_no_line, print)], print)
    assert closed == ["synthetic"]
