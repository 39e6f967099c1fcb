"""Extracting again: in place, what `verify` found missing or broken; elsewhere, samples for it to compare."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gpupeak.config import ExtractConfig
from gpupeak.decode.resources import fitted
from gpupeak.encoders import EncoderSpec
from gpupeak.errors import counted
from gpupeak.run import extract
from gpupeak.storage.places import local
from gpupeak.tally import Observer, RunReport
from gpupeak.types import Outcome, Place, Sample

if TYPE_CHECKING:
    from gpupeak.check.verify import Verification


def repair(
    config: ExtractConfig,
    found: Iterable[Verification],
    observer: Observer | None = None,
    stop: threading.Event | None = None,
) -> RunReport:
    """Extract what `found` says is missing or wrong, by the same settings, and nothing else; raises as `extract`."""
    again = {f"{each.directory}/{name}.npy" for each in found for name in each.mendable}
    return extract(dataclasses.replace(config, overwrite=False), observer, stop, again=again)


def extract_aside(
    config: ExtractConfig, spec: EncoderSpec, samples: Sequence[Sample], tell: Callable[[str], None]
) -> Iterator[tuple[Sample, Outcome, str]]:
    """Extract samples into a temporary directory; yield each, its outcome, and the device.

    The outcome's `target` is there until the next one is asked for.
    """
    from gpupeak.lines.build import build  # torch is imported here, where there is work for it

    n = max(sample.rule.n for sample in samples)
    if config.engine is None:
        config = fitted(config, n, spec.size, len(samples), tell)
    with (
        tempfile.TemporaryDirectory(prefix="gpupeak-verify-") as directory,
        contextlib.closing(build(config, spec, n, tell)) as line,
    ):
        tell(f"extracting {counted(len(samples), 'sample')} again")
        of: dict[Place, Sample] = {Path(directory) / f"{i}.npy": sample for i, sample in enumerate(samples)}
        for outcome in line.run(dataclasses.replace(sample, target=target) for target, sample in of.items()):
            target = outcome.sample.target
            yield of[target], outcome, line.device
            local(target).unlink(missing_ok=True)
