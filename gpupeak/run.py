"""One extraction from its settings to its report: list, refuse or skip, build, run the line, record."""

from __future__ import annotations

import contextlib
import platform
import shlex
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gpupeak._version import __version__
from gpupeak.config import ExtractConfig
from gpupeak.datasets import Corpus, list_samples, require_peaks, resolve
from gpupeak.encode.spec import EncoderSpec, encoder_spec
from gpupeak.encode.weights import WeightsId, identify
from gpupeak.files import expanded
from gpupeak.report import Observer, RunReport, Silent, Tally
from gpupeak.store import FeatureDirectory, feature_directory
from gpupeak.types import Failed, Outcome, Sample

__all__ = ["Job", "extract", "prepare", "settings_of"]


def extract(
    config: ExtractConfig,
    observer: Observer | None = None,
    stop: threading.Event | None = None,
    *,
    again: Collection[Path] = (),
) -> RunReport:
    """Extract features as `config` says; samples that are already there are skipped.

    Args:
        observer: told of the run as it goes.
        stop: when set, what is being encoded is finished and written, and the report says `interrupted`.
        again: files that are made again although they are there, and whole to look at.

    Raises:
        UsageError: something about the settings or the input lists is wrong; nothing was decoded.
        RunError: the run could not go on. What was saved stays, and the next run goes on from there.
    """
    observer, stop = observer or Silent(), stop or threading.Event()
    began = time.monotonic()
    spec = encoder_spec(config.encoder)
    notices: list[str] = []

    def tell(text: str) -> None:
        notices.append(text)
        observer.notice(text)

    weights = identify(spec, config.weights)
    jobs = [prepare(corpus, config, spec, weights, again) for corpus in resolve(config)]
    tallies = tuple(job.tally for job in jobs)
    device = None
    with contextlib.ExitStack() as directories:
        for job in jobs:
            directories.enter_context(job.directory)
            for warning in job.warnings:
                tell(warning)
        observer.started(tallies)
        if any(job.pending or job.refused for job in jobs) and not stop.is_set():
            device = _run(jobs, config, spec, observer, tell, stop)
        for job in jobs:
            job.tally.close()
            if left := job.directory.finish():
                job.tally.warnings.append(
                    f"{job.corpus.name}: {left} files in {job.directory.path} are still those from before --overwrite"
                )
    interrupted = stop.is_set() and any(tally.not_reached for tally in tallies)
    return RunReport(tallies, time.monotonic() - began, device, interrupted, tuple(notices))


@dataclass(slots=True)
class Job:
    """One dataset of a run: `pending` samples are to be worked on, `refused` ones have names that are no file names."""

    corpus: Corpus
    directory: FeatureDirectory
    samples: list[Sample]
    done: set[str]
    pending: list[Sample]
    refused: list[Failed]
    warnings: list[str]
    tally: Tally


def prepare(
    corpus: Corpus, config: ExtractConfig, spec: EncoderSpec, weights: WeightsId, again: Collection[Path] = ()
) -> Job:
    """List one dataset and see what is done, writing nothing; `again` as in `extract`.

    Raises:
        UsageError: all that can be refused about a dataset is refused here.
    """
    rule = corpus.rule
    root = expanded(config.output_root)
    path = feature_directory(root, corpus.name, spec.directory, rule.method, rule.n, corpus.stream)
    listing = list_samples(corpus, path)
    directory = FeatureDirectory(path, rule.n, spec.dim)
    if not config.overwrite:
        directory.refuse_mixing(settings_of(corpus, spec, weights))
    samples = [entry for entry in listing.samples if isinstance(entry, Sample)]
    done = set() if config.overwrite else directory.done({s.name for s in samples if s.target not in again})
    pending = [sample for sample in samples if sample.name not in done]
    if pending:
        require_peaks(corpus, samples)
    warnings = list(listing.warnings)
    if done and directory.run is None:
        warnings.append(f"{corpus.name}: {len(done)} files in {path} have no run.json: kept, of unknown origin")
    tally = Tally(corpus.name, path, listed=len(listing.samples), expected=corpus.expected, skipped=len(done))
    refused = [entry for entry in listing.samples if isinstance(entry, Failed)]
    return Job(corpus, directory, samples, done, pending, refused, warnings, tally)


def _run(
    jobs: list[Job],
    config: ExtractConfig,
    spec: EncoderSpec,
    observer: Observer,
    tell: Callable[[str], None],
    stop: threading.Event,
) -> str:
    """Build the line, take every pending sample through it, record every outcome; return the device."""
    from gpupeak.build import build  # torch is imported here, where there is work for it

    n = max(job.corpus.rule.n for job in jobs)
    by_name = {job.corpus.name: job for job in jobs}

    def record(outcome: Outcome) -> None:
        job = by_name[outcome.sample.dataset]
        job.directory.record(outcome)
        job.tally.add(outcome)
        observer.advanced(job.tally, outcome)

    with contextlib.closing(build(config, spec, n, tell)) as line:
        weights = identify(spec, config.weights)  # known by now, even if they had to be fetched
        provenance = _provenance(line.device)
        for job in jobs:
            if job.pending or job.refused:
                settings = settings_of(job.corpus, spec, weights)
                if not config.overwrite:
                    job.directory.refuse_mixing(settings)
                devices = _devices(job, line.device)
                run = {"dataset": job.corpus.name, "settings": settings, **provenance, "devices": devices}
                job.directory.begin(run, done=job.done, overwrite=config.overwrite)
                for failed in job.refused:
                    record(failed)
        for outcome in line.run(_feed(jobs), stop):
            record(outcome)
    return line.device


def _feed(jobs: list[Job]) -> Iterator[Sample]:
    for job in jobs:
        job.tally.start()
        yield from job.pending


def settings_of(corpus: Corpus, spec: EncoderSpec, weights: WeightsId) -> dict[str, Any]:
    """What must agree between two runs into one directory, for their features to be of one kind."""
    rule = corpus.rule
    settings: dict[str, Any] = {
        "encoder": spec.name,
        "weights": weights.source,
        "weights_sha256": weights.sha256,
        "sampling": rule.method,
        "n_frms": rule.n,
    }
    if rule.method == "emotion_peak":
        settings |= {"fallback": rule.fallback, "peak_source": rule.peak_source}
    if rule.method == "headtail":
        settings |= {"seed": rule.seed}
    if corpus.stream != "frame":
        settings |= {"stream": corpus.stream}
    return settings


def _devices(job: Job, device: str) -> list[str]:
    """The devices that made what lies here when the run is over: an earlier run's, too, where files of it are kept."""
    earlier = (job.directory.run or {}) if job.done else {}
    there = earlier.get("devices")
    names = there if isinstance(there, list) else [earlier.get("device")]
    return sorted({device, *(name for name in names if isinstance(name, str))})


def _provenance(device: str) -> dict[str, Any]:
    return {
        "command": shlex.join(sys.argv),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": device,
        "versions": {
            "gpupeak": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("av", "numpy", "open_clip_torch", "torch")},
        },
    }
