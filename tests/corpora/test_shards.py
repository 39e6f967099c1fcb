"""Shards: even, disjoint, agreed on without a word; at once in one directory, killed, and merged to one run's bytes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from clips import write_clip
from hypothesis import given
from hypothesis import strategies as st
from samples import ENCODER, read_manifest, small, words
from synthetic_lines import LineHere

import gpupeak
from gpupeak import ExtractConfig
from gpupeak.check.plan import plan
from gpupeak.check.verify import verify
from gpupeak.corpora.shards import assign, slurm_shard
from gpupeak.errors import ConfigError, RunError
from gpupeak.types import Shard

PER_SAMPLE = 256 << 10
SIZES = st.dictionaries(st.text(max_size=5), st.integers(0, 1 << 40), max_size=60)
HOME = f"mine/frame_{ENCODER.replace(':', '_')}_uniform_8frms"


@given(SIZES, st.integers(1, 12))
def test_every_sample_has_one_shard_and_none_has_more_than_another_by_more_than_a_sample(
    sizes: dict[str, int], count: int
) -> None:
    owners = assign(list(sizes), list(sizes.values()), count)
    assert len(owners) == len(sizes)
    assert set(owners) <= set(range(count))
    loads = [0] * count
    for size, owner in zip(sizes.values(), owners, strict=True):
        loads[owner] += size + PER_SAMPLE
    assert max(loads) - min(loads) <= max(sizes.values(), default=0) + PER_SAMPLE


@given(SIZES, st.integers(1, 12), st.randoms())
def test_the_order_of_the_list_changes_nothing(sizes: dict[str, int], count: int, random: Any) -> None:
    items = list(sizes.items())
    owners = dict(zip(sizes, assign(list(sizes), list(sizes.values()), count), strict=True))
    random.shuffle(items)
    again = assign([name for name, _ in items], [size for _, size in items], count)
    assert dict(zip((name for name, _ in items), again, strict=True)) == owners


ARRAY = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8", "SLURM_ARRAY_TASK_MIN": "0"}
STEP = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4"}


@pytest.mark.parametrize(
    ("environment", "shard"),
    [
        ({}, None),
        (ARRAY, Shard(3, 8)),
        (
            {**ARRAY, "SLURM_ARRAY_TASK_ID": "25", "SLURM_ARRAY_TASK_MIN": "5", "SLURM_ARRAY_TASK_STEP": "10"},
            Shard(2, 8),
        ),
        ({**ARRAY, "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_COUNT": "1"}, None),
        (STEP, Shard(1, 4)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, None),  # a batch script that runs a program once, without srun
        ({**ARRAY, **STEP}, Shard(13, 32)),
    ],
)
def test_slurm_tells_the_shard(environment: dict[str, str], shard: Shard | None) -> None:
    found = slurm_shard(environment)
    assert (found and found[0]) == shard
    for name in environment:
        assert found is None or (name in found[1]) == (name in ("SLURM_ARRAY_TASK_ID", "SLURM_PROCID"))


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({**ARRAY, "SLURM_ARRAY_TASK_ID": "12"}, "the array's numbers have gaps"),
        ({**ARRAY, "SLURM_ARRAY_TASK_COUNT": "x"}, "SLURM_ARRAY_TASK_COUNT is 'x', expected a number"),
        ({**ARRAY, "SLURM_ARRAY_TASK_COUNT": "100000"}, "--num-shards is 100000, expected 1 to 99999"),
        ({**STEP, "SLURM_PROCID": "4"}, "--shard-index is 4, expected 0 to 3, by SLURM_PROCID=4"),
    ],
)
def test_what_slurm_cannot_mean_is_refused(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        slurm_shard(environment)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("videos")
    for index in range(8):
        write_clip(directory / f"clip{index:02}.mp4", frames=20 + 15 * index)
    (directory / "clip05.mp4").write_text("no video")
    return directory


@pytest.fixture
def config(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ExtractConfig:
    monkeypatch.setattr("gpupeak.lines.build.build", LineHere)
    return small(videos, tmp_path / "out")


def shard(config: ExtractConfig, index: int, count: int = 2, **changes: Any) -> ExtractConfig:
    return replace(config, num_shards=count, shard_index=index, **changes)


def start(config: ExtractConfig) -> subprocess.Popen[str]:
    """Another process that runs these settings' command."""
    command = [sys.executable, "-m", "gpupeak", "extract", *words(config)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def home(config: ExtractConfig) -> Path:
    return Path(config.output_root) / HOME


def features(config: ExtractConfig) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in home(config).glob("*.npy")}


def lines(config: ExtractConfig) -> list[dict[str, Any]]:
    """The manifest, as it stands, less what two runs never have in common."""
    text = (home(config) / "manifest.jsonl").read_text()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in text.splitlines()]


def records(config: ExtractConfig) -> set[str]:
    return {path.name for path in home(config).iterdir() if path.suffix != ".npy"}


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


def test_shards_merged_are_one_run_to_the_byte(config: ExtractConfig, tmp_path: Path) -> None:
    plain = replace(config, output_root=tmp_path / "plain")
    for each in (shard(config, 0), shard(config, 1), plain):
        gpupeak.extract(each)
    assert features(config) == features(plain)
    parts = {f"{kind}.0000{i}-of-00002.{end}" for kind, end in (("run", "json"), ("manifest", "jsonl")) for i in (0, 1)}
    assert records(config) == parts
    told = [set(re.findall('"sample":"(.*?)"', part.read_text())) for part in home(config).glob("manifest.*")]
    assert not told[0] & told[1]
    assert len(told[0] | told[1]) == 8
    (verified,) = verify(config)
    assert verified.unknown == 0, "verify reads the parts"
    assert [survey_.done for survey_ in plan(config)] == [7]

    (tally,) = gpupeak.extract(config).datasets
    assert (tally.listed, tally.skipped, tally.saved, tally.failed) == (8, 7, 0, 1)
    assert records(config) == records(plain) == {"run.json", "manifest.jsonl"}
    assert lines(config) == lines(plain)
    assert [entry["sample"] for entry in lines(plain)] == [f"clip{index:02}" for index in range(8)]
    one, other = (json.loads((home(each) / "run.json").read_text()) for each in (config, plain))
    for key in ("settings", "devices", "versions", "overwriting", "dataset", "device"):
        assert one[key] == other[key]
    assert one.keys() == other.keys()


@pytest.mark.slow
def test_a_running_shard_keeps_others_out_and_a_killed_one_is_made_up_for(config: ExtractConfig) -> None:
    first = shard(config, 0)
    manifest = home(config) / "manifest.00000-of-00002.jsonl"
    process = start(first)
    until(lambda: manifest.exists() and b"saved" in manifest.read_bytes(), process)
    os.kill(process.pid, signal.SIGSTOP)  # it goes on holding its locks, and does not end before we have looked
    with pytest.raises(RunError, match="shard 00000-of-00002 is being run already"):
        gpupeak.extract(first)
    with pytest.raises(RunError, match="another gpupeak run is writing here"):
        gpupeak.extract(config)
    with pytest.raises(ConfigError, match="this run has --weights random:1"):
        gpupeak.extract(shard(config, 1, weights="random:1"))
    gpupeak.extract(shard(config, 1))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    saved = {entry["sample"] for entry in read_manifest(home(config)) if entry["outcome"] == "saved"}
    assert saved < {path.stem for path in Path(str(config.videos)).glob("*.mp4")}
    before = {path: path.stat().st_mtime_ns for path in home(config).glob("*.npy")}

    (tally,) = gpupeak.extract(first).datasets
    assert tally.skipped + tally.saved + tally.failed == tally.listed
    assert tally.saved > 0, "it was killed before its end"
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())
    (tally,) = gpupeak.extract(config).datasets
    assert (tally.skipped, tally.saved, tally.failed) == (7, 0, 1)
    assert not [path for path in home(config).iterdir() if path.name.startswith(".")]


def test_shards_that_overwrite_leave_nothing_finished_that_is_of_before(config: ExtractConfig) -> None:
    other = replace(config, weights="random:1")
    gpupeak.extract(config)
    (tally,) = gpupeak.extract(shard(other, 0, overwrite=True)).datasets
    assert plan(other)[0].done == tally.saved
    told = {fault.kind: fault.reason for fault in verify(other)[0].faults}
    assert told.keys() == {"missing", "stale"} and told["stale"] == "made before the --overwrite that was cut short"
    with pytest.raises(ConfigError, match="give another --output-root"):
        gpupeak.extract(shard(config, 1))
    with pytest.raises(ConfigError, match="a run without shards merge them first"):
        gpupeak.extract(shard(config, 1, overwrite=True))
    gpupeak.extract(shard(other, 1))  # goes on without the option
    (merged,) = gpupeak.extract(other).datasets
    assert (merged.skipped, merged.saved, merged.failed) == (7, 0, 1)
    assert json.loads((home(config) / "run.json").read_text())["overwriting"] is False
    assert {fault.kind for fault in verify(other)[0].faults} == {"missing"}
