"""Records of a directory: parts of shards beside run.json, merged whatever happens, overwriting never mixed up."""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from features.test_store import SETTINGS, save
from fsspec.implementations.memory import MemoryFileSystem
from samples import read_manifest, sample

from gpupeak.errors import ConfigError, RunError
from gpupeak.features.directory import FeatureDirectory
from gpupeak.features.records import is_record, read_records
from gpupeak.storage.atomic import temporary_name
from gpupeak.types import Failed, Url

OTHER = {**SETTINGS, "weights_sha256": "bb"}
THIRD = {**SETTINGS, "weights_sha256": "cc"}
NAMES = ("a", "b", "c", "d")


def opened(path: Path, part: str | None = None) -> FeatureDirectory:
    return FeatureDirectory(path, 8, 4, part)


def run(
    path: Path, *names: str, part: str | None = None, settings: dict[str, Any] = SETTINGS, overwrite: bool = False
) -> None:
    directory = opened(path, part)
    directory.refuse_mixing(settings, overwrite=overwrite)
    with directory:
        if part is None:
            directory.absorb(NAMES, overwrite=overwrite)
        done = set() if overwrite else directory.done(set(NAMES)) - set(names)
        directory.begin({"settings": settings, "device": part or "cpu"}, done=done, overwrite=overwrite)
        save(directory, *names)
        directory.finish(NAMES)


def outcomes(path: Path) -> dict[str, str]:
    return {entry["sample"]: entry["outcome"] for entry in read_manifest(path)}


def done(path: Path) -> set[str]:
    return FeatureDirectory(path, 8, 4).done(set(NAMES))


ZERO, ONE, OF_THREE = "00000-of-00002", "00001-of-00002", "00001-of-00003"


def test_parts_count_before_they_are_merged_and_after(tmp_path: Path) -> None:
    run(tmp_path, "a")
    run(tmp_path, "d", "b", part=ONE)
    run(tmp_path, "c", part=ZERO)
    text = (tmp_path / f"manifest.{ZERO}.jsonl").read_text()
    assert [json.loads(line)["sample"] for line in text.splitlines()] == ["c"], "of others' files it says nothing"
    with opened(tmp_path) as directory:
        directory.absorb(NAMES)
        directory.absorb(NAMES)
    assert [entry["sample"] for entry in read_manifest(tmp_path)] == list(NAMES)
    merged = json.loads((tmp_path / "run.json").read_text())
    assert merged["devices"] == [ZERO, ONE, "cpu"]
    assert [part.get("shard") for part in merged["parts"]] == [None, ZERO, ONE]


def test_a_saved_line_wins_over_a_failed_one_while_its_file_is_whole(tmp_path: Path) -> None:
    run(tmp_path, "a", "b", part=ZERO)
    with opened(tmp_path, OF_THREE) as directory:
        directory.begin({"settings": SETTINGS, "started": "9"}, done=set(), overwrite=False)
        for name in ("a", "b"):
            directory.record(Failed(sample(tmp_path, name), "decode", "took too long"))
    (tmp_path / "b.npy").unlink()
    with opened(tmp_path) as directory:
        directory.absorb(NAMES)
    assert outcomes(tmp_path) == {"a": "saved", "b": "failed"}


def test_an_unfinished_overwrite_of_shards_that_was_merged_goes_on_by_shards(tmp_path: Path) -> None:
    overwriting(tmp_path)
    with opened(tmp_path) as directory:
        directory.absorb(NAMES)
    run(tmp_path, "c", part=ZERO, settings=OTHER)  # a shard goes on where a plain run would
    assert done(tmp_path) == {"a", "b", "c"}
    run(tmp_path, "d", settings=OTHER)
    assert done(tmp_path) == set(NAMES)
    assert json.loads((tmp_path / "run.json").read_text())["overwriting"] is False


def test_a_plain_overwrite_ends_whatever_shards_have_begun(tmp_path: Path) -> None:
    run(tmp_path, "a", "b", part=ZERO)
    part = tmp_path / f"run.{ZERO}.json"
    (tmp_path / f"run.{ONE}.json").write_text(part.read_text().replace('"aa"', '"bb"'))
    (tmp_path / f"manifest.{ONE}.jsonl").write_text((tmp_path / f"manifest.{ZERO}.jsonl").read_text())
    with pytest.raises(ConfigError, match=r"two kinds: run\.00000-of-00002\.json says --weights"):
        run(tmp_path, "a")
    with opened(tmp_path) as directory, pytest.raises(ConfigError, match="two kinds"):
        directory.absorb()
    run(tmp_path, "a", settings=THIRD, overwrite=True)
    assert done(tmp_path) == {"a"}
    assert {name for name in os.listdir(tmp_path) if not name.endswith(".npy")} == {"run.json", "manifest.jsonl"}


@pytest.mark.parametrize("stored", [False, True])
def test_shards_of_other_settings_cannot_begin_together_though_nothing_is_saved_yet(
    stored: bool, tmp_path: Path
) -> None:
    MemoryFileSystem.store.clear()
    place = Url("memory", "out/mine") if stored else tmp_path
    one, two = (FeatureDirectory(place, 8, 4, part, tmp_path / part) for part in (ZERO, ONE))
    with one, two:
        one.begin({"settings": SETTINGS}, done=set(), overwrite=False)
        with pytest.raises(ConfigError, match="SHA-256 bb"):
            two.begin({"settings": OTHER}, done=set(), overwrite=False)
        assert [part.part for part in read_records(two.path).parts] == [ZERO]
        with pytest.raises(ConfigError, match="let those shards end"):
            two.begin({"settings": OTHER}, done=set(), overwrite=True)
        two.begin({"settings": SETTINGS}, done=set(), overwrite=False)


def test_a_shard_that_could_not_begin_leaves_its_records_as_they_were(tmp_path: Path) -> None:
    run(tmp_path, "b", part=ONE)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.json*")}
    with opened(tmp_path, ZERO) as first, opened(tmp_path, ONE) as second:
        first.begin({"settings": SETTINGS}, done=set(), overwrite=False)
        with pytest.raises(ConfigError, match="let those shards end"):
            second.begin({"settings": OTHER}, done=set(), overwrite=True)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_locks_keep_apart_what_must_not_meet(tmp_path: Path) -> None:
    with opened(tmp_path, ZERO), opened(tmp_path, ONE):
        with pytest.raises(RunError, match="shard 00000-of-00002 is being run already"), opened(tmp_path, ZERO):
            pass
        with pytest.raises(RunError, match="another gpupeak run"), opened(tmp_path):
            pass
    with opened(tmp_path), pytest.raises(RunError, match="another gpupeak run"), opened(tmp_path, ZERO):
        pass
    shards = [opened(tmp_path / "new/home", part) for part in (ZERO, ONE)]
    with shards[0]:
        shards[1].__enter__()
    assert (tmp_path / "new/home").exists(), "another shard begins there"
    shards[1].__exit__(None, None, None)
    assert list(tmp_path.rglob("*")) == [tmp_path / "new"], "what is empty is of no use"


def test_temporaries_of_writers_at_work_stay_until_the_directory_is_ones_own(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here = temporary_name()
    killed = here.replace(str(os.getpid()), str(dead.pid), 1)
    elsewhere, old = ".gpupeak-7@elsewhere.1-0.tmp", ".gpupeak-7@elsewhere.1-1.tmp"
    unknown = ".gpupeak-12-3.tmp"  # of an earlier version
    for name in (here, killed, elsewhere, old, unknown, "a.npy", "x.tmp"):
        (tmp_path / name).touch()
    os.utime(tmp_path / old, (0, 0))
    with opened(tmp_path, ZERO):
        there = {name for name in os.listdir(tmp_path) if not is_record(name)}
        assert there == {here, elsewhere, unknown, "a.npy", "x.tmp"}
    with opened(tmp_path):
        assert sorted(os.listdir(tmp_path)) == ["a.npy", "x.tmp"]


@pytest.mark.parametrize("part", [None, ZERO])
def test_where_there_are_no_locks_a_run_goes_on_and_can_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str | None
) -> None:
    def none(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    (tmp_path / temporary_name()).touch()
    with opened(tmp_path, part) as directory:
        assert directory.unguarded
        assert [name for name in os.listdir(tmp_path) if name.endswith(".tmp")], "it may be another run's"
        directory.begin({"settings": SETTINGS}, done=set(), overwrite=False)
        save(directory, "a")
        directory.finish(NAMES)
    assert outcomes(tmp_path) == {"a": "saved"}


class Killed(BaseException):
    """The process is gone."""


def plain_parts(path: Path) -> None:
    run(path, "a")
    run(path, "b", part=ZERO)
    run(path, "c", part=ONE)


def overwriting(path: Path) -> None:
    run(path, *NAMES)
    run(path, "a", part=ZERO, settings=OTHER, overwrite=True)
    run(path, "b", part=ONE, settings=OTHER)


def over_parts(path: Path) -> None:
    run(path, "a", "b", part=ZERO)
    run(path, "c", "d", part=ONE)
    run(path, "c", "d", part=OF_THREE, settings=OTHER, overwrite=True)


@pytest.mark.parametrize(("made", "names"), [(plain_parts, "abc"), (overwriting, "ab"), (over_parts, "cd")])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_merge_killed_at_any_step_loses_nothing_and_is_finished_by_the_next(
    made: Callable[[Path], None], names: str, when: str, tmp_path: Path
) -> None:
    made(tmp_path / "whole")
    finished_then, told_then = set(names), dict.fromkeys(names, "saved")
    assert (done(tmp_path / "whole"), outcomes(tmp_path / "whole")) == (finished_then, told_then)
    with opened(tmp_path / "whole") as directory:
        directory.absorb(NAMES)
        overwriting_then = directory.overwriting
    assert (done(tmp_path / "whole"), outcomes(tmp_path / "whole")) == (finished_then, told_then)
    for step in itertools.count():
        path = tmp_path / f"{step}"
        made(path)
        (path / f".gpupeak-{ZERO}.lock").touch()  # what a killed shard leaves besides
        (path / temporary_name()).touch()
        if not killed(path, step, when):
            break
        assert done(path) == finished_then, f"step {step}"
        assert outcomes(path) == told_then, f"step {step}"
        with opened(path) as directory:
            directory.absorb(NAMES)
            assert directory.overwriting == overwriting_then or directory.run is None
        assert done(path) == finished_then
        assert outcomes(path) == told_then
        assert [entry["sample"] for entry in read_manifest(path)] == sorted(told_then)
        assert json.loads((path / "run.json").read_text())["overwriting"] == overwriting_then
        assert {name for name in os.listdir(path) if not name.endswith(".npy")} == {"run.json", "manifest.jsonl"}
    assert step >= 7


def killed(path: Path, step: int, when: str) -> bool:
    """Merge, and be killed before or after the given one of its changes; False if it has fewer."""
    count = itertools.count()
    dead = False

    def dying(change: Callable[..., Any]) -> Callable[..., Any]:
        def act(*arguments: Any, **named: Any) -> Any:
            nonlocal dead
            if dead:
                raise Killed
            dead = next(count) == step
            if dead and when == "before":
                raise Killed
            done = change(*arguments, **named)
            if dead:
                raise Killed
            return done

        return act

    with opened(path) as directory, pytest.MonkeyPatch.context() as patched:
        for name in ("replace", "unlink"):
            patched.setattr(Path, name, dying(getattr(Path, name)))
        try:
            directory.absorb(NAMES)
        except Killed:
            return True
    return False
