"""The process that plans and decodes one sample at a time: imports no torch, owns no state between samples.

It answers each `(slot, sample)` with `(plan, seconds)`, the frames lying in that slot of the shared memory, or with a
`Failed`; where no slot is sent, with a `Planned`; a `Task` with `Done`.
"""

from __future__ import annotations

import ctypes
import mmap
import resource
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from gpupeak.child import connect
from gpupeak.decode.faces import face_frames, open_faces
from gpupeak.decode.libav import Recounted, decode_clip
from gpupeak.decode.nvdec import examine
from gpupeak.decode.planning import plan_clip, plan_frames, video_of
from gpupeak.errors import OUT_OF_MEMORY, SampleError
from gpupeak.features.fresh import made_of
from gpupeak.storage.places import local
from gpupeak.types import Failed, FramePlan, Sample, Seconds
from gpupeak.video.container import open_clip
from gpupeak.video.remake import Remade

READY = "ready"  # a worker's first message
NO_SLOT = -1  # the sample is only to be planned
# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

MEMORY = 4 << 30
"""Bytes that a worker may have allocated. One that decodes 8K in 10 bits takes 750 MB, one that decodes twice that
1.1 GB; an MP4 of a few KB that declares millions of samples makes libavformat take as much as it gets."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A sample that is planned, not decoded, and what NVDEC is given for it, or why nothing (`nvdec.examine`)."""

    plan: FramePlan
    seconds: Seconds
    given: Remade | str


class Task(Protocol):
    """Something else to be done with a sample's video: it is pickled, and so is what calling it gives."""

    @property
    def sample(self) -> Sample: ...

    def __call__(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class Done:
    sample: Sample
    value: Any


Answer: TypeAlias = "tuple[FramePlan, Seconds] | Planned | Done | Failed"


def prepare(sample: Sample, out: npt.NDArray[np.uint8] | None) -> Answer:
    """Plan one sample, and decode its frames into `out`, uint8 `[n, size, size, 3]`, owned by the caller, if given."""
    began = time.perf_counter()
    plan = None
    try:
        video = local(video_of(sample))
        files = made_of(sample)  # before they are read: what changes meanwhile will be seen to have changed
        if sample.stream != "frame":
            faces = open_faces(video)
            plan = plan_frames(sample, len(faces), "faces", files)
            planned = time.perf_counter()
            if out is None:
                return Planned(plan, {"plan": planned - began}, "faces are no video")
            face_frames(faces, plan.indices, out, swap=sample.stream == "face-rgb")
        else:
            with open_clip(video) as clip:
                plan = plan_clip(sample, clip, files)
                if out is None:
                    facts, given = examine(clip, plan.unique)
                    return Planned(replace(plan, video=facts), {"plan": time.perf_counter() - began}, given)
                planned = time.perf_counter()
                try:
                    decode_clip(clip, plan.indices, out.shape[1], out)
                except Recounted:
                    plan = plan_clip(sample, clip, files)
                    decode_clip(clip, plan.indices, out.shape[1], out)
        return plan, {"plan": planned - began, "decode": time.perf_counter() - planned}
    except Exception as error:  # a bad video is data, whatever it provokes
        return _failed(sample, error, "plan" if plan is None else "decode", plan)


def _perform(task: Task) -> Done | Failed:
    try:
        return Done(task.sample, task())
    except Exception as error:
        return _failed(task.sample, error, "decode")


def _failed(sample: Sample, error: Exception, stage: str, plan: FramePlan | None = None) -> Failed:
    if isinstance(error, SampleError):
        return Failed(sample, error.stage, error.reason, plan)
    unexpected = f"unexpected {type(error).__name__}: {error}".splitlines()[0]
    return Failed(sample, stage, OUT_OF_MEMORY if isinstance(error, MemoryError) else unexpected, plan)


def main() -> None:
    with suppress(OSError, ValueError):  # a system without such a limit, or one that is lower already
        # Of what is private and writable; the slots are neither. Beyond it, allocating fails.
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    with suppress(AttributeError, OSError):
        # Have glibc keep what is freed: clearing it for the next clip is 1 to 9 % of decoding at 1280x720.
        adjust = ctypes.CDLL(None).mallopt
        adjust(_M_MMAP_THRESHOLD, 32 << 20)  # glibc's maximum; a frame of 8K is larger
        adjust(_M_TRIM_THRESHOLD, 256 << 20)
    connection, (memory, *shape) = connect()
    slots = np.frombuffer(mmap.mmap(memory, 0), np.uint8).reshape(shape)
    connection.send(READY)
    with suppress(EOFError):
        while True:
            slot, work = connection.recv()
            if isinstance(work, Sample):
                connection.send(prepare(work, None if slot == NO_SLOT else slots[slot, : work.rule.n]))
            else:
                connection.send(_perform(work))
