"""Reading features back: as mappings, in a training loop, packed into one file and unpacked again."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.numpy import load_file
from samples import features, read_manifest, write_features
from torch.utils.data import DataLoader

import gpupeak
from gpupeak.cli.app import main
from gpupeak.errors import ConfigError, RunError, WriteError
from gpupeak.features.directory import FeatureDirectory
from gpupeak.features.packs import FeatureStore, pack, packed_file, unpack
from gpupeak.features.writer import NpyWriter

N, DIM = 8, 6
NAMES = ["b", "-a", "名前", "c d"]


def fill(root: Path, dataset: str = "mer2023", names: Sequence[str] = NAMES) -> dict[str, npt.NDArray[np.float32]]:
    return write_features(FeatureStore(root).directory(dataset), *names, shape=(N, DIM))


def same(store: FeatureStore, dataset: str, wanted: dict[str, npt.NDArray[np.float32]]) -> bool:
    found = store[dataset]
    return list(found) == sorted(wanted) and all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_datasets_and_samples_are_mappings(tmp_path: Path) -> None:
    mer2023, meld = fill(tmp_path), fill(tmp_path, "meld")
    (tmp_path / "something else").mkdir()
    store = gpupeak.FeatureStore(tmp_path)
    assert list(store) == ["meld", "mer2023"]
    assert (len(store), "meld" in store, "sims" in store) == (2, True, False)
    assert same(store, "mer2023", mer2023)
    assert same(store, "meld", meld)
    assert same(FeatureStore(tmp_path / "meld"), "meld", meld), "a root may end in the dataset"
    with pytest.raises(KeyError):
        store["sims"]
    with pytest.raises(KeyError):
        store["meld"]["nobody"]
    assert list(FeatureStore(tmp_path / "nowhere")) == []
    store["meld"]["b"][:] = 0
    assert same(store, "meld", meld), "what is handed out is the caller's own"


def test_packed_and_unpacked_everything_is_the_same_to_the_bit(tmp_path: Path) -> None:
    wanted = fill(tmp_path)
    store = FeatureStore(tmp_path)
    directory = store.directory("mer2023")
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    assert pack(directory, N) == (packed_file(directory), len(NAMES))
    for path in directory.iterdir():
        path.unlink()
    assert same(store, "mer2023", wanted), "the packed file is enough"
    stacked = load_file(packed_file(directory))["features"]
    assert np.array_equal(stacked, [wanted[name] for name in sorted(wanted)]), "as it is to other readers"
    directory.rmdir()
    assert list(store) == ["mer2023"]
    assert unpack(directory, N) == (len(NAMES), len(NAMES))
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
    assert same(store, "mer2023", wanted)
    assert unpack(directory, N) == (0, len(NAMES))


def test_a_packed_file_that_is_out_of_date_is_refused_and_can_be_made_again(tmp_path: Path) -> None:
    wanted = fill(tmp_path)
    store = FeatureStore(tmp_path)
    directory = store.directory("mer2023")
    pack(directory, N)
    old = store["mer2023"]
    assert np.array_equal(old["b"], wanted["b"])

    os.utime(directory / "b.npy")
    assert np.array_equal(store["mer2023"]["b"], wanted["b"]), "touched only"
    np.save(directory / "b.npy", wanted["b"] + 1)
    os.utime(directory / "b.npy", (0, 0))  # as rsync -a leaves a file that is older than the packed one
    with pytest.raises(ValueError, match="pack it again"):
        store["mer2023"]["b"]
    pack(directory, N)
    assert np.array_equal(store["mer2023"]["b"], wanted["b"] + 1)
    assert np.array_equal(old["-a"], wanted["-a"]), "a reader goes on with the file that it mapped"

    np.save(directory / "new.npy", wanted["b"])
    os.utime(directory / "new.npy", (0, 0))
    with pytest.raises(ValueError, match="pack it again"):
        list(store["mer2023"])


def recorded(root: Path, names: list[str], seed: int) -> Path:
    """A directory in which a run with random weights has saved these samples."""
    directory = FeatureStore(root).directory("mer2023")
    with FeatureDirectory(directory, N, 4) as held:
        held.begin({"settings": {"weights": f"random:{seed}", "n_frms": N}}, done=set(), overwrite=seed > 0)
        for outcome in NpyWriter().write([features(directory, *names)]):
            held.record(outcome)
        held.finish()
    return directory


def test_features_of_two_kinds_are_not_packed(tmp_path: Path) -> None:
    directory = recorded(tmp_path, ["a", "b"], 0)
    recorded(tmp_path, ["a"], 1)
    with pytest.raises(ConfigError, match="holds features of two kinds: an --overwrite was cut short"):
        pack(directory, N)
    assert not packed_file(directory).exists()
    recorded(tmp_path, ["a", "b"], 1)
    assert pack(directory, N)[1] == 2
    shutil.copy(directory / "a.npy", directory / "b.npy")
    with pytest.raises(ConfigError, match=r"b\.npy: is not what was saved; gpupeak verify --fix makes it again"):
        pack(directory, N)


def test_a_packed_file_brings_its_settings_and_is_not_unpacked_among_others(tmp_path: Path) -> None:
    directory = recorded(tmp_path / "one", ["a", "b"], 0)
    file, _ = pack(directory, N)
    other = recorded(tmp_path / "other", ["a"], 1)
    shutil.copy(file, packed_file(other))
    with pytest.raises(ConfigError, match="made with --weights random:1, the packed ones with --weights random:0"):
        unpack(other, N)
    assert [path.name for path in other.glob("*.npy")] == ["a.npy"]
    empty = FeatureStore(tmp_path / "empty").directory("mer2023")
    empty.mkdir(parents=True)
    shutil.copy(file, packed_file(empty))
    assert unpack(empty, N) == (2, 2)
    with pytest.raises(ConfigError, match="--weights random:0, this run has --weights random:1"):
        FeatureDirectory(empty, N, 4).refuse_mixing({"weights": "random:1"})
    (directory / "b.npy").unlink()
    assert unpack(directory, N) == (1, 2)
    assert {entry["outcome"] for entry in read_manifest(directory)} == {"saved"}
    data = bytearray(file.read_bytes())
    data[-5] ^= 64
    file.write_bytes(data)
    (directory / "b.npy").unlink()
    with pytest.raises(ConfigError, match="what it holds of b is not what was packed"):
        unpack(directory, N)


@pytest.mark.parametrize("packed", [True, False])
def test_a_training_loop_reads_it_in_processes_of_its_own(tmp_path: Path, packed: bool) -> None:
    wanted = fill(tmp_path)
    store = FeatureStore(tmp_path)
    if packed:
        pack(store.directory("mer2023"), N)
    dataset = store.as_torch_dataset("mer2023")
    assert len(dataset) == len(NAMES)
    loader: DataLoader[Any] = DataLoader(dataset, 3, num_workers=1, multiprocessing_context="fork")  # type: ignore[arg-type]
    found = {name: row for names, rows in loader for name, row in zip(names, rows, strict=True)}
    assert found.keys() == wanted.keys()
    assert all(row.dtype == torch.float32 and np.array_equal(row, wanted[name]) for name, row in found.items())
    sent = pickle.dumps((store, store["mer2023"], dataset))
    again = pickle.loads(sent)
    assert same(again[0], "mer2023", wanted) and np.array_equal(again[1]["b"], wanted["b"])
    assert np.array_equal(again[2][0][1], wanted["-a"])
    np.save(store.directory("mer2023") / "a.npy", wanted["b"])  # the rows of all others move
    pack(store.directory("mer2023"), N)
    assert np.array_equal(pickle.loads(sent)[1]["c d"], wanted["c d"])


def test_readers_are_safe_while_it_is_packed_again(tmp_path: Path) -> None:
    wanted = fill(tmp_path)
    directory = FeatureStore(tmp_path).directory("mer2023")
    pack(directory, N)
    with ThreadPoolExecutor(2) as threads:
        readers = [threads.submit(same, FeatureStore(tmp_path), "mer2023", wanted) for _ in range(200)]
        while not all(reader.done() for reader in readers):
            pack(directory, N)
    assert all(reader.result() for reader in readers)


EMPTY = b'"more": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}'


def with_header(data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """A packed file with another header; its end stays where numbers are aligned."""
    (size,) = struct.unpack("<Q", data[:8])
    header = change(data[8 : 8 + size])
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:5],
        lambda data: struct.pack("<Q", 1 << 60) + data[8:],
        lambda data: data.replace(b'"F32"', b'"F16"'),
        lambda data: data.replace(rb"\"b\"", rb"\"/\""),
        lambda data: data.replace(rb"\"b\"", rb"\"-a\"", 1),
        lambda data: data.replace(b'"features"', b'"futurest"'),
        lambda data: data.replace(b"[4, 8, 6]", b"[-4, 8,6]"),
        lambda data: with_header(data, lambda header: header.rstrip()[:-1] + b"," + EMPTY),
    ],
)
def test_a_packed_file_of_a_stranger_is_checked(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    fill(tmp_path)
    directory = FeatureStore(tmp_path).directory("mer2023")
    file, _ = pack(directory, N)
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert file.read_bytes() != whole
    with pytest.raises(ValueError, match="not a packed file"):
        FeatureStore(tmp_path)["mer2023"]["b"]
    for path in directory.iterdir():
        path.unlink()
    with pytest.raises(ConfigError, match="not a packed file"):
        unpack(directory, N)
    assert list(directory.iterdir()) == []


def test_what_cannot_be_packed_is_named(tmp_path: Path) -> None:
    fill(tmp_path)
    directory = FeatureStore(tmp_path).directory("mer2023")
    packed_file(directory).write_bytes(struct.pack("<Q", 65 << 20) + b"{")
    os.truncate(packed_file(directory), 66 << 20)
    with pytest.raises(ConfigError, match=r"a header of 68,157,440 bytes, expected at most 67,108,864"):
        unpack(directory, N)
    packed_file(directory).unlink()
    os.mkfifo(packed_file(directory))
    with pytest.raises(ConfigError, match="not a regular file; it cannot be unpacked"):
        unpack(directory, N)
    packed_file(directory).unlink()
    np.save(directory / "c d.npy", np.zeros((N, DIM + 1), np.float32))
    with pytest.raises(ConfigError, match=r"c d\.npy: is \[8, 7\], the others \[8, 6\]"):
        pack(directory, N)
    (directory / "c d.npy").unlink()
    (directory / "c d.npy").symlink_to("c d.npy")
    with pytest.raises(ConfigError, match=r"c d\.npy: Too many levels of symbolic links; gpupeak verify --fix"):
        pack(directory, N)
    (directory / "c d.npy").unlink()
    with FeatureDirectory(directory, N, DIM), pytest.raises(RunError, match="another gpupeak run"):
        pack(directory, N)
    packed_file(directory).mkdir()
    with pytest.raises(WriteError):
        pack(directory, N)
    assert sorted(path.name for path in directory.parent.iterdir()) == [directory.name, packed_file(directory).name]


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = fill(tmp_path)
    fill(tmp_path, "meld", ["x"])
    store = FeatureStore(tmp_path)
    root = ["--output-root", str(tmp_path)]
    assert main(["pack", *root, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["datasets"] == {"meld": 1, "mer2023": 4}
    (store.directory("mer2023") / "b.npy").unlink()
    assert main(["unpack", "mer2023", *root]) == 0
    where = store.directory("mer2023")
    assert capsys.readouterr().out == f"mer2023: 1 of 4 samples written to {where}, 3 already there\n"
    assert same(store, "mer2023", wanted)
