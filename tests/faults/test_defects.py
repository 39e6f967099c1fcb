"""What the faults brought to light, each alone: it was wrong once."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import ENCODER, plan, read_manifest, sample

from gpupeak import ExtractConfig
from gpupeak.child import Child
from gpupeak.cli.app import main
from gpupeak.corpora import labels
from gpupeak.corpora.datasets import resolve
from gpupeak.corpora.labels import read_names
from gpupeak.decode import worker
from gpupeak.decode.pool import WorkerPool
from gpupeak.errors import ConfigError, LabelError, RunError, WriteError
from gpupeak.features import packs as features
from gpupeak.features.directory import FeatureDirectory
from gpupeak.features.layout import feature_directory
from gpupeak.features.records import read_records
from gpupeak.types import FrameBatch, Saved


@contextlib.contextmanager
def limited(which: int, value: int) -> Iterator[None]:
    """Lower a limit of this process for a moment."""
    soft, hard = resource.getrlimit(which)
    resource.setrlimit(which, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(which, (soft, hard))


def test_a_line_of_which_the_disk_takes_a_part_ends_the_run(tmp_path: Path) -> None:
    with FeatureDirectory(tmp_path / "out", 8, 4) as directory:
        directory.begin({}, done=set(), overwrite=False)
        directory.record(Saved(plan(tmp_path / "out", "first"), {}))
        written = (tmp_path / "out" / "manifest.jsonl").stat().st_size
        with (
            limited(resource.RLIMIT_FSIZE, written + 20),
            pytest.raises(WriteError, match=r"manifest\.jsonl: cannot be written: No space left"),
        ):
            directory.record(Saved(plan(tmp_path / "out", "second"), {}))
    assert (tmp_path / "out" / "manifest.jsonl").stat().st_size == written + 20
    assert [entry["sample"] for entry in read_manifest(tmp_path / "out")] == ["first"]


def test_where_no_more_files_can_be_opened_a_process_says_so() -> None:
    with limited(resource.RLIMIT_NOFILE, 3), pytest.raises(RunError, match="cannot be started: Too many open files"):
        Child(worker.main)


def test_where_no_memory_can_be_shared_the_pool_says_so() -> None:
    with limited(resource.RLIMIT_FSIZE, 1000), pytest.raises(RunError, match="bytes of shared memory cannot be had"):
        WorkerPool(1)


def test_a_worker_that_is_killed_while_it_starts_is_started_again(
    clip_of: Callable[[str], Path], tmp_path: Path
) -> None:
    pool = WorkerPool(1)
    os.kill(pool.pids[0], signal.SIGKILL)
    (outcome,) = pool.decode([sample(tmp_path, video=clip_of("h264"))])
    pool.close()
    assert isinstance(outcome, FrameBatch)


def test_one_that_is_killed_again_and_again_ends_the_run(clip_of: Callable[[str], Path], tmp_path: Path) -> None:
    pool = WorkerPool(1)
    pool._workers[0]._start = lambda: _killed(Child(worker.main))  # type: ignore[assignment]
    os.kill(pool.pids[0], signal.SIGKILL)
    with pytest.raises(RunError, match="cannot start: it was ended by SIGKILL"):
        list(pool.decode([sample(tmp_path, video=clip_of("h264"))]))


def _killed(child: Child) -> Child:
    child.process.kill()
    return child


def test_a_directory_that_is_no_utf8_is_written_down(tmp_path: Path) -> None:
    with FeatureDirectory(tmp_path / "out", 8, 4) as directory:
        directory.begin({"settings": {}, "videos": "w\udcff"}, done=set(), overwrite=False)
    written = (tmp_path / "out" / "run.json").read_bytes()
    assert json.loads(written)["videos"] == "w\udcff"


def test_an_archive_that_claims_a_long_directory_is_not_read(tmp_path: Path) -> None:
    size = 1 << 30
    file = tmp_path / "names.npz"
    with file.open("wb") as stream:
        stream.seek(size - 22)
        stream.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, size - 22, 0, 0))
    with pytest.raises(LabelError, match=r"1,073,741,824 bytes, expected at most 268,435,456"):
        read_names(file)


def test_an_array_of_more_names_than_any_list_has_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "names.npz", names=np.zeros(10_000_001, "S1"))
    with pytest.raises(LabelError, match="more than 10,000,000 names"):
        read_names(tmp_path / "names.npz")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("names.txt", "a\n" * 11),
        ("names.csv", "a\n" * 11),
        ("names.json", json.dumps(["a"] * 11)),
        ("names.json", "[" + "{}," * 7 + "{}]"),
    ],
)
def test_a_text_of_more_names_than_any_list_has_is_refused(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labels, "_MOST_NAMES", 10)
    monkeypatch.setattr(labels, "_MOST_VALUES", 15)
    (tmp_path / name).write_text(text)
    with pytest.raises(LabelError, match=f"more than {15 if '{' in text else 10} (names|values)"):
        read_names(tmp_path / name)


def test_a_line_of_a_list_does_not_become_a_row_of_millions(tmp_path: Path) -> None:
    (tmp_path / "names.csv").write_text("a\n" + "," * ((1 << 20) + 1))
    with pytest.raises(LabelError, match="a line of 1,048,577 characters, expected at most 1,048,576"):
        read_names(tmp_path / "names.csv")


@pytest.mark.parametrize("shape", ["(3,)", "(1, 1)", "(2.5,)", "None"])
def test_an_array_that_is_not_of_the_length_it_claims_is_damaged(shape: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "names.npz", names=np.array(["ab", "cd"]))
    with zipfile.ZipFile(tmp_path / "names.npz") as archive:
        data = archive.read("names.npy")
    with zipfile.ZipFile(tmp_path / "names.npz", "w") as archive:
        archive.writestr("names.npy", data.replace(b"(2,), }".ljust(18), f"{shape}, }}".encode().ljust(18)))
    with pytest.raises(LabelError, match=r"damaged \.npz"):
        read_names(tmp_path / "names.npz")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.toml", f"n_frms = 0x{'f' * 5000}"),
        ("c.toml", f"[datasets.mine]\nexpected = 0x{'f' * 5000}"),
        ("c.yaml", f"datasets: 0x{'f' * 5000}"),
        ("c.yaml", f"? 0x{'f' * 5000}\n: 1"),
        ("c.yaml", f"n_frms: {':'.join('1' * 20000)}"),
    ],
)
def test_a_number_that_cannot_be_printed_is_one_line(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=r"a number of [\d,]+ bits, expected at most 64"):
        resolve(ExtractConfig(config_file=tmp_path / name))


def test_records_whose_values_are_lists_are_read(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"parts": [{"id": []}, {}]}')
    (tmp_path / "run.00000-of-00002.json").write_text('{"id": {}}')
    (tmp_path / "manifest.00000-of-00002.jsonl").write_text('{"sample": "a", "outcome": ["saved"]}\n')
    records = read_records(tmp_path)
    assert [part.part for part in records.without_idle({"a"}).parts] == ["00000-of-00002"]


@pytest.mark.parametrize("shape", [[2.0, 8, 4], [2, 8, 4.0], [True, 8, 8], [2, 8, 0]])
def test_a_pack_whose_shape_is_no_shape_is_refused(shape: list[Any], tmp_path: Path) -> None:
    names = ["a", "b"][: int(shape[0])]
    size = 4 * int(np.prod(shape))
    about = {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}
    header = json.dumps({features._TENSOR: about, "__metadata__": {features._SAMPLES: json.dumps(names)}}).encode()
    (tmp_path / "p.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(size))
    with pytest.raises(ValueError, match="not a packed file"):
        features._read_pack(tmp_path / "p.safetensors", 8)


def test_a_file_without_a_name_is_not_packed(tmp_path: Path) -> None:
    for name in (".npy", "a.npy", "b\n.npy"):
        (tmp_path / name).touch()
    assert set(features._npy_files(tmp_path)) == {"a"}


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
@pytest.mark.parametrize(
    ("words", "file", "fault"),
    [
        ("extract", "manifest.jsonl", "read"),
        ("extract --overwrite --num-shards 2 --shard-index 0", "manifest.00000-of-00002.jsonl", "written"),
        ("verify", "manifest.jsonl", "read"),
        ("inspect a", "manifest.jsonl", "read"),
    ],
)
def test_a_manifest_that_is_no_file_is_one_line(
    words: str,
    file: str,
    fault: str,
    make: Callable[[Path], None],
    clip_of: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "videos").mkdir()
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / "videos" / name).symlink_to(clip_of("h264"))
    home = feature_directory(tmp_path / "out", "mine", f"open_clip_{ENCODER.partition(':')[2]}", "uniform", 8)
    home.mkdir(parents=True)
    np.save(home / "a.npy", np.ones((8, 256), np.float32))
    make(home / file)
    given = ["--videos", str(tmp_path / "videos"), "--name", "mine", "--output-root", str(tmp_path / "out")]
    given += ["--sampling", "uniform", "--visual-encoder", ENCODER, "--weights", "random:0"]
    assert main([*words.split(), *given]) == 3
    line = capsys.readouterr().err.splitlines()[-1]
    reason = "Is a directory" if make is os.mkdir and fault == "read" else "not a regular file"
    assert line.endswith(f"{home / file if fault == 'read' else home}: cannot be {fault}: {reason}")
