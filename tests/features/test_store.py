"""The store: paths as the consumer builds them, what counts as whole, provenance and its refusals."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from samples import features, plan, read_manifest, sample, write_features

import gpupeak
from gpupeak.errors import ConfigError, RunError, WriteError
from gpupeak.features.directory import FeatureDirectory
from gpupeak.features.npy import is_whole, npy_header, read_features
from gpupeak.features.records import ManifestLine
from gpupeak.features.writer import NpyWriter
from gpupeak.types import Failed, Saved

SETTINGS = {"encoder": "CLIP_VIT_LARGE", "weights": "random:0", "weights_sha256": "aa", "n_frms": 8}


def opened(path: Path) -> FeatureDirectory:
    return FeatureDirectory(path, 8, 4)


def save(directory: FeatureDirectory, *names: str) -> None:
    for outcome in NpyWriter().write([features(directory.path, *names)]):
        directory.record(outcome)


@pytest.mark.parametrize("root", ["out", "out/mer2023"])
def test_load_features_reads_what_was_saved_with_either_root(tmp_path: Path, root: str) -> None:
    home = tmp_path / "out/mer2023/frame_CLIP_VIT_LARGE_emotion_peak_8frms"
    values = write_features(home, "sample_00001998")["sample_00001998"]
    loaded = gpupeak.load_features(tmp_path / root, "mer2023", "sample_00001998")
    np.testing.assert_array_equal(loaded, values)
    assert loaded.dtype == np.float32
    loaded[0, 0] = 1.0  # the caller's own memory, writable
    for content in (b"", b"\x93NUMPY", np.zeros(4).tobytes(), b"\x93NUMPY\x01\x00\xff\xff" + b"[" * 70_000):
        (home / "torn.npy").write_bytes(content)
        with pytest.raises(ValueError, match="expected float32"):
            gpupeak.load_features(tmp_path / root, "mer2023", "torn")
    with pytest.raises(FileNotFoundError):
        gpupeak.load_features(tmp_path / root, "mer2023", "nobody")


@pytest.mark.parametrize("shape", [(8, 768), (1, 1), (32, 1024), (123456, 4)])
def test_the_prepared_header_is_numpys(tmp_path: Path, shape: tuple[int, int]) -> None:
    np.save(tmp_path / "a.npy", np.zeros(shape, np.float32))
    header = npy_header(shape)
    assert (tmp_path / "a.npy").read_bytes()[: len(header)] == header
    assert is_whole(tmp_path / "a.npy", *shape)
    with (tmp_path / "a.npy").open("wb") as file:  # another writer's format
        np.lib.format.write_array(file, np.zeros(shape, np.float32), version=(2, 0))
    assert is_whole(tmp_path / "a.npy", *shape)


@example(cut=128, flip=0, value=0)  # the header and nothing else
@example(cut=0, flip=61, value=ord("9"))  # nine rows in place of eight
@settings(max_examples=200, deadline=None)
@given(cut=st.integers(0, 255), flip=st.integers(0, 100), value=st.integers(0, 255))
def test_a_torn_or_corrupted_file_is_never_whole_and_never_raises(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flip: int, value: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "torn.npy"
    data = bytearray(npy_header((8, 4)) + bytes(128))
    path.write_bytes(data[:cut])
    assert not is_whole(path, 8, 4)
    data[flip] = value
    path.write_bytes(data)
    if is_whole(path, 8, 4):  # then NumPy reads the same from it
        assert np.load(path).shape == (8, 4)


def test_what_is_told_of_other_samples_stays_and_what_failed_gives_way(tmp_path: Path) -> None:
    with opened(tmp_path) as directory:
        directory.begin({"settings": SETTINGS}, done=set(), overwrite=False, pending={"a", "b"})
        save(directory, "a")
        directory.record(Failed(sample(tmp_path, "b"), "decode", "video is cut"))
    before = (tmp_path / "manifest.jsonl").read_bytes()
    with opened(tmp_path) as directory:
        directory.begin({"settings": SETTINGS}, done=set(), overwrite=False, pending={"c"})
        save(directory, "c")
        directory.finish(["c"])
    after = (tmp_path / "manifest.jsonl").read_bytes().splitlines(keepends=True)
    assert b"".join(after[1:]) == before and b'"sample":"c"' in after[0]
    np.save(tmp_path / "b.npy", np.zeros((8, 4), np.float32))
    with opened(tmp_path) as directory:
        directory.begin({"settings": SETTINGS}, done={"b"}, overwrite=False, pending={"d"})
    told = {line["sample"]: line["outcome"] for line in read_manifest(tmp_path)}
    assert told["b"] == "failed", "it may be what could not be made again"
    with opened(tmp_path) as directory:
        directory.begin({"settings": SETTINGS}, done={"a"}, overwrite=False, pending={"b"})
        assert [entry["sample"] for entry in read_manifest(tmp_path)] == ["c", "a"], "it is tried again"
    with opened(tmp_path) as directory:
        directory.begin({"settings": SETTINGS}, done=set(), overwrite=True, pending={"c"})
    assert (tmp_path / "manifest.jsonl").read_bytes() == b"", "of an overwrite only what it saved counts"


def test_a_manifest_of_a_stranger_is_read_for_what_it_holds(tmp_path: Path) -> None:
    lines = [b"[" * 100_000, b"\xff\xfe", b"[1]", b'{"sample": 1e999}', b'{"sample": "a", "n": ' + b"9" * 9000 + b"}"]
    (tmp_path / "manifest.jsonl").write_bytes(b"\n".join([*lines, b'{"sample": "a"}', b""]))
    assert list(read_manifest(tmp_path)) == [{"sample": "a"}]


@pytest.mark.parametrize(("part", "make"), [(None, os.mkdir), ("00000-of-00002", os.mkfifo)])
def test_a_manifest_that_is_no_file_ends_the_run(
    part: str | None, make: Callable[[Path], None], tmp_path: Path
) -> None:
    make(tmp_path / (f"manifest.{part}.jsonl" if part else "manifest.jsonl"))
    with (
        FeatureDirectory(tmp_path, 8, 4, part) as directory,
        pytest.raises((RunError, WriteError), match=r"cannot be (read|written): not a regular file"),
    ):
        directory.begin({"settings": SETTINGS}, done=set(), overwrite=part is not None)


def test_nothing_waits_for_a_pipe_and_nothing_huge_is_read(tmp_path: Path) -> None:
    for name in ("a.npy", "manifest.jsonl", "run.json"):
        os.mkfifo(tmp_path / name)
    assert not is_whole(tmp_path / "a.npy", 8, 4) and not is_whole(tmp_path / "none.npy", 8, 4)
    assert not is_whole(tmp_path, 8, 4)
    with pytest.raises(RunError, match=r"manifest\.jsonl: cannot be read: not a regular file"):
        list(read_manifest(tmp_path))
    with pytest.raises(ConfigError, match=r"run\.json: cannot be read"):
        FeatureDirectory(tmp_path, 8, 4)
    with (tmp_path / "c.npy").open("wb") as file:  # as large as it says
        file.write(npy_header((8, 1 << 34)))
        file.truncate(128 + (512 << 30))
    with pytest.raises(ValueError, match="549,755,814,016 bytes, expected at most 268,435,456"):
        read_features(tmp_path / "c.npy", 8)
    (tmp_path / "manifest.jsonl").unlink()
    (tmp_path / "manifest.jsonl").touch()
    os.truncate(tmp_path / "manifest.jsonl", 400 << 30)
    with pytest.raises(RunError, match=r"manifest\.jsonl: cannot be read: 429,496,729,600 bytes, expected at most"):
        list(read_manifest(tmp_path))
    (tmp_path / "manifest.jsonl").write_bytes((b"," * (1 << 20)) * 20)
    with pytest.raises(RunError, match=r"manifest\.jsonl: cannot be read: more than 20,000,000 values"):
        list(read_manifest(tmp_path))


@pytest.mark.parametrize("key", ["rule", "seconds"])
@pytest.mark.parametrize("values", [dict.fromkeys("abcdefghijklmnopq", 1), {"n": [[]]}, {"n": {}}])
def test_of_a_line_no_more_is_kept_than_a_run_writes(key: str, values: dict[str, Any]) -> None:
    assert ManifestLine.read(json.dumps({"sample": "a", key: values}).encode()) is None


def test_other_settings_are_refused_and_the_difference_is_named(tmp_path: Path) -> None:
    for saved in ((), ("a",)):
        opened(tmp_path).refuse_mixing({**SETTINGS, "weights_sha256": "bb"})  # before a run has saved anything
        with opened(tmp_path) as directory:
            directory.begin({"settings": SETTINGS}, done=set(), overwrite=False)
            directory.record(Failed(sample(tmp_path, "b"), "decode", "video is cut"))
            save(directory, *saved)
    again = FeatureDirectory(tmp_path, 8, 4)
    again.refuse_mixing(SETTINGS)
    again.refuse_mixing({**SETTINGS, "weights": "/elsewhere/same"})  # the hash decides
    again.refuse_mixing({**SETTINGS, "weights_sha256": None})
    run = json.loads((tmp_path / "run.json").read_text())
    for key in ("weights", "n_frms"):
        less = {each: value for each, value in run["settings"].items() if each != key}
        (tmp_path / "run.json").write_text(json.dumps({**run, "settings": {**less, "weights_sha256": None}}))
        with pytest.raises(ConfigError, match=f"made with --{key} unknown, this run has".replace("_", "-")):
            opened(tmp_path).refuse_mixing(SETTINGS)
    (tmp_path / "run.json").unlink()
    with pytest.raises(ConfigError, match="made with --visual-encoder unknown, this run has"):
        opened(tmp_path).refuse_mixing({**SETTINGS, "weights_sha256": None})
    (tmp_path / "run.json").write_text(json.dumps(run))
    with pytest.raises(ConfigError, match=r"SHA-256 aa.*SHA-256 bb.*; give another --output-root"):
        again.refuse_mixing({**SETTINGS, "weights_sha256": "bb"})
    with pytest.raises(ConfigError, match="--weights random:0, this run has --weights openai"):
        again.refuse_mixing({**SETTINGS, "weights": "openai", "weights_sha256": None})


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    (out / ".gpupeak-00000-of-00002.lock").symlink_to(elsewhere)
    with (
        pytest.raises(RunError, match=r"00002\.lock: a symbolic link where a lock belongs"),
        FeatureDirectory(out, 8, 4, "00000-of-00002"),
    ):
        pass
    assert not elsewhere.exists()
    (tmp_path / "link").symlink_to(out)
    with opened(tmp_path / "link"):  # a directory may be one
        pass


def test_an_unfinished_overwrite_never_passes_for_done(tmp_path: Path) -> None:
    with opened(tmp_path) as directory:
        directory.begin({"settings": SETTINGS}, done=set(), overwrite=False)
        save(directory, "a", "b")
    with opened(tmp_path) as directory:
        directory.begin({"settings": {**SETTINGS, "weights_sha256": "bb"}}, done=set(), overwrite=True)
        save(directory, "a")
        assert directory.finish() == 1
    assert FeatureDirectory(tmp_path, 8, 4).done({"a", "b"}) == {"a"}, "b still is of the earlier settings"
    with opened(tmp_path) as directory:  # no --overwrite needed to go on
        directory.begin({"settings": {**SETTINGS, "weights_sha256": "bb"}}, done={"a"}, overwrite=False)
        save(directory, "b")
        assert directory.finish() == 0
    assert FeatureDirectory(tmp_path, 8, 4).done({"a", "b"}) == {"a", "b"}
    assert json.loads((tmp_path / "run.json").read_text())["overwriting"] is False


def test_of_a_run_that_ends_before_it_begins_no_directory_is_left(tmp_path: Path) -> None:
    with opened(tmp_path / "root" / "mine"), pytest.raises(RunError), opened(tmp_path / "root" / "mine"):
        pass
    assert not any(tmp_path.iterdir())
    (tmp_path / "mine").mkdir()
    with opened(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine").is_dir(), "somebody else's"


def test_an_output_root_that_is_a_file_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(WriteError, match="cannot be used as an output directory: Not a directory"),
        opened(tmp_path / "file" / "mine"),
    ):
        pass


def test_a_saved_outcome_keeps_its_peak_and_its_reasons(tmp_path: Path) -> None:
    with opened(tmp_path) as directory:
        directory.begin({"settings": {}, "videos": "w\udcff"}, done=set(), overwrite=False)  # names that are no UTF-8
        directory.record(Saved(plan(tmp_path, "\udce9"), {"decode": 0.5}))
    assert json.loads((tmp_path / "run.json").read_bytes())["videos"] == "w\udcff"
    (entry,) = read_manifest(tmp_path)
    assert entry["sample"] == "\udce9"
    assert entry["seconds"] == {"decode": 0.5}
    assert entry["peak"] is None
