"""Is gpupeak faster than what its users would run instead, and how far is it from what bounds it?

    make bench            all of it, under a quarter of an hour on two cores: bench/suite.py
    make bench-quick      the same in small, under three minutes: bench/suite.py --quick

Every part puts gpupeak beside its peers in one run, in turns, on clips that are drawn for it. The record, rows
with their conditions, lies in --out (default: bench/results) and grows as it is measured; a table of what was to
be reached and one JSON line come last. Figures of one record can be compared, with care; those of two cannot.
Exit code: 1 if a row failed; what was not reached is told and is no failure.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeAlias

import torch
from encoders import encoding
from end_to_end import end_to_end
from growth import growth
from profiling import profile
from record import RESULTS, Record, Row, conditions, cores, rounded
from stages import decoding, loading, planning
from workload import FULL, QUICK, Scale

Part: TypeAlias = Callable[[Record, Scale, Path], None]

PARTS = (planning, decoding, encoding, loading, end_to_end, growth)
PACKAGES = ("torch", "av", "numpy", "open_clip_torch", "transformers", "nvidia-dali-cuda130", "cupy-cuda13x")
PEERS = ("decord", "torchcodec", "opencv-python-headless")


def reached(rows: Mapping[str, Row]) -> dict[str, Row]:
    """What was to be reached, by row: what it is, the figure, the comparison, the limit, and whether it holds."""
    found: dict[str, Row] = {}
    for name, row in rows.items():
        for target in row.get("targets", []):
            figure, limit = target["figure"], target["limit"]
            holds = figure >= limit if target["sign"] == ">=" else figure <= limit
            found[f"{name}: {target['what']}"] = {**target, "reached": holds}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="gpupeak beside what its users would run instead.")
    parser.add_argument("--quick", action="store_true", help="in small, under three minutes")
    parser.add_argument("--profile", action="store_true", help="also write a trace for Perfetto, beside the record")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the directory of the record")
    options = parser.parse_args()
    scale = QUICK if options.quick else FULL
    machine = {
        "quick": options.quick,
        **conditions((*PACKAGES, *PEERS)),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "torch_threads": cores(),
        "weights": "random:0, drawn: features mean nothing, and take as long as real ones",
    }
    record = Record(options.out, machine, "bench-quick" if options.quick else "bench")
    parts: dict[str, Part] = {part.__name__.replace("_", " "): part for part in PARTS}
    if options.profile:
        parts["profile"] = partial(profile, out=record.path.with_suffix(".trace.json"))
    with tempfile.TemporaryDirectory(prefix="gpupeak-bench-") as work:
        for name, part in parts.items():
            with record.part(name):
                part(record, scale, Path(work))
    targets = reached(record.rows)
    for what, target in targets.items():
        verdict = "reached" if target["reached"] else "NOT reached"
        print(f"{what:75} {target['figure']:8.4g} {target['sign']} {target['limit']:<6} {verdict}")
    failed = [name for name, row in record.rows.items() if row.get("ok") is False]
    last = {"bench": "suite", **machine, "failed": failed, "targets": targets, "record": str(record.path)}
    print(json.dumps(rounded(last)))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
