"""Writing: whole files or none, widened to float32, one outcome a sample, errors told apart."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import numpy as np
import pytest
from samples import features

from gpupeak.errors import WriteError
from gpupeak.features.writer import NpyWriter
from gpupeak.types import Failed, Saved


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_each_sample_becomes_the_file_that_numpy_saves(tmp_path: Path, dtype: type) -> None:
    batch = features(tmp_path, "a", "喜 怒", "-c", dim=768, dtype=dtype)
    outcomes = list(NpyWriter().write([batch]))
    assert [type(outcome) for outcome in outcomes] == [Saved] * 3
    assert sorted(os.listdir(tmp_path)) == ["-c.npy", "a.npy", "喜 怒.npy"]
    for row, name in enumerate(("a", "喜 怒", "-c")):
        np.save(tmp_path / "theirs.npy", batch.features[row * 8 : row * 8 + 8].astype(np.float32))
        assert (tmp_path / f"{name}.npy").read_bytes() == (tmp_path / "theirs.npy").read_bytes()
    assert (tmp_path / "a.npy").stat().st_size == 128 + 24_576
    assert all("write" in outcome.seconds for outcome in outcomes if isinstance(outcome, Saved))


@pytest.mark.parametrize("fsync", [False, True])
def test_with_fsync_a_file_is_on_the_disk_before_it_has_its_name(
    fsync: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append((tmp_path / "a.npy").exists()))
    list(NpyWriter(fsync=fsync).write([features(tmp_path, "a")]))
    assert synced == [False] * fsync and (tmp_path / "a.npy").exists()


def test_the_batch_is_released_once_after_its_last_file(tmp_path: Path) -> None:
    released: list[list[str]] = []
    batch = features(tmp_path, "a", "b")
    object.__setattr__(batch, "release", lambda: released.append(sorted(os.listdir(tmp_path))))
    list(NpyWriter().write([batch]))
    assert released == [["a.npy", "b.npy"]]


@pytest.mark.parametrize(("name", "why"), [("x" * 300, "File name too long"), ("taken", "Is a directory")])
def test_a_name_that_the_file_system_refuses_fails_its_sample_only(name: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "taken.npy").mkdir()
    failed, saved = NpyWriter().write([features(tmp_path, name, "good")])
    assert isinstance(failed, Failed)
    assert isinstance(saved, Saved)
    assert (failed.stage, failed.reason) == ("write", f"file name refused: {why}")
    assert sorted(os.listdir(tmp_path)) == ["good.npy", "taken.npy"]


def test_a_full_disk_ends_the_run_and_leaves_nothing_torn(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"earlier")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (140, limits[1]))  # as a disk that fills up, it takes what still fits
    with pytest.raises(WriteError, match=r"a\.npy: cannot be written: File too large"):
        list(NpyWriter().write([features(tmp_path, "a")]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == ["a.npy"]
    assert (tmp_path / "a.npy").read_bytes() == b"earlier"
    with pytest.raises(WriteError, match="cannot be written: No such file"):
        list(NpyWriter().write([features(tmp_path / "gone", "a")]))
