"""The process that plans and decodes one sample at a time: imports no torch, owns no state between samples.

Started by `pool.WorkerPool`. It answers each `(slot, sample)` with `(plan, seconds)`, the frames lying in
that slot of the shared memory, or with a `Failed`; where no slot is sent, with what another decoder has
to know, a `Planned`. Whatever a file from a stranger does to libav, it does it here.
"""

from __future__ import annotations

import mmap
import time
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from gpupeak.child import connect
from gpupeak.container import open_clip
from gpupeak.decode.libav import decode_clip
from gpupeak.decode.nvdec import examine
from gpupeak.errors import SampleError
from gpupeak.plan import plan_frames
from gpupeak.types import Failed, FramePlan, Sample, Seconds

__all__ = ["NO_SLOT", "READY", "Answer", "Planned", "prepare", "serve"]

READY = "ready"
"""The first message of a worker: its imports went well."""

NO_SLOT = -1
"""Sent for a slot: the sample is only to be planned."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A sample that is planned and not decoded; `plan.video` is there.

    `unfit` says why its video must not be given to NVDEC, None where it may (`nvdec.examine`).
    """

    plan: FramePlan
    seconds: Seconds
    unfit: str | None


Answer: TypeAlias = "tuple[FramePlan, Seconds] | Planned | Failed"


def prepare(sample: Sample, out: npt.NDArray[np.uint8] | None) -> Answer:
    """Plan one sample, and decode its frames into `out`, uint8 `[n, size, size, 3]`, owned by the caller, if given."""
    began = time.perf_counter()
    plan = None
    try:
        if sample.video is None:
            raise SampleError("find", "no video file of this name")
        with open_clip(sample.video) as clip:
            plan = plan_frames(sample, clip.frames, clip.codec)
            if out is None:
                video, unfit = examine(clip)
                return Planned(replace(plan, video=video), {"plan": time.perf_counter() - began}, unfit)
            planned = time.perf_counter()
            decode_clip(clip, plan.indices, size=out.shape[1], out=out)
        return plan, {"plan": planned - began, "decode": time.perf_counter() - planned}
    except SampleError as error:
        return Failed(sample, error.stage, error.reason, plan)
    except Exception as error:  # a bad video is data, whatever it provokes
        stage = "plan" if plan is None else "decode"
        return Failed(sample, stage, f"unexpected {type(error).__name__}: {error}".splitlines()[0], plan)


def serve(connection: Connection, memory: int, shape: tuple[int, ...]) -> None:
    """Answer until the other end closes. `memory` is the descriptor of the slots, uint8 of `shape`."""
    slots = np.frombuffer(mmap.mmap(memory, 0), np.uint8).reshape(shape)
    connection.send(READY)
    while True:
        try:
            slot, sample = connection.recv()
        except EOFError:
            return
        connection.send(prepare(sample, None if slot == NO_SLOT else slots[slot, : sample.rule.n]))


def main() -> None:
    """What the process runs: its arguments are the memory's descriptor and the shape of the slots."""
    connection, (memory, *shape) = connect()
    serve(connection, memory, tuple(shape))
