"""How do time and memory grow with samples?

What bounds it: for the line alone, a file written and renamed a sample and the Python between the stages; for decoding,
libavcodec and the frames that the wanted ones need. The encoder is synthetic throughout. Every point is measured warm,
in a process of its own: its memory is what that process and its decoding processes held at most, added up.

    python bench/growth.py REQUEST      one such process: the arguments of `measure` as JSON; prints its figures
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from record import ROOT, Record, Row
from synthetic import SyntheticDecoder, SyntheticEncoder
from workload import Clip, Scale, make, saved

from gpupeak import pipeline
from gpupeak.decode.pool import WorkerPool
from gpupeak.features.writer import NpyWriter
from gpupeak.types import Sample, SamplingRule

SIZE, DIM = 224, 768
WARM = 8
"""Samples before the clock starts: imports, threads, the start of the workers."""
FROM = 1000
"""Samples from which on memory has to be flat."""
HALF = 5
"""Parts into which each half of a run is timed."""


def growth(record: Record, scale: Scale, work: Path) -> None:
    """Rows of points, with the line through them; one child process a point."""
    few, many = [100, 300, 1000, 3000, 10_000], [100, 300, 1000, 3000]
    if scale.quick:
        few, many = [100, 1000, 2000], [100, 300]
    (video,) = make([Clip("h264", (160, 120), 1, gop=12)], work / "clips").values()
    record.row("samples, the line alone", by_samples, few, work)
    record.row("samples, decoding", by_samples, many, work, video)


def by_samples(counts: Sequence[int], work: Path, video: Path | None = None) -> Row:
    """One worker decodes `video` under as many names; without one, frames are made up."""
    points = [measured(work, count, video, workers=1) for count in counts]
    most, early = points[-1], next((point for point in points if point["samples"] >= FROM), points[0])
    halves = [min(most["parts_s"][:HALF]), min(most["parts_s"][HALF:])]  # what disturbs a run only adds to its time
    flat = {"peak_mib": most["peak_mib"] / early["peak_mib"], "samples_per_s": halves[0] / halves[1]}
    from_to = f"{most['samples']} samples over {early['samples']}"
    second_half = f"samples/s of {most['samples']}, second half over first"
    targets = [
        {"what": f"memory, {from_to}", "figure": flat["peak_mib"], "sign": "<=", "limit": 1.1},
        {"what": second_half, "figure": flat["samples_per_s"], "sign": ">=", "limit": 0.9},
    ]
    line = fit(points)
    says = f"{1000 * line['slope']:.2f} ms a sample, R2 {line['r2']:.4f}; {from_to}: memory {flat['peak_mib']:.2f} "
    says += f"({most['peak_mib']:.0f} MiB); second half over first: samples/s {flat['samples_per_s']:.2f}"
    return {"points": points, "fit": line, "flat": flat, "targets": targets, "says": says}


def fit(points: Sequence[Row]) -> Row:
    """The straight line through samples and seconds, by least squares, and how much of the variance it explains."""
    xs, ys = (np.array([float(point[key]) for point in points]) for key in ("samples", "seconds"))
    slope, start = (float(each) for each in np.polyfit(xs, ys, 1))
    left = ys - (start + slope * xs)
    return {"slope": slope, "start": start, "r2": 1 - float(left.var() / ys.var())}


def measured(work: Path, count: int, video: Path | None, *, workers: int) -> Row:
    """`measure` in a process of its own, which has gpupeak from where this one has the benchmarks from."""
    request = {"work": str(work), "count": count, "video": video and str(video), "workers": workers}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, __file__, json.dumps(request)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1])
    found: Row = json.loads(done.stdout)
    return found


def measure(work: str, count: int, video: str | None, workers: int) -> Row:
    """Take `count` samples of eight frames of one video through the line, to files.

    `sample_ms` is the least that planning and decoding took of one: they are all the same. `peak_mib` is the most that
    this process and the workers held, each at its own time: no less than all of them at any one time.
    """
    rule = SamplingRule("uniform")
    with tempfile.TemporaryDirectory(dir=work) as name:
        features, videos = Path(name, "features"), Path(name, "videos")
        for directory in (features, videos):
            directory.mkdir()
        if video is not None:
            for number in range(WARM + count):
                os.link(video, videos / f"sample_{number:08d}.mp4")
        decoder = WorkerPool(workers, rule.n, SIZE) if video is not None else SyntheticDecoder(SIZE)
        with closing(decoder):
            source = samples(features, rule, WARM + count, videos if video is not None else None)
            spent: list[float] = []
            reached: list[float] = []
            for part in (islice(source, WARM), source):
                spent.clear()
                reached[:] = [time.perf_counter()]
                for outcome in saved(pipeline.run(part, decoder, SyntheticEncoder(DIM, SIZE), NpyWriter())):
                    spent.append(outcome.seconds["plan"] + outcome.seconds["decode"])
                    if len(spent) * 2 * HALF // count >= len(reached):
                        reached.append(time.perf_counter())
            peak = highest_mib(os.getpid(), *getattr(decoder, "pids", ()))
    if len(spent) != count:
        raise RuntimeError(f"{len(spent)} of {count} samples saved")
    return {
        "samples": count,
        "workers": workers if video is not None else 0,
        "seconds": reached[-1] - reached[0],
        "parts_s": [later - sooner for sooner, later in pairwise(reached)],
        "samples_per_s": count / (reached[-1] - reached[0]),
        "sample_ms": 1000 * min(spent),
        "peak_mib": peak,
    }


def samples(features: Path, rule: SamplingRule, count: int, videos: Path | None = None) -> Iterator[Sample]:
    """Samples one by one: a list of them would be memory that grows."""
    for number in range(count):
        name = f"sample_{number:08d}"
        yield Sample("growth", name, videos and videos / f"{name}.mp4", (), rule, features / f"{name}.npy")


def highest_mib(*processes: int) -> float:
    """The most resident memory that processes have had, added up, in MiB."""
    kib = 0
    for process in processes:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        kib += next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return kib / 1024


if __name__ == "__main__":
    arguments: dict[str, Any] = json.loads(sys.argv[1])
    print(json.dumps(measure(**arguments)))
