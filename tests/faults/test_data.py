"""Files from strangers are data: in small what `data.run` does in full, and each bound on its own."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest
from faults import data
from faults.corpus import SMALL
from faults.data import Guard

from gpupeak.storage.atomic import replace_file


@pytest.fixture(scope="module")
def guard() -> Guard:
    return Guard()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", data.KINDS)
def test_files_of_strangers(name: str, guard: Guard, tmp_path: Path) -> None:
    found = data.fuzz(name, SMALL, 11, tmp_path / "fuzz", guard)
    assert found["faults"] == []
    assert found["longest_s"] < data.SECONDS
    assert found.get("read", 0) + found.get("refused", 0) == found["tried"] >= 50


def test_the_guard_hears(guard: Guard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is heard of an unguarded reader: silence above means something."""
    (tmp_path / "payload.py").write_text("x = print")
    monkeypatch.syspath_prepend(tmp_path)
    for pickled, heard in ((b"cos\nsystem\n.", "pickle asks for"), (b"cpayload\nx\n.", "import payload")):
        guard.heard.clear()
        with guard.on():
            pickle.loads(pickled)
        assert any(event.startswith(heard) for event in guard.heard), guard.heard
    monkeypatch.delitem(sys.modules, "payload")


def test_a_file_is_never_written_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "precious").write_text("precious")
    monkeypatch.setattr("gpupeak.storage.atomic.temporary_name", lambda: ".gpupeak-guessed.tmp")
    (tmp_path / ".gpupeak-guessed.tmp").symlink_to("precious")
    with pytest.raises(FileExistsError):
        replace_file(tmp_path / "page.html", [b"page"])
    assert (tmp_path / "precious").read_text() == "precious"
