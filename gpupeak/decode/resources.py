"""How much of the machine may a run's decoding processes, frames and directories take?"""

from __future__ import annotations

import re
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from gpupeak.child import cores
from gpupeak.config import ExtractConfig
from gpupeak.errors import ConfigError
from gpupeak.pipeline import READY_BATCHES

MOST_BYTES = 7 << 29
"""What decoding processes and frames take at most for each device: with the rest of gpupeak, not the model, 4 GiB."""
_PROCESS_BYTES = 48 << 20  # one that has decoded small clips has 35 MiB of its own
LARGEST_BATCH = 256  # images that a GPU encodes at once
_FILES, _FILES_A_WORKER = 32, 3  # and two a dataset, its lock and its manifest; of a shard also the shard's lock


def samples_at_once(config: ExtractConfig, n: int) -> int:
    """How many samples of `n` frames a GPU encodes at once."""
    return config.batch_size or max(1, LARGEST_BATCH // n)


def batches_behind(config: ExtractConfig, n: int) -> int:
    """How many samples' frames a GPU's line holds behind its decoder: the encoder reads ahead what it takes at once."""
    return 2 * READY_BATCHES + 4 * samples_at_once(config, n)


def refuse_excess(config: ExtractConfig, n: int, size: int, datasets: int = 1) -> None:
    """Raise ConfigError if a run over samples of `n` frames of `size` pixels would take too much."""
    workers = config.workers or 1
    if workers > _fitting(config, n, size, MOST_BYTES):
        each = -(-workers // _devices(config))
        frames = n * (batches_behind(config, n) + each)
        taken = (frames * size * size * 3 + each * _PROCESS_BYTES) / 2**30
        raise ConfigError(
            f"--n-frms {n}, --batch-size {samples_at_once(config, n)}, --workers {workers}: {frames:,} frames of "
            f"{size}x{size} pixels and the decoding processes take {taken:.2f} GiB, expected at most "
            f"{MOST_BYTES / 2**30:g}; give less of one of them"
        )
    files = _FILES + _FILES_A_WORKER * (config.workers or cores()) + (2 if config.shard is None else 3) * datasets
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < files <= hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    elif hard < files and datasets > 1:
        raise ConfigError(
            f"{datasets:,} datasets and {config.workers or cores()} workers take {files:,} open files, and this "
            f"process may have {hard:,} (ulimit -n); name fewer datasets at once"
        )


def fitted(
    config: ExtractConfig, n: int, size: int, samples: int, tell: Callable[[str], None] = lambda text: None
) -> ExtractConfig:
    """The settings with so many `workers` as there is work for, and as fit into half of the memory that there is.

    `tell` is told where memory makes them fewer.
    """
    workers = max(1, min(config.workers or cores(), samples))
    room = min(MOST_BYTES, _available_bytes() // 2)
    fitting = max(1, _fitting(config, n, size, room))
    if fitting < workers:
        tell(f"{fitting} decoding processes, not {workers}: they and their frames may take {room / 2**30:.1f} GiB")
    return replace(config, workers=min(workers, fitting))


def _fitting(config: ExtractConfig, n: int, size: int, room: int) -> int:
    """How many workers fit into `room` bytes a device, with the frames that they and the line behind them hold."""
    slot = n * size * size * 3
    return max(0, room - slot * batches_behind(config, n)) // (_PROCESS_BYTES + slot) * _devices(config)


def _devices(config: ExtractConfig) -> int:
    return config.device.count(",") + 1


def _available_bytes() -> int:
    """What of its memory this machine has free, or what its container may have, as far as Linux tells."""
    found = [sys.maxsize]
    with suppress(OSError):
        found += [int(kib) << 10 for kib in re.findall(r"MemAvailable: *(\d+)", Path("/proc/meminfo").read_text())]
    with suppress(OSError, ValueError):  # "max" where there is no bound
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(found)
