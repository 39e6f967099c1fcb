"""Where do the figures of the GPU check go, and what did the machine do meanwhile?"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import shutil
import statistics
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import psutil  # type: ignore[import-untyped]

Row: TypeAlias = dict[str, Any]
"""Figures; `says` is what the table shows of them, `ok` whether a check holds."""

PART_SECONDS = 470  # then a part that hangs is ended, with a traceback
START_SECONDS = 380  # past these no further row is begun


class Record:
    """Rows, each on disk when its measurement ends, however it ends."""

    def __init__(self, directory: Path, conditions: Row) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / f"gpu-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.jsonl"
        self.rows: dict[str, Row] = {}
        self._part, self._began = "", 0.0
        self._write({"conditions": conditions})

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._part, self._began = name, time.monotonic()
        faulthandler.dump_traceback_later(PART_SECONDS, exit=True)
        try:
            yield
        except Exception as error:  # nor may one part's
            self.row("the rest", _raise, error)
        faulthandler.cancel_dump_traceback_later()

    def row(self, name: str, measure: Callable[..., Row], *arguments: Any, **options: Any) -> Row:
        """Measure one row; returns its figures, none if it failed or there was no time for it."""
        began, figures = time.monotonic(), Row()
        row: Row = {"part": self._part, "row": name, "says": "left out: no time"}
        if began - self._began < START_SECONDS:
            try:
                figures = measure(*arguments, **options)
                row |= figures
            except Exception as error:  # one row's fault must not cost the others
                traceback.print_exc()
                row |= {"ok": False, "says": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
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
    return f"{row['part']:7}{row['row']:33} {state:6} {row['says']}"


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {str(key): rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list | tuple) else value


def timed(seconds: list[float]) -> Row:
    return {"median_s": statistics.median(seconds), "fastest_s": min(seconds), "slowest_s": max(seconds)}


class Monitor:
    """While it is open: what `nvidia-smi dmon` sees once a second, and the memory of this process and its children."""

    def __enter__(self) -> Monitor:
        command = ["true"]
        if shutil.which("nvidia-smi"):  # line by line, whatever it does by itself when it writes to a pipe
            command = ["stdbuf", "-oL", "nvidia-smi", "dmon", "-i", "0", "-s", "um", "-d", "1"]
        self._dmon = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self._seen: list[Row] = [{"host": resident_mib()}]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._dmon.terminate()
        self._thread.join()

    def _watch(self) -> None:
        names: list[str] = []
        assert self._dmon.stdout is not None
        while not self._ended.wait(0.1):
            words = self._dmon.stdout.readline().strip("#").split()  # "gpu sm mem enc dec ...", their units, numbers
            names = words if "gpu" in words else names
            numbers = {name: int(word) for name, word in zip(names, words, strict=False) if word.isdigit()}
            self._seen.append({"host": resident_mib(), **numbers})

    def figures(self) -> Row:
        """Means in per cent; the GPU's memory at its most, the host's after a third and at the end, in MiB."""
        host, on_gpu = [each["host"] for each in self._seen], [each for each in self._seen if "fb" in each]
        found: Row = {"host_mib": [host[len(host) // 3], host[-1]], "busy": {}}
        if on_gpu:
            found["gpu_mib"] = max(each["fb"] for each in on_gpu)
            found["busy"] = {
                name: statistics.mean(each.get(column, 0) for each in on_gpu)
                for name, column in (("GPU", "sm"), ("NVDEC", "dec"))
            }
        return found


def resident_mib() -> float:
    total = 0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total / 2**20
