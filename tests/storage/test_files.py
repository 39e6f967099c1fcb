"""Reading files of strangers: bounded, regular, and never waiting."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gpupeak.storage.files import expanded, is_directory, is_file, read_bounded


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
