"""What would `extract` do? Samples, videos, peaks and finished work are counted; of videos a few starts are read."""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from gpupeak.config import ExtractConfig
from gpupeak.corpora.peaks import read_peaks
from gpupeak.encode.weights.identity import identify
from gpupeak.encoders import EncoderSpec, encoder_spec
from gpupeak.errors import counted, few, mistaken
from gpupeak.features.remote import copies_below
from gpupeak.run import Job, prepare
from gpupeak.storage.files import open_bounded
from gpupeak.storage.overlap import overlapped
from gpupeak.storage.places import place
from gpupeak.tally import Watch, unwatched
from gpupeak.types import Peak, Place

_NAMED = 5
_LOOKED_AT = 32  # videos


@dataclass(frozen=True, slots=True)
class Plan:
    """What `extract` with the same settings would find and do in one dataset.

    `stale` samples have features of other frames than would be taken now; `peaks` and `no_peak` count samples by source
    and by reason; `bytes_to_write` is for those whose video is there.
    """

    dataset: str
    directory: Place
    listed: int
    expected: int | None
    done: int
    stale: int
    missing_videos: int
    missing_first: tuple[str, ...]
    peaks: Counter[str]
    no_peak: Counter[str]
    refused: tuple[str, ...]
    bytes_to_write: int
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**values, "directory": str(self.directory)}


def plan(config: ExtractConfig, watch: Watch = unwatched) -> tuple[Plan, ...]:
    """Plan every dataset of `config`. Raises UsageError for whatever `extract` would refuse."""
    spec = encoder_spec(config.encoder)
    weights = identify(spec, config.weights)
    with copies_below(place(config.output_root)) as copies:
        return tuple(_plan(job, spec, config, watch) for job in prepare(config, spec, weights, copies))


def _plan(job: Job, spec: EncoderSpec, config: ExtractConfig, watch: Watch) -> Plan:
    tally = job.tally
    peaks, no_peak = Counter[str](), Counter[str]()
    if job.corpus.rule.method == "emotion_peak":
        unread = [sample for sample in job.samples if sample.name not in job.peaks]
        read = watch(read_peaks(unread, config), len(unread), description=tally.dataset)
        for peak in chain(job.peaks.values(), (peak for _, peak in read)):
            if isinstance(peak, Peak):
                peaks[peak.source] += 1
            else:
                no_peak[peak.reason] += 1
    missing = [sample.name for sample in job.pending if sample.video is None]
    return Plan(
        dataset=tally.dataset,
        directory=tally.directory,
        listed=tally.listed,
        expected=tally.expected,
        done=tally.skipped,
        stale=tally.stale,
        missing_videos=len(missing),
        missing_first=tuple(missing[:_NAMED]),
        peaks=peaks,
        no_peak=no_peak,
        refused=tuple(failed.sample.name for failed in job.refused),
        bytes_to_write=job.bytes_to_write(spec.dim),
        warnings=(
            *job.warnings,
            *_no_videos(tally.dataset, [s.video for s in job.pending if isinstance(s.video, Path)]),
        ),
    )


def _no_videos(dataset: str, files: Sequence[Path]) -> Iterator[str]:
    """What downloads have left in the place of videos. Whether they have is told by a few, spread over all: where files
    are slow to open, looking at each takes as long as finding its peak."""
    if any(map(_begins, files[:: len(files) // _LOOKED_AT + 1])):
        found: dict[str, list[str]] = {}
        for file, told in zip(files, overlapped(_begins, files), strict=True):
            if told:
                found.setdefault(told, []).append(file.name)
        for told, names in found.items():
            each = ", each" * (len(names) > 1)
            yield f"{dataset}: {counted(len(names), 'file')} ({few(names)}){each} {told}"


def _begins(file: Path) -> str | None:
    with suppress(OSError), open_bounded(file, sys.maxsize) as stream:  # which waits for no pipe
        return mistaken(stream.read(100))
    return None
