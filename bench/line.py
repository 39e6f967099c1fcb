"""How fast the line itself is, when decoding and encoding cost nothing.

What bounds it: one file written and renamed a sample, and the Python between the stages. Decoder and
encoder are synthetic, so every figure here is a cost that a faster GPU would run into next.

    python bench/line.py [--samples N] [--out RECORD.json]

Prints a table and one JSON line. Not a test: compare figures of one run only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gpupeak import pipeline
from gpupeak.decode.synthetic import SyntheticDecoder
from gpupeak.encode.synthetic import SyntheticEncoder
from gpupeak.types import Sample, SamplingRule, Saved
from gpupeak.write import NpyWriter

RULE = SamplingRule("uniform")
DIM = 768


def samples(directory: Path, count: int) -> Iterator[Sample]:
    for index in range(count):
        name = f"sample_{index:08d}"
        yield Sample("bench", name, None, (), RULE, directory / f"{name}.npy")


def line(count: int, size: int) -> dict[str, Any]:
    """Take `count` samples with frames of `size` pixels a side through the line, to files."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        began, cpu = time.perf_counter(), time.process_time()
        outcomes = pipeline.run(
            samples(directory, count), SyntheticDecoder(size), SyntheticEncoder(DIM, size), NpyWriter()
        )
        saved = sum(isinstance(outcome, Saved) for outcome in outcomes)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        if saved != count:
            raise SystemExit(f"{saved} of {count} samples saved")
    return {
        "samples": count,
        "frames": f"8x{size}x{size}",
        "samples_per_s": count / seconds,
        "cpu_ms_per_sample": 1000 * cpu / count,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def resume(count: int) -> dict[str, float]:
    """Run `gpupeak extract` over `count` finished files: how long until it says that all are there."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        home = root / "out/bench/frame_CLIP_VIT_LARGE_uniform_8frms"
        home.mkdir(parents=True)
        (root / "videos").mkdir()
        np.save(home / "first.npy", np.zeros((8, DIM), np.float32))
        whole = (home / "first.npy").read_bytes()
        (home / "first.npy").unlink()
        for sample in samples(home, count):
            sample.target.write_bytes(whole)
            (root / "videos" / f"{sample.name}.mp4").touch()
        command = [sys.executable, "-m", "gpupeak", "extract", "--videos", str(root / "videos"), "--name", "bench"]
        command += ["--sampling", "uniform", "--output-root", str(root / "out"), "--weights", "random:0", "--json"]
        began = time.perf_counter()
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds = time.perf_counter() - began
        if json.loads(done.stdout)["skipped"] != count:
            raise SystemExit(f"not all of {count} finished samples were skipped")
    return {"samples": count, "seconds": seconds}


def conditions() -> dict[str, Any]:
    model = next(
        (text.split(":")[1].strip() for text in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in text),
        platform.processor(),
    )
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "commit": commit,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="How fast the line itself is.")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--out", type=Path, help="also write the record here")
    options = parser.parse_args()
    line(200, 224)  # warm: imports, page cache, thread start
    record: dict[str, Any] = {
        "bench": "line",
        "conditions": conditions(),
        # Frames of 224 pixels are what a sample weighs; of 8, what Python costs: nearly all CPU time left
        # is then interpreter and system calls, an upper bound of the time that holds the GIL.
        "line": [line(options.samples // 5, 224), line(options.samples, 224), line(options.samples, 8)],
        "resume": resume(options.samples),
    }
    print(f"{'samples':>8} {'frames':>10} {'samples/s':>10} {'CPU ms/sample':>14} {'peak RSS MiB':>13}")
    for row in record["line"]:
        print(
            f"{row['samples']:8d} {row['frames']:>10} {row['samples_per_s']:10.0f} "
            f"{row['cpu_ms_per_sample']:14.3f} {row['peak_rss_mib']:13.0f}"
        )
    print(f"resume over {record['resume']['samples']} finished files: {record['resume']['seconds']:.2f} s, one process")
    text = json.dumps(record)
    if options.out:
        options.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
