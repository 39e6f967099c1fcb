"""Does the simulation agree with what can be said without one?"""

from __future__ import annotations

import importlib
import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "bench"))

simulate: Any = importlib.import_module("simulate")
Block = simulate.Block

EVEN = replace(simulate.Rates(), spread=0.0, engine_s=0.0, start_s=5.0, weights_bytes=0.0, network=math.inf)
"""GPUs all alike, on which nothing but the work and the start takes time."""


def job(work: list[Any], gpus: int, bandwidth: float = 1e30, rates: Any = EVEN, **options: Any) -> Any:
    return simulate.simulate(work, gpus, bandwidth, rates, **options)


def test_one_gpu_takes_its_start_and_the_sum_of_its_work() -> None:
    done = job([Block(1.0, 0.5)] * 40, 1)
    assert done.wall_s == pytest.approx(5.0 + 40 * 0.5)
    assert done.working == pytest.approx(20 / 25)
    assert done.starting == pytest.approx(5 / 25)
    assert done.limit == "start-up"


@pytest.mark.parametrize("dealt", [False, True])
def test_twice_the_gpus_take_half_the_time_beside_the_start(dealt: bool) -> None:
    work = [Block(1.0, 0.5)] * 64
    one, two, eight = (job(work, gpus, dealt=dealt).wall_s - 5.0 for gpus in (1, 2, 8))
    assert one == pytest.approx(2 * two) == pytest.approx(8 * eight)


def test_a_storage_that_is_too_slow_takes_bytes_over_bandwidth_whatever_there_is_of_gpus() -> None:
    work = [Block(1e9, 0.01)] * 200
    walls = [job(work, gpus, bandwidth=1e9).wall_s for gpus in (4, 16, 64)]
    assert walls == pytest.approx([205.0] * 3, rel=0.02)
    assert job(work, 16, bandwidth=1e9).limit == "storage"


def test_a_network_bounds_what_the_gpus_of_a_node_read() -> None:
    rates = replace(EVEN, network=1e9)
    assert job([Block(1e9, 0.01)] * 80, 8, rates=rates).wall_s == pytest.approx(5.0 + 80, rel=0.02)
    assert job([Block(1e9, 0.01)] * 160, 16, rates=rates).wall_s == pytest.approx(5.0 + 80, rel=0.02)  # two nodes


def test_reading_is_hidden_behind_work_that_takes_longer() -> None:
    done = job([Block(1e9, 2.0)] * 20, 1, bandwidth=1e9)
    assert done.wall_s == pytest.approx(5.0 + 1.0 + 20 * 2.0)  # only the first block is waited for


def test_weights_that_all_read_at_once_share_the_storage() -> None:
    rates = replace(EVEN, weights_bytes=2e9)
    starts = [job([Block(1.0, 1.0)] * gpus, gpus, bandwidth=1e9, rates=rates).wall_s for gpus in (1, 8)]
    assert starts == pytest.approx([2 + 5 + 1, 16 + 5 + 1], rel=1e-6)


def test_who_hands_out_blocks_hands_out_one_at_a_time() -> None:
    rates = replace(EVEN, engine_s=0.1)
    done = job([Block(1.0, 0.01)] * 500, 32, rates=rates)
    assert done.wall_s == pytest.approx(5.0 + 500 * 0.1, rel=0.02)
    assert done.limit == "handing out"
    assert job([Block(1.0, 0.01)] * 500, 32, rates=rates, dealt=True).wall_s < 6


def test_a_slow_gpu_holds_up_its_shard_and_hardly_a_queue() -> None:
    work = [Block(1.0, 0.1)] * 1600
    even, queue, shards = (
        job(work, 16, **options).wall_s - 5.0 for options in ({}, {"slow": 2.0}, {"slow": 2.0, "dealt": True})
    )
    assert even == pytest.approx(10.0)
    assert queue == pytest.approx(10.0 * 16 / 15.5, rel=0.05)
    assert shards == pytest.approx(20.0)
    assert job(work, 16, slow=2.0, dealt=True).limit == "the last blocks"


def test_the_shares_of_a_job_come_to_one_and_no_work_is_lost() -> None:
    rates = simulate.Rates()
    corpus = simulate.clips(3000, rates)
    work = simulate.blocks(corpus, 16, rates)
    assert sum(block.bytes for block in work) == pytest.approx(corpus.bytes.sum())
    even = replace(rates, spread=0.0)
    for gpus in (1, 3, 24):
        done = job(work, gpus, 5e9, even)
        assert done.working + done.starting + done.waiting + done.idle == pytest.approx(1.0)
        assert done.working * done.wall_s * gpus == pytest.approx(sum(block.seconds for block in work))
        read = corpus.bytes.sum() + gpus * rates.weights_bytes
        assert done.storage * done.wall_s * 5e9 == pytest.approx(read)


def test_a_block_takes_as_long_as_its_slowest_stage() -> None:
    rates = replace(EVEN, encode_images=80.0, decode_pixels=1e6, plan_samples=1e9, write_files=1e9)
    corpus = simulate.Clips(simulate.np.full(10, 3.0), simulate.np.array([1e4] * 5 + [1e6] * 5))
    first, second = simulate.blocks(corpus, 5, rates)
    assert (first.seconds, second.seconds) == pytest.approx((0.5, 5.0))
    assert first.bytes == second.bytes == 15.0


def test_the_same_seed_gives_the_same_job() -> None:
    rates = simulate.Rates()
    one, same, other = (simulate.blocks(simulate.clips(500, rates, seed), 16, rates) for seed in (3, 3, 4))
    assert one == same != other
    assert job(one, 8, 5e9, rates, seed=3) == job(one, 8, 5e9, rates, seed=3) != job(one, 8, 5e9, rates, seed=4)


@pytest.mark.parametrize("page", ["docs/clusters.md", "docs/clusters.zh-CN.md"])
def test_the_page_shows_the_rows_of_the_record_it_links(page: str) -> None:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    (record,) = re.findall(r"\]\(\.\./(bench/results/scaling-[\w.-]+\.jsonl)\)", text)
    rows = list(simulate.table([json.loads(line) for line in (REPOSITORY / record).read_text().splitlines()]))
    shown = [line for line in text.splitlines() if re.match(r"\| [\w, ]+ clips \| ", line)]
    assert len(shown) >= 6
    assert set(shown) <= set(rows)
