"""Where do the figures of a benchmark go, on which machine were they measured, and which of two sides was faster?"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import platform
import statistics
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import psutil

Row: TypeAlias = dict[str, Any]
"""Figures; `says` is what the table shows of them, `ok` whether a check holds."""

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
NOISE = 0.97
"""A side that is less than 3 % ahead is not: medians of one and the same thing lie so far apart here."""


class Missing(Exception):
    """What a row needs is not on this machine: it says so, and has not failed."""


def needed(module: str) -> Row:
    if not find_spec(module):
        raise Missing(module)
    return {"says": "there"}


class Record:
    """Rows, each on disk when its measurement ends, however it ends: `<name>-<time>.jsonl`, after its conditions.

    With a `former` record its lines come first, under its name.
    """

    start_seconds = 380  # past these no further row of a part is begun

    def __init__(self, directory: Path, conditions: Row, name: str = "gpu", former: Path | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        file = former.name if former else f"{name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.jsonl"
        self.path = directory / file
        self.rows: dict[str, Row] = {}
        self._part, self._began = "", 0.0
        if former:
            text = former.read_text()
            self.path.write_text(text)
            rows = [row for row in map(json.loads, text.splitlines()) if "row" in row]
            self.rows = {f"{row['part']}: {row['row']}": row for row in rows}
        self._write({"conditions": conditions})

    @contextlib.contextmanager
    def part(self, name: str, limit: float = 470) -> Iterator[None]:
        self._part, self._began = name, time.monotonic()
        faulthandler.dump_traceback_later(limit, exit=True)  # a part that takes longer hangs
        try:
            yield
        except Exception as error:  # nor may one part's
            self.row("the rest", _raise, error)
        faulthandler.cancel_dump_traceback_later()

    def row(self, name: str, measure: Callable[..., Row], *arguments: Any, **options: Any) -> Row:
        """Measure one row; returns its figures, none if it failed or there was no time for it."""
        began, figures = time.monotonic(), Row()
        row: Row = {"part": self._part, "row": name, "says": "left out: no time"}
        if began - self._began < self.start_seconds:
            before = self.path.stat().st_size
            self._write({**row, "ok": False, "says": "the process ended meanwhile"})  # until it is known better
            try:
                figures = measure(*arguments, **options)
                row |= figures
            except Missing as error:
                row |= {"missing": str(error), "says": f"missing: {error}"}
            except Exception as error:  # one row's fault must not cost the others
                traceback.print_exc()
                row |= {"ok": False, "says": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
            os.truncate(self.path, before)
        row["took_s"] = time.monotonic() - began
        self.rows[f"{self._part}: {name}"] = row
        self._write(row)
        print(told(row), flush=True)
        return figures

    def _write(self, row: Row) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(rounded(row)) + "\n")


def _raise(error: Exception) -> Row:
    raise error


def told(row: Row) -> str:
    state = {True: "ok", False: "FAILED", None: ""}[row.get("ok")]
    return f"{row['part']:11}{row['row']:35} {state:6} {row['says']}"


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {str(key): rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list | tuple) else value


def timed(seconds: list[float]) -> Row:
    return {"median_s": statistics.median(seconds), "fastest_s": min(seconds), "slowest_s": max(seconds)}


def beside(ours: str, seconds: Mapping[str, Sequence[float]]) -> Row:
    """The sides of one comparison, from `alternated`: their times, and how many times longer than `ours` each took.

    A ratio is taken round by round, because a shared machine is as slow to both sides of one round; below
    1 the other side was faster.
    """
    ratios: Row = {}
    for side, taken in seconds.items():
        if side != ours:
            times = [theirs / own for theirs, own in zip(taken, seconds[ours], strict=True)]
            ratios[side] = {"median": statistics.median(times), "least": min(times), "most": max(times)}
    return {"seconds": {side: timed(list(taken)) for side, taken in seconds.items()}, "ratios": ratios}


def alternated(sides: Mapping[str, Callable[[], object]], rounds: int, warm: int = 1) -> dict[str, list[float]]:
    """Seconds of every side in every round; the sides take turns, another one first in each round."""
    names = list(sides)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(warm + rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            began = time.perf_counter()
            sides[name]()
            if turn >= warm:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def conditions(packages: Sequence[str], commit: str | None = None) -> Row:
    """The machine, what it runs, and what is measured; `commit` where there is no git to ask."""
    versions = {"python": platform.python_version()}
    for name in packages:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "commit": commit or answer("git", "-C", str(ROOT), "describe", "--always", "--dirty") or "unknown",
        "driver": answer("nvidia-smi", "-i", "0", "--query-gpu=driver_version", "--format=csv,noheader"),
        "cpu": answer("sh", "-c", "grep -m1 'model name' /proc/cpuinfo | cut -d: -f2"),
        "cores": cores(),
        "load": list(os.getloadavg()),
        "memory_gib": psutil.virtual_memory().total / 2**30,
        "system": platform.platform(),
        "versions": versions,
    }


def cores() -> int:
    return len(os.sched_getaffinity(0))


def answer(*command: str) -> str:
    with contextlib.suppress(OSError):
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return ""
