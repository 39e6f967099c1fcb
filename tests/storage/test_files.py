"""Reading files of strangers: bounded, regular, and never waiting."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gpupeak.storage.files import expanded, is_directory, is_file, open_bounded, read_bounded


def test_a_file_up_to_the_limit_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("a")
    assert read_bounded(tmp_path / "a", 5) == read_bounded(tmp_path / "link", 9) == b"12345"
    with pytest.raises(OSError, match="5 bytes, expected at most 4"):
        read_bounded(tmp_path / "a", 4)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "a")
    with pytest.raises(OSError, match="not a regular file"):
        open_bounded(tmp_path / "a", 9)


@pytest.mark.parametrize("name", ["a", "file/a", "a\0b", "\ud800", "x" * 300])
def test_what_cannot_be_there_is_not_there(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError):
        open_bounded(tmp_path / name, 9)


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        read_bounded(tmp_path / "a", 9)
        with pytest.raises(OSError, match="expected at most"):
            read_bounded(tmp_path / "a", 4)
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_is_a_file_or_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "loop").symlink_to("loop")
    names = ("a", "", "b", "loop", "x" * 5000, "a\0b", "a/b")
    assert [is_file(tmp_path / name) for name in names] == [True] + 6 * [False]
    assert [is_directory(tmp_path / name) for name in names] == [False, True] + 5 * [False]

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", refuse)
        seen = is_directory(tmp_path)
    assert not seen


def test_the_home_of_nobody_is_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert [str(expanded(path)) for path in ("~/a", "~nobody-of-this-name/a", "a", Path("b"))] == [
        *("/home/me/a", "~nobody-of-this-name/a", "a", "b"),
    ]
