"""What did the machine do meanwhile: its GPU, and the memory of the processes that were measured?"""

from __future__ import annotations

import contextlib
import shutil
import statistics
import subprocess
import threading

import psutil
from record import Row


class Monitor:
    """While it is open: what `nvidia-smi dmon` sees once a second, and the memory of this process and its children."""

    def __enter__(self) -> Monitor:
        command = ["true"]
        if shutil.which("nvidia-smi"):  # line by line, whatever it does by itself when it writes to a pipe
            command = ["stdbuf", "-oL", "nvidia-smi", "dmon", "-i", "0", "-s", "pucm", "-d", "1"]
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
        """Means in per cent, MHz, watts; the GPU's memory at its most, the host's after a third and at the end: MiB."""
        host, on_gpu = [each["host"] for each in self._seen], [each for each in self._seen if "fb" in each]
        found: Row = {"host_mib": [host[len(host) // 3], host[-1]], "busy": {}}
        if on_gpu:
            found["gpu_mib"] = max(each["fb"] for each in on_gpu)
            columns = ("sm", "dec", "pclk", "pwr")
            gpu, nvdec, clock, power = (statistics.mean(each.get(name, 0) for each in on_gpu) for name in columns)
            found |= {"busy": {"GPU": gpu, "NVDEC": nvdec}, "clock_mhz": clock, "power_w": power}
        return found


def resident_mib() -> float:
    total = 0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total / 2**20
