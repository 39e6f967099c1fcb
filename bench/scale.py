"""What does Ray cost? The same synthetic line on this machine alone, and in one and two actors of a local cluster.

    python bench/scale.py                measures and writes a record, in some minutes
    python bench/scale.py REQUEST        one point, in a process of its own: the arguments of `measure` as JSON

Decoder and encoder are synthetic, files are real: a sample takes half a millisecond, so that what Ray adds is not
hidden behind work. A line that does nothing at all shows how fast Ray hands blocks out and answers back. What bounds
it is the process that began the job: it pickles every block and unpickles every answer.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from growth import DIM, SIZE, samples
from record import RESULTS, ROOT, Record, Row, conditions

from gpupeak import pipeline
from gpupeak.decode.synthetic import SyntheticDecoder
from gpupeak.encode.synthetic import SyntheticEncoder
from gpupeak.features.writer import NpyWriter
from gpupeak.lines.ray import RayLine
from gpupeak.types import Failed, Outcome, Sample, SamplingRule

COUNT, ROUNDS = 3200, 3
LOCAL, NOTHING = "local", "Ray, nothing to do"
SIDES = {LOCAL: (0, True), "Ray, 1 actor": (1, True), "Ray, 2 actors": (2, True), NOTHING: (2, False)}
"""Each with its actors, none without Ray, and whether samples are worked on."""


class SyntheticLine:
    """Takes samples through the synthetic stages to files; or fails them at once, without any work."""

    device = "cpu"

    def __init__(self, working: bool) -> None:
        self._working = working

    def run(self, samples: Iterable[Sample], stop: threading.Event | None = None) -> Generator[Outcome]:
        """Yield one outcome a sample."""
        if self._working:
            stages = SyntheticDecoder(SIZE), SyntheticEncoder(DIM, SIZE), NpyWriter()
            yield from pipeline.run(samples, *stages, stop=stop)
        else:
            for sample in samples:
                yield Failed(sample, "write", "nothing was done")

    def close(self) -> None:
        """Nothing to end."""


def line(working: bool, tell: object = None) -> SyntheticLine:
    """What an actor builds; found by this module's name, which is `__main__` in the process that asks."""
    return SyntheticLine(working)


def measure(actors: int, working: bool, count: int) -> Row:
    """Take `count` samples to their outcomes; the rate is that of the second half, when every actor is at work.

    `start_s` is from building the line to the first outcome: with Ray, the cluster, the job and the actors.
    """
    with tempfile.TemporaryDirectory() as directory:
        listed = list(samples(Path(directory), SamplingRule("uniform", 8), count))
        began = time.perf_counter()
        built: pipeline.Line = line(working)
        if actors:
            recipe = (import_module("scale").line, (working,))
            built = RayLine(recipe, lambda text: None, device="cpu", actors=str(actors), workers=1)
        try:
            outcomes = 0
            first = half = 0.0
            for outcome in built.run(listed):
                if working and isinstance(outcome, Failed):
                    raise RuntimeError(f"{outcome.sample}: {outcome.reason}")
                outcomes += 1
                first = first or time.perf_counter()
                if outcomes == count // 2:
                    half = time.perf_counter()
            ended = time.perf_counter()
        finally:
            built.close()
    if outcomes != count:
        raise RuntimeError(f"{outcomes} outcomes of {count} samples")
    size = max(1, min(16, count // (8 * actors))) if actors else 1  # as `RayLine` cuts blocks for CPUs
    return {
        "start_s": first - began,
        "seconds": ended - first,
        "samples_per_s": (count - count // 2) / (ended - half),
        "block": size,
    }


def measured(side: str, count: int) -> Row:
    """`measure` in a process of its own: one cluster's remains are not in the next one's way."""
    actors, working = SIDES[side]
    request = json.dumps({"actors": actors, "working": working, "count": count})
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "bench")])}
    done = subprocess.run([sys.executable, __file__, request], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1])
    found: Row = json.loads(done.stdout.splitlines()[-1])
    return found


def engine(record: Record, count: int, rounds: int) -> None:
    """One row a side: the sides take turns, another one first in each round."""
    found: dict[str, list[Row]] = {side: [] for side in SIDES}
    names = list(SIDES)

    def turn(number: int) -> Row:
        for side in names[number % len(names) :] + names[: number % len(names)]:
            found[side].append(measured(side, count))
        rates = ", ".join(f"{side} {each[-1]['samples_per_s']:,.0f}" for side, each in found.items())
        return {"says": f"samples/s: {rates}"}

    for number in range(rounds):
        record.row(f"round {number + 1}", turn, number)
    for side in names:
        record.row(side, told, side, found)


def told(side: str, found: dict[str, list[Row]]) -> Row:
    """The medians of one side, and its rate in times of the local one's, round by round."""
    points = found[side]
    middle = {key: statistics.median(point[key] for point in points) for key in points[0]}
    of_local = [
        point["samples_per_s"] / beside["samples_per_s"] for point, beside in zip(points, found[LOCAL], strict=True)
    ]
    says = f"{middle['samples_per_s']:,.0f} samples/s, {statistics.median(of_local):.2f} of local; "
    says += f"starts in {middle['start_s']:.1f} s"
    if side == NOTHING:
        middle["block_s"] = middle["block"] / middle["samples_per_s"]
        says += f"; {1000 * middle['block_s']:.2f} ms a block of {middle['block']:.0f}"
    return {**middle, "of_local": statistics.median(of_local), "rounds": points, "says": says}


def main() -> int:
    parser = argparse.ArgumentParser(description="The overhead of --engine ray, measured on this machine.")
    parser.add_argument("request", nargs="?", help="one point, as JSON")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the record goes (default: bench/results)")
    parser.add_argument("--count", type=int, default=COUNT, help=f"samples a point (default: {COUNT})")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    if options.request:
        arguments: dict[str, Any] = json.loads(options.request)
        print(json.dumps(measure(**arguments)))
        return 0
    told_of = conditions(("ray", "numpy"))
    record = Record(options.out, told_of, "scale", part_seconds=1800, start_seconds=1500)
    with record.part("engine"):
        engine(record, options.count, options.rounds)
    print(json.dumps({"bench": "scale", "record": str(record.path)}))
    return 1 if any(row.get("ok") is False for row in record.rows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
