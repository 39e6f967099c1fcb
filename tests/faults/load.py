"""Do memory, open files and threads stay level over MER-UniBench, and does a long list plan in bounded memory?"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from faults.corpus import Scale, make_benchmark
from faults.harness import REPOSITORY, Extraction, look

MEMORY_GROWTH, CPU_GROWTH = 1.1, 1.3
"""What the second half of a run may take in times of the first."""
BYTES_A_NAME = 4096
"""Memory that planning may take for each sample listed."""
EVERY_SECONDS = 0.5


def run(scale: Scale, seed: int, work: Path) -> dict[str, Any]:
    """A run over everything, and a plan of a long list; `ok` if nothing grows and nothing is lost."""
    extraction, planning = benchmark(scale.divisor, work), plan(scale.listed, work)
    return {"seed": seed, "extraction": extraction, "plan": planning, "ok": extraction["ok"] and planning["ok"]}


def benchmark(divisor: int, work: Path) -> dict[str, Any]:
    counts = make_benchmark(work, divisor)
    out = work / "features"
    arguments = ["extract", "--dataset-root", str(work / "data"), "--mer-factory-output", str(work / "aus")]
    arguments += ["--output-root", str(out), "--weights", "random:0", "--device", "cpu", "--workers", "2", "--json"]
    listed = sum(counts.values())
    began = time.monotonic()
    # A small run is over within seconds: it is made to last long enough to be looked at.
    process = Extraction(arguments, pause=0 if divisor == 1 else 3 / listed)
    looks: list[Look] = []
    code = process.wait(3600, lambda: looks.append(look_at(process, out)), EVERY_SECONDS if divisor == 1 else 0.1)
    seconds = time.monotonic() - began
    trees = [look(out / dataset / "frame_CLIP_VIT_LARGE_emotion_peak_8frms") for dataset in counts]
    lines = [line for tree in trees for line in tree.lines.values()]
    saved, doubled = sum(len(tree.features) for tree in trees), sum(tree.doubled_lines for tree in trees)
    fell_back = sum(bool(line.get("fallback")) for line in lines)
    found = figures(looks, listed)
    level = (
        found["memory_second_over_first"] <= MEMORY_GROWTH
        and found["cpu_second_over_first"] <= CPU_GROWTH
        and found["files_second"] <= found["files_first"] + 2
        and found["threads_second"] <= found["threads_first"] + 1
    )
    return {
        "datasets": len(counts),
        "samples": listed,
        "saved": saved,
        "lost_samples": listed - saved,
        "doubled_samples": doubled,
        "fallbacks": fell_back,
        "seconds": seconds,
        "samples_per_s": listed / seconds,
        **found,
        "exit_code": code,
        "ok": code == 0 and saved == len(lines) == listed and not doubled and not fell_back and (level or divisor > 1),
    }


class Look(NamedTuple):
    """What a run and its workers have together, and how many samples are done.

    Memory is what is resident of each process, added up: no less than what they take together, since they share some.
    """

    done: int
    memory_mib: float
    files: int
    threads: int
    cpu_s: float


def look_at(process: Extraction, out: Path) -> Look:
    run = psutil.Process(process.process.pid)
    done = sum(path.read_bytes().count(b"\n") for path in out.glob("*/*/manifest.jsonl"))
    each = [
        (p.memory_info().rss / 2**20, p.num_fds(), p.num_threads(), sum(p.cpu_times()[:2]))
        for p in (run, *run.children(recursive=True))
    ]
    return Look(done, *map(sum, zip(*each, strict=True)))


def figures(looks: Sequence[Look], samples: int) -> dict[str, Any]:
    """The most of both halves, from the first outcomes on."""
    seen = [look for look in looks if 0 < look.done < samples]
    if len(seen) < 4:
        raise RuntimeError(f"only {len(seen)} looks at a run of {samples} samples")
    middle = min(range(1, len(seen) - 1), key=lambda at: abs(seen[at].done - samples // 2))
    halves = seen[: middle + 1], seen[middle:]
    cpu = [(half[-1].cpu_s - half[0].cpu_s) / max(1, half[-1].done - half[0].done) for half in halves]
    most = {what: [max(getattr(look, what) for look in half) for half in halves] for what in Look._fields}
    return {
        "peak_mib": max(look.memory_mib for look in looks),
        "memory_second_over_first": most["memory_mib"][1] / most["memory_mib"][0],
        **dict(zip(("files_first", "files_second"), most["files"], strict=True)),
        **dict(zip(("threads_first", "threads_second"), most["threads"], strict=True)),
        "cpu_second_over_first": cpu[1] / max(1e-9, cpu[0]),
    }


def plan(count: int, work: Path) -> dict[str, Any]:
    """`gpupeak plan` of so many listed samples that have videos, and of a tenth of them."""
    videos = work / "listed"
    videos.mkdir()
    names = [f"sample_{number:08d}" for number in range(count)]
    for name in names:
        (videos / f"{name}.mp4").touch()
    peaks, seconds = [], 0.0
    for some in (count // 10, count):
        listing = work / f"{some}.txt"
        listing.write_text("\n".join(names[:some]) + "\n")
        began = time.monotonic()
        peaks.append(_peak_mib(["--videos", str(videos), "--samples", str(listing), "--output-root", str(work / "no")]))
        seconds = time.monotonic() - began
    each = 2**20 * (peaks[1] - peaks[0]) / (count - count // 10)
    found = {"listed": count, "peak_mib": peaks[1], "seconds": seconds, "bytes_a_sample": each}
    return {**found, "ok": each <= BYTES_A_NAME}


# The kernel counts the memory of whoever starts a process as that process's own: it is asked from inside.
_PLAN = """
import sys
from gpupeak.cli.app import main
code = main()
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:")), file=sys.stderr)
sys.exit(code)
"""


def _peak_mib(arguments: Sequence[str]) -> float:
    given = ["plan", "--name", "listed", "--sampling", "uniform", "--weights", "random:0", "--json", *arguments]
    done = subprocess.run(
        [sys.executable, "-c", _PLAN, *given],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    if done.returncode:
        raise RuntimeError(f"gpupeak plan ended with {done.returncode}: {done.stderr[-300:]}")
    return int(done.stderr.split()[-1]) / 1024
