"""Which samples are one shard's, of several that divide a run without speaking to each other?"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

from gpupeak.errors import ConfigError
from gpupeak.types import Shard

_PER_SAMPLE = 256 << 10  # bytes: opening and encoding a sample take about as long as decoding so much of a video


def assign(names: Sequence[str], sizes: Sequence[int], count: int) -> list[int]:
    """The shard of each sample, by its name and the bytes of its video, largest first onto the one that has the least.

    Depends on names and sizes alone, neither on their order nor on what is finished, so that processes agree.
    """
    largest_first = sorted(range(len(names)), key=lambda i: (-sizes[i], names[i]))
    loads = [(0, shard) for shard in range(count)]
    owners = [0] * len(names)
    for i in largest_first:
        load, owners[i] = loads[0]
        heapq.heapreplace(loads, (load + sizes[i] + _PER_SAMPLE, owners[i]))
    return owners


def slurm_shard(environment: Mapping[str, str]) -> tuple[Shard, str] | None:
    """The shard that SLURM's environment makes of this process, and the variables that say so; None if it is all.

    A task of an array is one, and so is a task of a job step, also within an array. `SLURM_NTASKS` does not count: a
    batch script has it also where it runs a program once. Raises ConfigError where that makes no shard.
    """
    index, count, told = 0, 1, []
    array, step = "SLURM_ARRAY_TASK_ID", "SLURM_STEP_NUM_TASKS"
    if array in environment and "SLURM_ARRAY_TASK_COUNT" in environment:
        here = _number(environment, array)
        count = _number(environment, "SLURM_ARRAY_TASK_COUNT")
        offset = here - _number(environment, "SLURM_ARRAY_TASK_MIN", 0)
        index, rest = divmod(offset, max(1, _number(environment, "SLURM_ARRAY_TASK_STEP", 1)))
        if rest or not 0 <= index < count:
            way_out = "give --num-shards and --shard-index, or --num-shards 1"
            raise ConfigError(f"{array}={here} of {count} tasks: the array's numbers have gaps; {way_out}")
        if count > 1:
            told.append(f"{array}={here}")
    if "SLURM_PROCID" in environment and (tasks := _number(environment, step, 1)) > 1:
        process = _number(environment, "SLURM_PROCID")
        index, count = index * tasks + process, count * tasks
        told.append(f"SLURM_PROCID={process}")
    if count == 1:
        return None
    try:
        return Shard(index, count), " and ".join(told)
    except ValueError as error:
        raise ConfigError(f"{error}, by {' and '.join(told)}; --num-shards 1 does without") from error


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isascii() or not text.isdecimal():
        raise ConfigError(f"{name} is {text!r}, expected a number; --num-shards 1 does without")
    return int(text)
