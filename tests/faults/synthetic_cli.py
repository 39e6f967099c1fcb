"""`gpupeak` as it is, but for an encoder that computes nothing: no torch, and a run begins within a second.

The environment sets what faults there are: FAULTS_PAUSE, seconds that each sample takes more; FAULTS_NOFILE, a
limit of this process and its workers; FAULTS_CLOCK, whether the wall clock jumps about.
"""

# ruff: noqa: E402

from __future__ import annotations

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # as gpupeak/__main__.py does before it loads anything
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has whoever starts this ignore it

import os
import random
import resource
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from threading import Event
from types import ModuleType
from typing import Any

from synthetic import SyntheticEncoder

from gpupeak import __main__ as command
from gpupeak import pipeline
from gpupeak.config import ExtractConfig
from gpupeak.decode.pool import WorkerPool
from gpupeak.encoders import EncoderSpec
from gpupeak.features.writer import NpyWriter
from gpupeak.types import FeatureBatch, FrameBatch, Outcome, Sample

PAUSE = float(os.environ.get("FAULTS_PAUSE", "0"))


class Line:
    device = "synthetic"

    def __init__(self, config: ExtractConfig, spec: EncoderSpec, n: int) -> None:
        held = pipeline.READY_BATCHES + 2
        self._decoder = WorkerPool(config.workers or 2, n, spec.size, time_limit=config.time_limit, held=held)
        self._encoder = Paused(spec.dim, spec.size)

    def run(self, samples: Iterable[Sample], stop: Event | None = None) -> Generator[Outcome]:
        return pipeline.run(samples, self._decoder, self._encoder, NpyWriter(), stop=stop)

    def close(self) -> None:
        self._decoder.close()


class Paused(SyntheticEncoder):
    def encode(self, batches: Iterable[FrameBatch]) -> Generator[FeatureBatch]:
        return super().encode(self._paused(batches))

    def _paused(self, batches: Iterable[FrameBatch]) -> Iterator[FrameBatch]:
        for batch in batches:
            time.sleep(PAUSE)
            yield batch


def build(config: ExtractConfig, spec: EncoderSpec, n: int, tell: Callable[[str], None]) -> Line:
    return Line(config, spec, n)


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.environ.get("FAULTS_CLOCK"):
        real, draw = time.time, random.Random(0)
        time.time = lambda: real() + draw.uniform(-1e6, 1e6)
    module: Any = ModuleType("gpupeak.lines.build")
    module.build = build
    sys.modules["gpupeak.lines.build"] = module
    if limit := int(os.environ.get("FAULTS_NOFILE", "0")):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    sys.exit(command.main())


if __name__ == "__main__":
    main()
