"""Does the GPU line do on a GPU what it should, and how far is it from what bounds it?

    PYTHONPATH=. python bench/gpu_check.py [--encode] [--decode] [--e2e] [--seconds N] [--out DIRECTORY]
                                           [--record FILE] [--commit NAME] [--dry-run]

Of three parts, all unless some are named, what we most need to know comes first; bench/results/README.md has the order.
Each part has --seconds; a row that is thought to take more than is left is not begun, and named at the end. The record,
`gpu-<time>.jsonl` in --out (default: $OUT, else bench/results), has the conditions in a line and then a row a line,
each on disk as soon as it is measured. With --record it goes on with that one, and measures no row of it again. Weights
are drawn from a seed: features mean nothing, and cost what real ones do. `--dry-run` walks through all of it in small
on the CPU, where figures mean nothing either. Exit code: 1 if a check fails, 3 without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import gpu_corpus
import gpu_encode
import torch
from gpu_encode import COMPILED, DEFAULT, Setup, Step
from record import RESULTS, Missing, Record, Row, answer, needed, rounded
from record import conditions as of_machine

import gpupeak
from gpupeak.decode.driver import abilities, cuda_version
from gpupeak.errors import DeviceError

PARTS = ("encode", "decode", "e2e")
PACKAGES = ("torch", "triton", "nvidia-dali-cuda130", "cupy-cuda13x", "av", "open_clip_torch", "PyNvVideoCodec")


def steps(setup: Setup, record: Record, root: Path) -> Iterator[Step]:
    yield Step(1, "decode", "what NVDEC decodes", 2, lambda: nvdec_abilities(setup))
    yield from gpu_encode.steps(setup, record)
    if find_spec("av"):
        import gpu_decode

        yield from gpu_decode.steps(setup, record, root)
    else:
        for part in PARTS[1:]:
            yield Step(3, part, "PyAV", 0, partial(needed, "av"))


def nvdec_abilities(setup: Setup) -> Row:
    if setup.small:
        raise Missing("a GPU")
    found = {" ".join(kind): ability._asdict() for kind, ability in abilities(0).items()}
    says = "; ".join(f"{kind} to {ability['largest']}, {ability['engines']} engines" for kind, ability in found.items())
    return {"cuda": cuda_version(), "abilities": found, "says": says}


def go_through(record: Record, planned: Iterable[Step], seconds: float) -> list[str]:
    """Measure what the record does not have, as far as each part's `seconds` go; returns what was not begun."""
    left, spent, lost = list[str](), Counter[str](), False
    for step in sorted(planned, key=lambda step: step.stage):
        name = f"{step.part}: {step.name}"
        if "missing" not in record.rows.get(name, {"missing": "yet"}):
            continue
        if lost or step.seconds > seconds - spent[step.part]:
            left.append(name)
            continue
        began = time.monotonic()
        with record.part(step.part, limit=60 + 4 * step.seconds):
            record.row(step.name, step.measure)
        spent[step.part] += time.monotonic() - began  # type: ignore[assignment]
        lost = record.rows[name].get("ok") is False and gpu_is_lost()
    return left


def gpu_is_lost() -> bool:
    """After some of CUDA's errors a process can do nothing more on its GPU."""
    try:
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def targets(rows: dict[str, Row]) -> dict[str, tuple[float, str, float]]:
    """What is to be reached on one H200, as far as it was measured: figure, comparison, limit."""
    found: dict[str, tuple[float, str, float]] = {}
    rates = {name.rpartition(": ")[2]: row["images_per_s"] for name, row in rows.items() if "images_per_s" in row}
    if DEFAULT in rates:
        best = max(rate for name, rate in rates.items() if name.startswith("graphs"))
        found["encoder, images/s"] = rates[DEFAULT], ">=", 3100
        found["encoder, images/s, with the fastest kernels"] = best, ">=", 3500
        for name, limit in (("open_clip", 1.3), (COMPILED, 1.0)):
            if name in rates:
                found[f"encoder, over {name}"] = rates[DEFAULT] / rates[name], ">=", limit
    lines = {name: row for name, row in rows.items() if name.startswith("e2e: line: ") and "all_s" in row}
    if lines:
        name = min(lines, key=lambda name: lines[name]["all_s"])
        line, mode = lines[name], name.rpartition(" ")[2]
        found[f"{mode}, {gpu_corpus.TOTAL} clips, s"] = line["all_s"], "<", 60
        if "of_bound" in line:
            found[f"{mode}, of its slower half"] = line["of_bound"], ">=", 0.85
        found[f"{mode}, host memory, end over a third"] = line["host_mib"][1] / line["host_mib"][0], "<", 1.05
        if "gpu_mib" in line:
            found[f"{mode}, GPU memory, GiB"] = line["gpu_mib"] / 1024, "<", 16
    return found


def conditions(setup: Setup, commit: str | None) -> Row:
    gpu = None if setup.small else torch.cuda.get_device_properties(setup.device)
    clips = [clip for of_set in gpu_corpus.corpus(setup.small).values() for clip in of_set]
    asked = "clocks.max.sm,clocks.max.mem,power.limit,temperature.gpu,clocks_event_reasons.active"
    return {
        "dry_run": setup.small,
        "checkout": str(Path(gpupeak.__file__).parents[1]),
        **of_machine(PACKAGES, commit),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "gpu": gpu and f"{gpu.name}, {gpu.multi_processor_count} multiprocessors, {gpu.total_memory / 2**30:.0f} GiB",
        asked: gpu and answer("nvidia-smi", "-i", "0", f"--query-gpu={asked}", "--format=csv,noheader"),
        "weights": "random:0, drawn: features mean nothing",
        "clips": [f"{c.name}: {c.codec}, {c.size[0]}x{c.size[1]}, {c.frames} frames at {c.fps}/s" for c in clips],
        "coding": {codec: gpu_corpus.CODING[codec] for codec in sorted({clip.codec for clip in clips})},
        "buckets": setup.buckets,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Does the GPU line do what it should, and how fast?")
    for part in PARTS:
        parser.add_argument(f"--{part}", action="store_true")
    parser.add_argument("--dry-run", action="store_true", help="all of it in small, on the CPU")
    parser.add_argument("--seconds", type=float, help="of each part (default: 180; of a dry run, an hour)")
    parser.add_argument("--out", type=Path, help="the directory of the record (default: $OUT, else bench/results)")
    parser.add_argument("--record", type=Path, help="a record to go on with")
    parser.add_argument("--commit", help="what is measured, where there is no git to ask")
    options = parser.parse_args()
    if options.dry_run:
        torch.set_num_threads(1)
        torch.compiler.set_stance("force_eager")  # compiling takes a minute
    elif not torch.cuda.is_available():
        print(f"torch {torch.__version__} finds no usable GPU; --dry-run goes through this check in small")
        return DeviceError.exit_code
    setup = gpu_encode.in_small() if options.dry_run else gpu_encode.on_gpu()
    told = conditions(setup, options.commit)
    if options.record:
        former = json.loads(options.record.read_text().splitlines()[0])["conditions"]
        if any(former[key] != told[key] for key in ("dry_run", "gpu")):
            parser.error(f"{options.record} is of {former['gpu'] or 'a dry run'}, this is {told['gpu'] or 'a dry run'}")
    record = Record(options.out or Path(os.environ.get("OUT") or RESULTS), told, former=options.record)
    chosen = [part for part in PARTS if getattr(options, part)] or PARTS
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as name:
        planned = [step for step in steps(setup, record, Path(name)) if step.part in chosen]
        left = go_through(record, planned, options.seconds or (3600 if setup.small else 180))
    reached = targets(record.rows)
    for what, (figure, sign, limit) in reached.items():
        verdict = "reached" if (figure >= limit if sign == ">=" else figure < limit) else "NOT reached"
        print(f"{what:45} {figure:9.4g} {sign} {limit:<6} {'a dry run' if setup.small else verdict}")
    for name in left:
        print(f"not measured, its time did not fit: {name}")
    rows = record.rows
    found = {
        "failed": [name for name in rows if rows[name].get("ok") is False],
        "missing": {name: row["missing"] for name, row in rows.items() if "missing" in row},
        "left_out": left,
    }
    brief = {key: told[key] for key in ("dry_run", "commit", "gpu")}
    print(json.dumps(rounded({"bench": "gpu_check", **brief, **found, "targets": reached, "record": str(record.path)})))
    return 1 if found["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
