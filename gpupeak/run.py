"""One extraction from its settings to its report: list, refuse or skip, build, run the line, record."""

from __future__ import annotations

import contextlib
import gc
import platform
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gpupeak._version import __version__
from gpupeak.config import ExtractConfig
from gpupeak.corpora.corpus import Corpus, resolve
from gpupeak.corpora.peaks import read_peaks, require_peaks
from gpupeak.corpora.samples import list_all, require_videos
from gpupeak.corpora.shards import assign
from gpupeak.decode.resources import fitted, refuse_excess
from gpupeak.encode.weights.identity import WeightsId, identify, meaningless
from gpupeak.encoders import EncoderSpec, encoder_spec
from gpupeak.errors import ConfigError, counted, few
from gpupeak.features.directory import FeatureDirectory
from gpupeak.features.fresh import find_stale
from gpupeak.features.layout import feature_directory, is_feature_directory
from gpupeak.features.npy import npy_header
from gpupeak.features.records import WHERE_ASKED
from gpupeak.features.remote import copies_below
from gpupeak.storage.fetching import video_bytes
from gpupeak.storage.files import is_file
from gpupeak.storage.overlap import overlapped
from gpupeak.storage.places import names, place
from gpupeak.tally import Observer, RunReport, Tally, warned_of
from gpupeak.types import Failed, NoPeak, Outcome, Peak, Place, Sample

_EVEN = 1000  # samples a shard from which their number balances by itself, and no video's size is asked for


def extract(
    config: ExtractConfig,
    observer: Observer | None = None,
    stop: threading.Event | None = None,
    *,
    again: Collection[str] = (),
) -> RunReport:
    """Extract features as `config` says; samples that are already there are skipped, but for the files `again`.

    When `stop` is set, what is being encoded is finished and written, and the report says `interrupted`.

    Raises UsageError if the settings or the input lists are wrong, before anything is decoded; RunError if the run
    could not go on: what was saved stays, and the next run goes on from there.
    """
    began, observer, stop = time.monotonic(), observer or Observer(), stop or threading.Event()
    spec = encoder_spec(config.encoder)
    notices: list[str] = []

    def tell(text: str) -> None:
        notices.append(text)
        observer.notice(text)

    weights = identify(spec, config.weights)
    device = None
    with copies_below(place(config.output_root)) as copies, contextlib.ExitStack() as directories:
        jobs = prepare(config, spec, weights, copies, again)
        tallies = tuple(job.tally for job in jobs)
        if config.shard is not None:
            mine, whole = sum(tally.listed for tally in tallies), sum(len(job.names) for job in jobs)
            tell(f"shard {config.shard}: {mine} of {counted(whole, 'sample')}")
        for job in jobs:
            directories.enter_context(job.directory)
            if job.directory.unguarded:
                tell(f"{job.directory.place}: this file system has no locks: let no second run write here meanwhile")
        for job in jobs:
            job.directory.refuse_mixing(settings_of(job.corpus, spec, weights), overwrite=config.overwrite)
            if config.shard is None:
                job.directory.absorb(job.names, overwrite=config.overwrite)
            for warning in job.warnings:
                tell(warning)
        observer.started(tallies)
        if any(job.pending or job.refused for job in jobs) and not stop.is_set():
            device = _run(jobs, config, spec, observer, tell, stop)
        for job in jobs:
            job.tally.close()
            if job.tally.saved or job.tally.skipped:
                job.tally.warnings += meaningless(weights.source)
            if left := job.directory.finish(job.names):
                where = f"{counted(left, 'file')} in {job.tally.directory}"
                job.tally.warnings.append(f"{job.corpus.name}: {where} still from before --overwrite")
    interrupted = stop.is_set() and any(tally.not_reached for tally in tallies)
    return RunReport(tallies, time.monotonic() - began, device, interrupted, tuple(notices))


@dataclass(slots=True)
class Job:
    """One dataset of a run: `pending` samples are to be worked on, `refused` ones have names that are no file names.

    `names` are those of all its samples in the order of their list; the others are the run's own, or its shard's.
    `again` are those of `pending` whose files are there: what is recorded of them holds until they are made again.
    `peaks` are those that are known by now, by the samples' names.
    """

    corpus: Corpus
    directory: FeatureDirectory
    names: list[str]
    samples: list[Sample]
    done: set[str]
    pending: list[Sample]
    again: set[str]
    refused: list[Failed]
    warnings: list[str]
    tally: Tally
    peaks: dict[str, Peak | NoPeak]

    def bytes_to_write(self, dim: int) -> int:
        """For the samples whose video is there."""
        n, count = self.corpus.rule.n, sum(sample.video is not None for sample in self.pending)
        return count * (len(npy_header((n, dim))) + 4 * n * dim)


def feature_place(config: ExtractConfig, corpus: Corpus, spec: EncoderSpec) -> Place:
    """The directory that the features of a dataset go to."""
    rule = corpus.rule
    return feature_directory(place(config.output_root), corpus.name, spec.directory, rule.method, rule.n, corpus.stream)


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """The garbage collector would go through a million small values again and again, none of them in a cycle."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@uncollected()
def prepare(
    config: ExtractConfig,
    spec: EncoderSpec,
    weights: WeightsId,
    copies: Path | None = None,
    again: Collection[str] = (),
    *,
    look: bool = True,
) -> list[Job]:
    """List the datasets and see what is done in them, writing nothing; records of stores go to `copies`.

    Raises UsageError: all that can be refused about a dataset is refused here. Without `look` no finished file is
    looked at: each counts by its name, and what is refused is what would be if none were there.
    """
    corpora = resolve(config)
    refuse_excess(config, max(corpus.rule.n for corpus in corpora), spec.size, len(corpora))
    targets = [feature_place(config, corpus, spec) for corpus in corpora]
    _refuse_place(corpora, place(config.output_root))
    listings = list_all(corpora, targets)
    taken = _taken([listing.samples for listing in listings], config)
    jobs = []
    for corpus, target, listing, mine in zip(corpora, targets, listings, taken, strict=True):
        tag = None if config.shard is None else config.shard.tag
        directory = FeatureDirectory(target, corpus.rule.n, spec.dim, tag, copies)
        directory.refuse_mixing(settings_of(corpus, spec, weights), overwrite=config.overwrite)
        samples = [entry for entry in mine if isinstance(entry, Sample)]
        wanted = {sample.name for sample in samples if not again or str(sample.target) not in again}
        done = set() if config.overwrite else directory.done(wanted, look=look)
        warnings, stale, peaks = list(listing.warnings), dict[str, str](), dict[str, Peak | NoPeak]()
        recorded = directory.lines(without=("raw", "seconds"))
        if done and not look:
            next(recorded, None)  # unless it cannot be read
        elif done:
            lines = {line.sample: line for line in recorded}
            finished = (sample for sample in samples if sample.name in done)
            stale = find_stale(corpus.name, finished, lines, partial(read_peaks, config=config), warnings, peaks)
            warned = Counter(text for name in done & lines.keys() for text in lines[name].warnings)
            warnings += warned_of(corpus.name, warned)
        if config.refresh:
            done -= stale.keys()
        pending = [sample for sample in samples if sample.name not in done]
        if not (done and look):
            require_videos(corpus, listing)
        if pending or not look:
            require_peaks(corpus, listing.samples, config)
        if stale and not config.refresh:
            are = "is" if len(stale) == 1 else "are"
            told = f"{counted(len(stale), 'finished sample')} {are} stale: {few(stale)}; --refresh extracts again"
            warnings.append(f"{corpus.name}: {told} (the first: {next(iter(stale.values()))})")
        if done and directory.run is None:
            told = f"{counted(len(done), 'file')} in {target} without a run.json: kept, of unknown origin"
            warnings.append(f"{corpus.name}: {told}")
        names = [_sample(entry).name for entry in listing.samples]
        refused = [entry for entry in mine if isinstance(entry, Failed)]
        tally = Tally(corpus.name, target, len(mine), None if tag else corpus.expected, skipped=len(done))
        tally.stale = len(stale)
        kept = {sample.name for sample in samples} - wanted | stale.keys()
        jobs.append(Job(corpus, directory, names, samples, done, pending, kept, refused, warnings, tally, peaks))
    return jobs


def _refuse_place(corpora: Collection[Corpus], root: Place) -> None:
    """A file holds no features, and a file system that ignores capitals would make one dataset of two."""
    if isinstance(root, Path) and (file := next(filter(is_file, (root, *root.parents)), None)):
        raise ConfigError(f"--output-root is {str(root)!r}, expected a directory: {file} is a file")
    with contextlib.suppress(OSError):
        there = names(root)
        for own in {corpus.name for corpus in corpora} - there - {root.name}:
            for other in there:
                if other.casefold() == own.casefold() and any(map(is_feature_directory, names(root / other))):
                    raise ConfigError(f"{own}: {root} has features of {other}, and capitals do not tell names apart")


def _taken(listings: list[list[Sample | Failed]], config: ExtractConfig) -> list[list[Sample | Failed]]:
    shard = config.shard
    if shard is None:
        return listings
    samples = [_sample(entry) for listing in listings for entry in listing]
    sizes = [0] * len(samples)
    if len(samples) < _EVEN * shard.count:
        sizes = [size or 0 for size in overlapped(video_bytes, samples)]
    owners = iter(assign([str(sample) for sample in samples], sizes, shard.count))
    return [[entry for entry in listing if next(owners) == shard.index] for listing in listings]


def _sample(entry: Sample | Failed) -> Sample:
    return entry.sample if isinstance(entry, Failed) else entry


def _run(
    jobs: list[Job],
    config: ExtractConfig,
    spec: EncoderSpec,
    observer: Observer,
    tell: Callable[[str], None],
    stop: threading.Event,
) -> str:
    from gpupeak.lines.build import build  # torch is imported here, where there is work for it

    n = max(job.corpus.rule.n for job in jobs)
    if config.engine is None:
        config = fitted(config, n, spec.size, sum(len(job.pending) for job in jobs), tell)
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
                job.directory.refuse_mixing(settings, overwrite=config.overwrite)
                devices = {line.device, *(() if config.overwrite else job.directory.devices)}  # earlier runs', too
                earlier = [] if config.overwrite else [v for v in job.directory.versions if v != provenance["versions"]]
                run = {"dataset": job.corpus.name, "settings": settings, **provenance, "earlier_versions": earlier}
                run["devices"] = sorted(devices)
                pending = {sample.name for sample in job.pending} - job.again
                job.directory.begin(run, done=job.done, overwrite=config.overwrite, pending=pending)
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
        options = {key: getattr(rule, key) for key in WHERE_ASKED}
        settings |= {key: value for key, value in options.items() if value is not None and value is not False}
    if rule.method == "headtail":
        settings["seed"] = rule.seed
    if corpus.stream != "frame":
        settings["stream"] = corpus.stream
    return settings


def _commit() -> dict[str, str]:
    """The commit of this source, `-dirty` where it was edited since; nothing of a package that was installed."""
    tree = Path(__file__).parents[1]
    command = ["git", "-C", str(tree), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    if not (tree / ".git").exists() or shutil.which("git") is None:
        return {}
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return {"commit": told} if told else {}


def _provenance(device: str) -> dict[str, Any]:
    return {
        "command": shlex.join(sys.argv),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": device,
        "versions": {
            "gpupeak": __version__,
            **_commit(),
            "python": platform.python_version(),
            **{name: version(name) for name in ("av", "numpy", "open_clip_torch", "torch")},
        },
    }
