"""Locks in a store: one holder, never disturbed while it lives, taken over soon when it is dead."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from gpupeak.errors import RunError, WriteError
from gpupeak.features import hold
from gpupeak.features.hold import Hold, take_all
from gpupeak.storage import remote

SHARDS = ("00000-of-00002", "00001-of-00002")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(hold, "_SETTLE_SECONDS", 0.2)
    monkeypatch.setattr(hold, "_LOOK_SECONDS", 0.1)
    monkeypatch.setattr(hold, "_ANSWER_SECONDS", 0.6)
    MemoryFileSystem.store.clear()
    yield
    MemoryFileSystem.store.clear()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return remote.mirror_path(tmp_path, "memory://store/features")


def locks() -> list[str]:
    return sorted(name.rpartition("/")[2] for name in MemoryFileSystem.store)


def die(held: Hold) -> None:
    """What a kill leaves: the object, and nobody who answers."""
    held._ended.set()
    assert held._looking is not None
    held._looking.join()


def attempt(held: Hold) -> bool:
    try:
        held.take()
    except RunError:
        return False
    return True


def test_the_second_is_refused_and_the_first_is_not_disturbed(place: Path) -> None:
    first, second = Hold(place), Hold(place)
    first.take()
    with pytest.raises(RunError, match="another gpupeak run is writing here; let it end or choose another"):
        second.take()
    second.release()
    first.check()
    first.release()
    assert locks() == []
    second.take()
    second.check()
    second.release()


@pytest.mark.parametrize("parts", [(None,) * 6, (SHARDS[0],) * 6])
def test_of_those_that_begin_at_the_same_moment_one_goes_on(place: Path, parts: tuple[str | None, ...]) -> None:
    holds = [Hold(place, part) for part in parts]
    start = threading.Barrier(len(holds))

    def begin(held: Hold) -> bool:
        start.wait()
        return attempt(held)

    with ThreadPoolExecutor(len(holds)) as threads:
        taken = list(threads.map(begin, holds))
    assert sum(taken) == 1
    for held in holds:
        held.check()
        held.release()
    assert locks() == []


def test_what_a_killed_run_held_is_taken_over(place: Path) -> None:
    killed, second = Hold(place), Hold(place)
    killed.take()
    die(killed)
    second.take()
    second.release()
    assert locks() == []


def test_a_run_that_did_not_answer_does_not_go_on(place: Path) -> None:
    stopped, second = Hold(place), Hold(place)
    stopped.take()
    die(stopped)
    second.take()
    stopped._ended.clear()
    stopped._look()
    with pytest.raises(RunError, match="another gpupeak run has begun here while this one did not answer"):
        stopped.check()
    second.check()
    stopped.release()
    assert locks() == [".gpupeak.lock"], "the second's"
    second.release()


def test_shards_run_together_and_with_nothing_else(place: Path) -> None:
    shards = [Hold(place, part) for part in SHARDS]
    take_all(shards)
    with pytest.raises(RunError, match="shard 00001-of-00002 is being run already"):
        Hold(place, SHARDS[1]).take()
    with pytest.raises(RunError, match="another gpupeak run is writing here"):
        Hold(place).take()
    for shard in shards:
        shard.check()
    die(shards[0])
    with pytest.raises(RunError, match="another gpupeak run is writing here"):
        Hold(place).take()
    shards[1].release()
    whole = Hold(place)
    whole.take()
    assert locks() == [".gpupeak.lock"], "that of the dead shard is gone"
    with pytest.raises(RunError, match="another gpupeak run is writing here"):
        Hold(place, SHARDS[0]).take()
    whole.check()
    assert locks() == [".gpupeak.lock"]
    die(whole)
    again = [Hold(place, part) for part in SHARDS]
    take_all(again)
    assert locks() == [f".gpupeak-{part}.lock" for part in SHARDS]
    for shard in again:
        shard.release()


def test_an_answer_that_one_more_asker_has_written_over_is_waited_for(place: Path) -> None:
    whole, shard = Hold(place), Hold(place, SHARDS[0])
    whole.take()
    ended = threading.Event()

    def ask() -> None:
        while not ended.wait(0.03):
            remote.put(place / ".gpupeak.lock", json.dumps({"id": "another", "state": "asks"}).encode())

    asker = threading.Thread(target=ask)
    asker.start()
    threading.Timer(1.0, ended.set).start()
    assert not attempt(shard)
    asker.join()
    whole.check()
    whole.release()


@pytest.mark.parametrize("left", [b"", b"[]", b"{}", b"\xff", b"null"])
def test_an_object_of_another_form_is_taken_over(place: Path, left: bytes) -> None:
    remote.put(place / ".gpupeak.lock", left)
    held = Hold(place)
    held.take()
    held.release()
    assert locks() == []


def test_a_store_that_takes_nothing_is_one_line(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: MemoryFileSystem, path: str, value: bytes, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", refuse)
    with pytest.raises(WriteError, match="cannot be written: "):
        Hold(place).take()
