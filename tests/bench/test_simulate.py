"""The simulation agrees with what can be worked out by hand, loses nothing, and does the same every time."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
simulate: Any = importlib.import_module("simulate")

EXACT = replace(simulate.Rates(), spread=0.0, engine_s=0.0, engine_start_s=0.0)
ENDLESS = 1e18  # bytes/s
FREE = replace(EXACT, network=ENDLESS)


def work(number: int = 200, size: float = 1e6, seconds: float = 0.5) -> list[Any]:
    return [simulate.Block(size, seconds) for _ in range(number)]


def test_one_gpu_that_waits_for_nothing_takes_its_start_and_its_work() -> None:
    job = simulate.simulate(work(), 1, ENDLESS, replace(FREE, engine_start_s=7.0))
    assert job.wall_s == pytest.approx(7.0 + EXACT.start_s + 200 * 0.5)
    assert job.starting == pytest.approx(27 / 127)
    assert (job.working, job.idle, job.waiting) == (pytest.approx(100 / 127), 0, pytest.approx(0, abs=1e-9))
    assert job.limit == "start-up"


@pytest.mark.parametrize("dealt", [False, True])
@pytest.mark.parametrize("gpus", [1, 2, 4, 8, 16])
def test_twice_the_gpus_halve_the_work_but_not_the_start(gpus: int, dealt: bool) -> None:
    job, more = (simulate.simulate(work(320), each, ENDLESS, FREE, dealt=dealt) for each in (gpus, 2 * gpus))
    assert more.wall_s - EXACT.start_s == pytest.approx((job.wall_s - EXACT.start_s) / 2)


def test_what_the_storage_bounds_takes_its_bytes_over_its_bandwidth() -> None:
    blocks, bandwidth = work(1000, size=1e9, seconds=0.01), 5e9
    job = simulate.simulate(blocks, 16, bandwidth, FREE)
    least = (1000 * 1e9 + 2 * EXACT.weights_bytes) / bandwidth
    assert least <= job.wall_s <= least + EXACT.start_s + 1
    assert job.limit == "storage"
    assert job.storage > 0.85


def test_a_nodes_network_bounds_all_its_gpus_together() -> None:
    blocks = work(400, size=1e9, seconds=0.001)
    narrow = replace(EXACT, network=1e9, weights_bytes=0.0)
    one, eight, sixteen = (simulate.simulate(blocks, gpus, ENDLESS, narrow).wall_s for gpus in (1, 8, 16))
    assert one == pytest.approx(400, rel=0.1)
    assert eight == pytest.approx(400, rel=0.1)
    assert sixteen == pytest.approx(200, rel=0.15)


def test_whoever_hands_blocks_out_one_by_one_bounds_them_all() -> None:
    job = simulate.simulate(work(2000, seconds=0.01), 32, ENDLESS, replace(FREE, engine_s=0.05))
    assert job.wall_s == pytest.approx(EXACT.start_s + 2000 * 0.05, rel=0.01)
    assert job.limit == "handing out"


@pytest.mark.parametrize("dealt", [False, True])
def test_all_work_is_done_once_and_every_second_is_accounted_for(dealt: bool) -> None:
    random = np.random.default_rng(3)
    blocks = [simulate.Block(*pair) for pair in random.lognormal(0, 1, (500, 2)) * (1e8, 0.3)]
    job = simulate.simulate(blocks, 8, 2e9, EXACT, dealt=dealt)
    assert job.working * 8 * job.wall_s == pytest.approx(sum(block.seconds for block in blocks))
    assert job.storage * 2e9 * job.wall_s == pytest.approx(sum(block.bytes for block in blocks) + EXACT.weights_bytes)
    assert job.working + job.starting + job.waiting + job.idle == pytest.approx(1)
    assert min(job.working, job.starting, job.waiting, job.idle) >= 0


def test_open_reads_share_the_bandwidth_equally() -> None:
    shared = simulate.Shared(10.0, most=6.0)
    shared.begin(0.0, 12.0, 1)
    assert shared.next_end() == 2.0  # alone, at most 6 a second
    shared.begin(1.0, 15.0, 2)  # 6 left of the first: 5 a second each
    assert shared.next_end() == pytest.approx(2.2)
    assert shared.end(2.2) == 1
    assert shared.next_end() == pytest.approx(2.2 + 9 / 6)
    assert shared.end(shared.next_end()) == 2
    assert shared.next_end() == float("inf")


def test_a_slow_gpu_holds_its_shard_back_and_hardly_a_queue() -> None:
    blocks = work(1600, seconds=0.1)
    queue, shards = (simulate.simulate(blocks, 16, ENDLESS, FREE, dealt=dealt, slow=2.0) for dealt in (False, True))
    assert shards.wall_s - EXACT.start_s == pytest.approx(20, rel=0.01)
    assert queue.wall_s - EXACT.start_s == pytest.approx(160 / 15.5, rel=0.03)
    assert shards.limit == "start-up"
    assert shards.idle > 0.2


def test_the_same_seed_gives_the_same_and_another_one_not() -> None:
    rates = simulate.Rates()
    rows = [
        simulate.scaling(simulate.clips(3000, rates, seed), "queue", 5.0, rates, seed, (1, 4)) for seed in (0, 0, 1)
    ]
    assert rows[0] == rows[1]
    assert rows[0]["points"] != rows[2]["points"]
    assert rows[0]["says"].startswith("simulated: ")


def test_clips_are_drawn_around_those_of_the_nine_sets() -> None:
    drawn = simulate.clips(100_000, simulate.Rates(), 0)
    assert 0.5e6 < drawn.bytes.mean() < 2e6
    assert drawn.bytes.std() > 0.4 * drawn.bytes.mean()
    sizes = simulate.blocks(drawn, 64, simulate.Rates())
    assert len(sizes) == -(-100_000 // 64)
    assert sum(block.bytes for block in sizes) == pytest.approx(drawn.bytes.sum())


def test_blocks_are_cut_as_the_ray_line_cuts_them() -> None:
    from gpupeak.lines.cluster import Actors

    for samples in (5, 1000, 12_799, 5_000_000):
        for gpus in (1, 8, 64):
            assert simulate.block_size(samples, gpus) == Actors(gpus, gpus, 16, 1.0).block(samples)


def test_what_is_assumed_is_said_in_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    rates = set(simulate.Rates.__dataclass_fields__)
    assert set(simulate.ASSUMED) - {"clips"} <= rates
    monkeypatch.setattr(simulate, "JOBS", {"a few clips": 600})
    monkeypatch.setattr(simulate, "draw", lambda rows, out: {"says": "not drawn"})
    monkeypatch.setattr(sys, "argv", ["simulate.py", "--out", str(tmp_path)])
    assert simulate.main() == 0
    told = capfd.readouterr().out
    (record,) = tmp_path.glob("scaling-*.jsonl")
    conditions, rows = simulate.read(record)
    assert conditions["simulated"] is True
    assert conditions["assumed"] == list(simulate.ASSUMED)
    assert set(conditions["rates"]) == rates
    assert json.loads(told.splitlines()[-1])["assumed"] == list(simulate.ASSUMED)
    assert all(row["says"].startswith("simulated: ") for row in rows.values() if "points" in row)


def test_without_records_nothing_is_simulated(tmp_path: Path) -> None:
    with pytest.raises(simulate.NoRecord):
        simulate.measured(simulate.Rates(), tmp_path)
