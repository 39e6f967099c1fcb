"""Where does a job on many GPUs stop to scale, and why? Discrete events: 1 to 64 GPUs that share one storage.

    python bench/simulate.py                    simulates, writes a record and draws scaling.png
    python bench/simulate.py --table RECORD     prints a record's rows as a table in Markdown

Nothing here was measured on a GPU. Rates of the CPU's work are read from the committed record of
bench/suite.py, those of Ray from that of bench/scale.py; those of a GPU are assumptions (`ASSUMED`), and every
record says so. What is learnt is which part of a job is the first to hold it back, not how long a job takes.

Each GPU reads blocks of samples ahead while it works on one. All reads share the storage's bandwidth
equally, each GPU's at most its part of what its node's network gives. A block takes as long as the slowest of its
stages, for the stages of the line overlap. Blocks come from one queue, as from Ray, which first has to start; or they
are dealt out beforehand by size, as to shards.
"""

from __future__ import annotations

import argparse
import heapq
import json
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from compare import NoRecord, read
from gpu_corpus import MIX
from record import RESULTS, Record, Row, conditions

GPUS = (1, 2, 4, 8, 16, 32, 64)
GPUS_A_NODE = 8
STORAGES = (1.0, 5.0, 25.0)  # GB/s: one file server, a good one, a parallel file system
SEED = 0

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rates:
    """What one GPU, with its cores, and what they share can do; the comment tells where a number comes from.

    `engine_s` is what handing out a block costs, by whoever hands out one at a time; `engine_start_s` what goes by
    before it does.
    """

    encode_images: float = 3400.0  # a second, assumed: 70 % of 790 TFLOP/s, what gpupeak is to reach
    decode_pixels: float = 7 * 750 * 1920 * 1080  # a second, assumed: seven NVDEC engines, 750 frames of 1080p each
    decoded_share: float = 95 / 140  # assumed: of a clip's frames, to have eight of them
    cores: int = 16  # a GPU, assumed
    plan_samples: float = 400.0  # a second and core: bench/suite.py's record
    write_files: float = 8000.0  # a second: bench/suite.py's record
    start_s: float = 20.0  # assumed: imports, kernels, graphs
    weights_bytes: float = 1.71e9  # ViT-L/14's file
    au_bytes: float = 135.0  # a frame: bench/suite.py's record
    network: float = 12.5e9  # bytes/s a node, assumed: 100 Gbit/s
    engine_s: float = 0.005  # bench/scale.py's record
    engine_start_s: float = 10.0  # bench/scale.py's record
    spread: float = 0.03  # assumed: of the GPUs' speed
    ahead: int = 2  # blocks read while one is worked on

    def stages(self, pixels: Any, samples: Any) -> dict[str, Any]:
        """Seconds that each stage takes of so many samples with so many pixels to decode in all."""
        return {
            "plan": samples / (self.cores * self.plan_samples),
            "decode": pixels / self.decode_pixels,
            "encode": 8 * samples / self.encode_images,
            "write": samples / self.write_files,
        }


ASSUMED = ("encode_images", "decode_pixels", "decoded_share", "cores", "start_s", "network", "spread", "clips")
BITS = {360: 0.4e6, 480: 0.7e6, 720: 1.4e6, 1080: 4.5e6}
"""Bit/s of a clip by the height of its pictures, assumed as the rest of bench/gpu_corpus.py's mix is."""


@dataclass(frozen=True)
class Clips:
    """Clips, each by what it costs: `bytes` to read and `pixels` to decode, float64 `[N]`."""

    bytes: Floats
    pixels: Floats


def clips(number: int, rates: Rates, seed: int = SEED) -> Clips:
    """Draw clips: the sizes and frame rates of the nine sets, durations spread log-normally around theirs."""
    random = np.random.default_rng(seed)
    kinds = [(samples / len(each), fps, clip) for samples, _, fps, each in MIX.values() for clip in each]
    share = np.array([weight for weight, _, _ in kinds])
    drawn = random.choice(len(kinds), number, p=share / share.sum())
    seconds = np.array([clip[0] for _, _, clip in kinds])[drawn] * random.lognormal(0.0, 0.4, number)
    fps = np.array([fps for _, fps, _ in kinds])[drawn]
    area = np.array([width * height for _, _, (_, (width, height)) in kinds])[drawn]
    bits = np.array([BITS[height] for _, _, (_, (_, height)) in kinds])[drawn]
    return Clips(seconds * (bits / 8 + fps * rates.au_bytes), seconds * fps * rates.decoded_share * area)


@dataclass(frozen=True)
class Block:
    """Samples that are handed out together: bytes to read, then seconds on a GPU of middling speed."""

    bytes: float
    seconds: float


def blocks(corpus: Clips, size: int, rates: Rates) -> list[Block]:
    """Blocks of `size` samples, in order; the last may be smaller."""
    starts = np.arange(0, len(corpus.bytes), size)
    samples = np.diff(np.append(starts, len(corpus.bytes)))
    seconds = np.maximum.reduce([*rates.stages(np.add.reduceat(corpus.pixels, starts), samples).values()])
    return [Block(*pair) for pair in zip(np.add.reduceat(corpus.bytes, starts), seconds, strict=True)]


def block_size(samples: int, gpus: int) -> int:
    """As gpupeak's Ray line cuts them for GPUs."""
    return max(1, min(64, samples // (8 * gpus)))


class Shared:
    """A storage whose bandwidth all open reads share equally, none of them faster than `most` bytes/s.

    Each read ends when what every one of them has been given since it began comes to its size: so one number,
    `_given`, advances for all, and the next to end is the smallest of a heap.
    """

    def __init__(self, bandwidth: float, most: float) -> None:
        self._bandwidth, self._most = bandwidth, most
        self._given, self._now = 0.0, 0.0
        self._open: list[tuple[float, int, int]] = []
        self._serial = count()
        self.bytes = 0.0

    def begin(self, now: float, size: float, who: int) -> None:
        self._advance(now)
        self.bytes += size
        heapq.heappush(self._open, (self._given + size, next(self._serial), who))

    def next_end(self) -> float:
        """When the next read ends if none begins before; infinity if none is open."""
        return self._now + (self._open[0][0] - self._given) / self._rate() if self._open else float("inf")

    def end(self, now: float) -> int:
        """End the read that ends `now`: whose it was."""
        self._advance(now)
        return heapq.heappop(self._open)[2]

    def _rate(self) -> float:
        return min(self._most, self._bandwidth / len(self._open))

    def _advance(self, now: float) -> None:
        if self._open:
            self._given += (now - self._now) * self._rate()
        self._now = now


@dataclass(frozen=True)
class Outcome:
    """A simulated job: seconds, and shares of the GPUs' time.

    `working`, `starting`, `waiting` (for a block to be read or handed out) and `idle` (nothing left) come to 1.
    `storage` is the share of its bandwidth that was used, `handing` that of the time in which blocks were handed out.
    """

    wall_s: float
    working: float
    starting: float
    waiting: float
    idle: float
    storage: float
    handing: float

    @property
    def limit(self) -> str:
        """What holds the job back most."""
        losses = {"start-up": self.starting, "the last blocks": self.idle, "storage": self.waiting}
        worst = max(losses, key=losses.__getitem__)
        if losses[worst] < 0.1:
            return "the GPUs"
        if worst == "storage" and self.handing > self.storage:
            return "handing out"
        return worst


def simulate(
    work: Sequence[Block],
    gpus: int,
    bandwidth: float,
    rates: Rates,
    *,
    dealt: bool = False,
    slow: float = 1.0,
    seed: int = SEED,
) -> Outcome:
    """Run a job of `work` on `gpus` GPUs that read from a storage of `bandwidth` bytes/s.

    Args:
        dealt: each GPU has blocks of its own from the start, the largest dealt first, instead of one queue for all.
        slow: by how much the first GPU is slower than the others.
    """
    speed = np.random.default_rng(seed).normal(1.0, rates.spread, gpus).clip(0.5, 2.0)
    speed[0] /= slow
    queues = _dealt(work, gpus) if dealt else [deque(work)] * gpus
    storage = Shared(bandwidth, rates.network / min(gpus, GPUS_A_NODE))
    events: list[tuple[float, int, str, int]] = []  # time, serial, what, GPU
    serial = count()
    free_at = 0.0  # when whoever hands out blocks has time for the next one
    reading: list[Block | None] = [None] * gpus
    ready: list[deque[Block]] = [deque() for _ in range(gpus)]
    busy, worked = [True] * gpus, np.zeros(gpus)
    started, last = np.zeros(gpus), np.zeros(gpus)

    def later(when: float, what: str, gpu: int) -> None:
        heapq.heappush(events, (when, next(serial), what, gpu))

    def ask(now: float, gpu: int) -> None:
        """Take the next block, if there is one and room for it; it is read once it has been handed out."""
        nonlocal free_at
        if reading[gpu] is None and len(ready[gpu]) < rates.ahead and queues[gpu]:
            reading[gpu] = queues[gpu].popleft()
            if dealt:
                later(now, "handed out", gpu)
            else:
                free_at = max(free_at, now) + rates.engine_s
                later(free_at, "handed out", gpu)

    def work_on(now: float, gpu: int) -> None:
        if not busy[gpu] and ready[gpu]:
            taken = ready[gpu].popleft().seconds / speed[gpu]
            busy[gpu] = True
            worked[gpu] += taken
            later(now + taken, "worked on", gpu)

    for gpu in range(gpus):
        later(0.0 if dealt else rates.engine_start_s, "placed", gpu)
    while events or storage.next_end() < float("inf"):
        now = storage.next_end()
        if events and events[0][0] <= now:
            now, _, what, gpu = heapq.heappop(events)
        else:
            what, gpu = "read", storage.end(now)
        if what == "placed":
            # Once a node: whoever reads them next has them from its memory.
            storage.begin(now, rates.weights_bytes / min(gpus, GPUS_A_NODE), gpu)
            continue
        if what == "handed out":
            block = reading[gpu]
            assert block is not None
            storage.begin(now, block.bytes, gpu)
            continue
        if what == "read":
            block, reading[gpu] = reading[gpu], None
            if block is None:  # its weights
                later(now + rates.start_s, "started", gpu)
                continue
            ready[gpu].append(block)
        else:
            busy[gpu] = False
            last[gpu] = now
            if what == "started":
                started[gpu] = now
        work_on(now, gpu)
        ask(now, gpu)
    wall = float(last.max())
    total = wall * gpus
    working, starting, idle = (float(each.sum()) / total for each in (worked, started, wall - last))
    handing = 0.0 if dealt else len(work) * rates.engine_s / wall
    waiting = max(0.0, 1 - working - starting - idle)
    return Outcome(wall, working, starting, waiting, idle, storage.bytes / bandwidth / wall, handing)


def _dealt(work: Sequence[Block], gpus: int) -> list[deque[Block]]:
    """Shards: the largest blocks first, each to whoever has least."""
    hands: list[deque[Block]] = [deque() for _ in range(gpus)]
    least = [(0.0, gpu) for gpu in range(gpus)]
    for block in sorted(work, key=lambda each: -each.bytes):
        size, gpu = heapq.heappop(least)
        hands[gpu].append(block)
        heapq.heappush(least, (size + block.bytes, gpu))
    return hands


JOBS = {"nine sets": 12_799, "5 million": 5_000_000}
"""Clips of a job."""
CASES: dict[str, dict[str, Any]] = {
    "queue": {"dealt": False, "slow": 1.0},
    "shards": {"dealt": True, "slow": 1.0},
    "queue, one GPU at half speed": {"dealt": False, "slow": 2.0},
    "shards, one GPU at half speed": {"dealt": True, "slow": 2.0},
}


def scaling(corpus: Clips, case: str, gb_s: float, rates: Rates, seed: int, gpus: Sequence[int] = GPUS) -> Row:
    """One job on more and more GPUs, from a storage of `gb_s` GB/s; `efficiency` is to one GPU of usual speed."""
    samples = len(corpus.bytes)
    points: list[Row] = []
    options = {**CASES[case], "seed": seed}
    whole = blocks(corpus, block_size(samples, 1), rates)
    alone = simulate(whole, 1, 1e9 * gb_s, rates, **{**options, "slow": 1.0})
    for each in gpus:
        work = blocks(corpus, block_size(samples, each), rates)
        job = simulate(work, each, 1e9 * gb_s, rates, **options)
        efficiency = alone.wall_s / (each * job.wall_s)
        rate = samples / job.wall_s
        points.append(
            {"gpus": each, "samples_per_s": rate, "efficiency": efficiency, "limit": job.limit, **asdict(job)}
        )
    half = max((point["gpus"] for point in points if point["efficiency"] >= 0.5), default=0)
    last = points[-1]
    return {
        "says": f"simulated: {alone.wall_s:,.0f} s on one GPU, {last['wall_s']:,.0f} s on {last['gpus']}, "
        f"efficiency {last['efficiency']:.2f}; at least 0.5 up to {half}; then: {last['limit']}",
        "handed_out": case,
        "storage_gb_s": gb_s,
        "points": points,
    }


def measured(rates: Rates, directory: Path = RESULTS) -> tuple[Rates, list[str]]:
    """The rates, those that the newest records in a directory hold read from them; and which records.

    Raises:
        NoRecord: there is none, or it does not hold them.
    """
    suite, scale = (max(directory.glob(f"{name}-2*.jsonl"), default=directory / name) for name in ("bench", "scale"))
    try:
        _, rows = read(suite)
        alone, writing = rows["planning: AU files alone"], rows["writing: float32 [8, 768]"]
        _, engine = read(scale)
        rounds = engine["engine: Ray, nothing to do"]["rounds"]  # the fastest of them: what else ran only added to it
        rates = replace(
            rates,
            plan_samples=_figure(rows["planning: every clip"], "NVDEC"),
            write_files=writing["files"] / writing["seconds"]["gpupeak, 2 threads"]["median_s"],
            au_bytes=alone["bytes"]["au_info"] / alone["frames"],
            engine_s=min(each["block"] / each["samples_per_s"] for each in rounds),
            engine_start_s=min(each["start_s"] for each in rounds),
        )
    except LookupError as error:
        raise NoRecord(f"{suite}, {scale}: no {error}") from error
    return rates, [suite.name, scale.name]


def _figure(row: Row, what: str) -> float:
    return float(next(target["figure"] for target in row["targets"] if what in target["what"]))


def table(rows: Sequence[Row]) -> Iterator[str]:
    """The rows of a record as tables in Markdown: seconds by GPUs, then where the time on the most of them went."""
    simulated = [row for row in rows if "points" in row]
    counts = [str(point["gpus"]) for point in simulated[0]["points"]]
    yield f"| Job, handed out | GB/s | {' | '.join(counts)} | efficiency | held back by |"
    yield f"| --- | ---: |{' ---: |' * len(counts)} ---: | --- |"
    for row in simulated:
        seconds = " | ".join(f"{point['wall_s']:,.0f}" for point in row["points"])
        last = row["points"][-1]
        name = f"{row['part']}, {row['handed_out']}"
        yield f"| {name} | {row['storage_gb_s']:g} | {seconds} | {last['efficiency']:.2f} | {last['limit']} |"
    yield ""
    yield "| Job, handed out | GB/s | starting | working | waiting | nothing left | of the storage |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for row in simulated:
        last = row["points"][-1]
        shares = (last["starting"], last["working"], last["waiting"], last["idle"], last["storage"])
        name = f"{row['part']}, {row['handed_out']}"
        yield f"| {name} | {row['storage_gb_s']:g} | {' | '.join(f'{100 * share:.0f} %' for share in shares)} |"


def draw(rows: Sequence[Row], out: Path) -> Row:
    """Draw samples/s by GPUs, one panel a job. Without matplotlib, only says so."""
    try:
        import matplotlib
    except ImportError as error:
        return {"says": f"left out: {error}"}
    matplotlib.use("agg")
    from matplotlib.figure import Figure

    colours = dict(zip(STORAGES, ("#d1520a", "#00856a", "#0067b1"), strict=True))
    figure = Figure(figsize=(11, 4.4), layout="constrained", facecolor="#fcfcfb")
    for panel, job in zip(figure.subplots(1, len(JOBS)), JOBS, strict=True):
        of_job = [row for row in rows if row["part"] == job and row["handed_out"] in ("queue", "shards")]
        for row in of_job:
            x = [point["gpus"] for point in row["points"]]
            y = [point["samples_per_s"] for point in row["points"]]
            queue = row["handed_out"] == "queue"
            label = f"{row['storage_gb_s']:g} GB/s, {'Ray' if queue else 'shards'}"
            style = {"linestyle": "-" if queue else ":", "color": colours[row["storage_gb_s"]]}
            panel.plot(x, y, marker="o" if queue else "s", markersize=4, label=label, **style)
        best = max(row["points"][0]["samples_per_s"] for row in of_job)
        panel.plot(GPUS, [best * gpus for gpus in GPUS], color="#cccccc", zorder=0, label="ideal")
        panel.set(xscale="log", yscale="log", xlabel="GPUs", ylabel="samples/s, start-up included")
        panel.set_title(f"{JOBS[job]:,} clips", loc="left", fontsize=10)
        panel.set_xticks(GPUS, [str(gpus) for gpus in GPUS])
        panel.minorticks_off()
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, fontsize=8)
    figure.supxlabel("simulated; the rates of a GPU are assumed, not measured", fontsize=8, color="#66655f")
    figure.savefig(out, dpi=130, metadata={"Software": None})  # the same record, the same bytes
    return {"says": f"{out.name} in {out.parent}"}


def main() -> int:
    parser = argparse.ArgumentParser(description="Where a job on many GPUs stops to scale, simulated.")
    parser.add_argument("--table", type=Path, metavar="RECORD", help="print a record's rows as tables, and end")
    parser.add_argument("--plot", type=Path, metavar="RECORD", help="draw a record, and end")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where record and plot go (default: bench/results)")
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()
    try:
        if options.table or options.plot:
            rows = [row for row in read(options.table or options.plot)[1].values() if "points" in row]
            print("\n".join(table(rows)) if options.table else draw(rows, options.out / "scaling.png")["says"])
            return 0
        rates, used = measured(Rates())
    except NoRecord as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    simulated = {"simulated": True, "assumed": ASSUMED, "measured_in": used, "rates": asdict(rates)}
    record = Record(options.out, {**conditions(("numpy",)), **simulated, "seed": options.seed}, "scaling")
    for job, number in JOBS.items():
        corpus = clips(number, rates, options.seed)
        with record.part(job):
            record.row("stages", stages, corpus, rates)
            for case in CASES:
                for gb_s in STORAGES if case in ("queue", "shards") else STORAGES[-1:]:
                    record.row(f"{gb_s:g} GB/s, {case}", scaling, corpus, case, gb_s, rates, options.seed)
    with record.part("plot"):
        rows = [row for row in record.rows.values() if "points" in row]
        record.row("scaling.png", draw, rows, options.out / "scaling.png")
    print(json.dumps({"bench": "simulate", "record": str(record.path), "assumed": ASSUMED}))
    return 1 if any(row.get("ok") is False for row in record.rows.values()) else 0


def stages(corpus: Clips, rates: Rates) -> Row:
    """What a sample takes on one GPU, on average, stage by stage, and what it reads."""
    number = len(corpus.bytes)
    each = {name: float(total) / number for name, total in rates.stages(corpus.pixels.sum(), number).items()}
    size = float(corpus.bytes.mean())
    gb_s = 1e-9 * size / max(each.values())
    told = ", ".join(f"{name} {1000 * seconds:.2f}" for name, seconds in each.items())
    return {
        "seconds": each,
        "bytes": size,
        "gb_s": gb_s,
        "says": f"ms a sample: {told}; {size / 1e6:.2f} MB, {gb_s:.2f} GB/s a GPU",
    }


if __name__ == "__main__":
    sys.exit(main())
