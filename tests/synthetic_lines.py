"""Lines that need no torch and do what a sample's name says, for the tests that run them in other processes."""

from __future__ import annotations

import builtins
import os
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterable
from itertools import islice
from pathlib import Path

import numpy as np
from synthetic import SyntheticDecoder, SyntheticEncoder

from gpupeak import ExtractConfig, pipeline
from gpupeak.decode.worker import prepare
from gpupeak.encoders import EncoderSpec
from gpupeak.errors import DeviceError
from gpupeak.features.writer import NpyWriter
from gpupeak.lines import Tell
from gpupeak.pipeline import Line
from gpupeak.storage.places import local
from gpupeak.types import Failed, FrameBatch, Outcome, Sample, Saved


class NamedDecoder(SyntheticDecoder):
    """Takes eight samples at once, and does what their names say: deadly... ends the process, hang... never ends,
    IndexError... raises it; ... on NVDEC does so only where it is not to be decoded on the CPU; "third" waits until
    three processes have left their ids.

    Each takes `seconds`. Process ids are left in `pids`.
    """

    def __init__(self, seconds: float = 0.0, pids: Path | None = None) -> None:
        super().__init__(4)
        self.seconds, self.pids = seconds, pids

    def decode(self, samples: Iterable[Sample]) -> Generator[FrameBatch]:
        source = iter(samples)
        while batch := list(islice(source, 8)):
            for one in batch:  # a fault takes the whole batch
                if self.pids is not None:
                    (self.pids / str(os.getpid())).touch()
                    while one.name == "third" and len(list(self.pids.iterdir())) < 3:
                        time.sleep(0.01)
                what, _, where = one.name.partition(" on ")
                if not (where and one.on_cpu):
                    meet(what)
                time.sleep(self.seconds)
            yield from super().decode(batch)


def meet(what: str) -> None:
    if what.startswith("deadly"):
        os.kill(os.getpid(), signal.SIGKILL)
    elif what.startswith("hang"):
        time.sleep(1000)
    elif what == "AcceleratorError":
        import torch  # older ones have no such type

        said = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be reported later"
        raise getattr(torch, what, RuntimeError)(said)
    elif what.endswith("Error"):
        raise getattr(builtins, what)("vector::_M_range_check")


class LineHere:
    """In place of `lines.build.build`: plans and decodes in this process, and an encoder that computes nothing."""

    device = "cpu"

    def __init__(self, config: ExtractConfig, spec: EncoderSpec, n: int, tell: Tell) -> None:
        self._dim, self._shape = spec.dim, (spec.size, spec.size, 3)
        tell("on the CPU")

    def decode(self, samples: Iterable[Sample]) -> Generator[FrameBatch | Failed]:
        for sample in samples:
            pixels = np.empty((sample.rule.n, *self._shape), np.uint8)
            answer = prepare(sample, pixels)
            if isinstance(answer, tuple):
                yield FrameBatch((answer[0],), pixels, ((0, len(pixels)),), (answer[1],))
            elif isinstance(answer, Failed):
                yield answer

    def run(self, samples: Iterable[Sample], stop: threading.Event | None = None) -> Generator[Outcome]:
        return pipeline.run(samples, self, SyntheticEncoder(self._dim, self._shape[0]), NpyWriter(), stop=stop)

    def close(self) -> None:
        pass


class SyntheticLine:
    """A line of synthetic stages in this process; features depend on the sample alone."""

    def __init__(self, device: str = "synthetic", seconds: float = 0.0, pids: Path | None = None) -> None:
        self.device = device
        self._seconds, self._pids = seconds, pids

    def run(self, samples: Iterable[Sample], stop: threading.Event | None = None) -> Generator[Outcome]:
        decoder = NamedDecoder(self._seconds, self._pids)
        return pipeline.run(samples, decoder, SyntheticEncoder(6, 4), NpyWriter(), stop=stop)

    def close(self) -> None:
        pass


def names(outcomes: Iterable[Outcome]) -> list[str]:
    return sorted(outcome.sample.name for outcome in outcomes)


def assert_stops(line: Line, samples: Iterable[Sample], directory: Path, most: int) -> None:
    """A line that is stopped at the first outcome has saved what it gives, and gives at most so many."""
    stop, outcomes = threading.Event(), list[Outcome]()
    for outcome in line.run(samples, stop):
        outcomes.append(outcome)
        stop.set()
    assert 1 <= len(outcomes) < most
    assert names(outcomes) == sorted(path.stem for path in directory.iterdir())


def make_line(device: str, seconds: float, pids: Path | None, tell: Tell) -> SyntheticLine:
    tell("a synthetic line")
    return SyntheticLine(device, seconds, pids)


def make_seeing_line(config: object, spec: object, n: int, name: str, decoder: str, tell: Tell) -> SyntheticLine:
    """Made as `cuda_line` is; its device says which GPUs the process sees, and whether torch was there before."""
    early = " too late" if "torch" in sys.modules else ""
    return SyntheticLine(f"{name} sees {os.environ.get('CUDA_VISIBLE_DEVICES')}{early}")


def make_no_line(tell: Tell) -> SyntheticLine:
    raise DeviceError("there is no such GPU")


def make_dead_line(tell: Tell) -> SyntheticLine:
    os._exit(9)


def make_liar(tell: Tell) -> SyntheticLine:
    return Liar()


class Liar(SyntheticLine):
    """Says that it has saved what it has put elsewhere."""

    def run(self, samples: Iterable[Sample], stop: threading.Event | None = None) -> Generator[Outcome]:
        for outcome in super().run(samples, stop):
            if isinstance(outcome, Saved):
                local(outcome.sample.target).unlink()
            yield outcome
