"""Looking without decoding: what a run would do (`survey`), what one video holds and what is extracted (`examine`)."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpupeak.check.verify import read_checked
from gpupeak.config import ExtractConfig
from gpupeak.corpora.datasets import VIDEO_EXTENSIONS, Corpus, count_peaks, list_samples, resolve
from gpupeak.decode.faces import open_faces
from gpupeak.decode.planning import plan_frames
from gpupeak.decode.pool import WorkerPool
from gpupeak.decode.worker import Done
from gpupeak.encode.weights.identity import identify
from gpupeak.encoders import EncoderSpec, encoder_spec
from gpupeak.errors import ConfigError, LabelError, SampleError
from gpupeak.features.directory import FeatureDirectory
from gpupeak.features.npy import npy_header
from gpupeak.features.records import FAILED, KEPT, ManifestLine, is_record, read_manifest
from gpupeak.features.remote import copied, copies_below
from gpupeak.peaks.sources import PEAK_SOURCES
from gpupeak.run import Job, feature_place, prepare, settings_of
from gpupeak.storage.fetching import at_hand
from gpupeak.storage.files import is_file
from gpupeak.storage.places import is_there, local, place
from gpupeak.types import FramePlan, Place, Sample, SamplingRule, Url
from gpupeak.video.container import open_clip

_NAMED = 5


@dataclass(frozen=True, slots=True)
class Survey:
    """What `extract` with the same settings would find and do in one dataset.

    `peaks` counts samples by the source of their peak and `no_peak` those without one by reason, both
    empty unless the sampling is emotion_peak; `done` are samples that would be skipped; `bytes_to_write`
    is for the others whose video is there.
    """

    dataset: str
    directory: Place
    listed: int
    expected: int | None
    done: int
    missing_videos: int
    missing_first: tuple[str, ...]
    peaks: Counter[str]
    no_peak: Counter[str]
    refused: tuple[str, ...]
    bytes_to_write: int
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The survey as plain JSON values."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**values, "directory": str(self.directory)}


def survey(config: ExtractConfig) -> tuple[Survey, ...]:
    """Survey every dataset of `config`; reads labels, directories and action-unit files, opens no video.

    Raises:
        UsageError: whatever `extract` would refuse.
    """
    spec = encoder_spec(config.encoder)
    weights = identify(spec, config.weights)
    with copies_below(place(config.output_root)) as copies:
        return tuple(_survey(job, spec, config) for job in prepare(config, spec, weights, copies))


def _survey(job: Job, spec: EncoderSpec, config: ExtractConfig) -> Survey:
    rule, tally = job.corpus.rule, job.tally
    found = count_peaks(job.samples if rule.method == "emotion_peak" else (), config)
    missing = [sample.name for sample in job.pending if sample.video is None]
    file_size = len(npy_header((rule.n, spec.dim))) + 4 * rule.n * spec.dim
    return Survey(
        dataset=tally.dataset,
        directory=tally.directory,
        listed=tally.listed,
        expected=tally.expected,
        done=tally.skipped,
        missing_videos=len(missing),
        missing_first=tuple(missing[:_NAMED]),
        peaks=Counter({source: count for source, count in found.items() if source in PEAK_SOURCES}),
        no_peak=Counter({reason: count for reason, count in found.items() if reason not in PEAK_SOURCES}),
        refused=tuple(failed.sample.name for failed in job.refused),
        bytes_to_write=(len(job.pending) - len(missing)) * file_size,
        warnings=tuple(job.warnings),
    )


@dataclass(frozen=True, slots=True)
class Extracted:
    """What lies in the output root for one sample.

    Args:
        file: where its features are, or would be.
        state: "whole", with their form; "none"; or what is wrong with the file.
        recorded: what the manifest tells of it; None without a manifest's line.
        indices: the frames that the manifest names, empty if it names none.
        agrees: whether these are the frames that would be taken now; None if it names none.
        made_by: what `run.json` tells of the run that made the directory, in a line; None if nothing.
        problem: why features made now would be of another kind, or the record cannot be read; None if neither.
    """

    file: Place
    state: str
    recorded: str | None
    indices: tuple[int, ...]
    agrees: bool | None
    made_by: str | None
    problem: str | None

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**values, "file": str(self.file), "indices": list(self.indices)}


@dataclass(frozen=True, slots=True)
class Examination:
    """One video, and the frames that would be taken of it.

    `times` are the presentation times of the chosen frames in seconds, `key_frames` presentation
    numbers, `packets_needed` how many of the stream's `packets` decoding them takes; of faces, which are no
    video, these are empty. `extracted` is None for a video that is of no dataset.
    """

    sample: Sample
    plan: FramePlan
    width: int
    height: int
    fps: float | None
    key_frames: tuple[int, ...]
    packets: int
    packets_needed: int
    times: tuple[float, ...]
    extracted: Extracted | None = None

    def to_json(self) -> dict[str, Any]:
        """The examination as plain JSON values."""
        plan = self.plan
        peak = plan.peak and {**dataclasses.asdict(plan.peak), "file": str(plan.peak.file)}
        return {
            "sample": str(self.sample),
            "video": str(self.sample.video),
            "codec": plan.codec,
            "width": self.width,
            "height": self.height,
            "frames": plan.frames,
            "fps": self.fps,
            "key_frames": list(self.key_frames),
            "packets": self.packets,
            "packets_needed": self.packets_needed,
            "peak": peak,
            "sampling": self.sample.rule.method,
            "indices": list(plan.indices),
            "times": list(self.times),
            "fallback": None if plan.fallback is None else dataclasses.asdict(plan.fallback),
            "clamp": plan.clamp,
            "extracted": self.extracted and self.extracted.to_json(),
        }


def examine(config: ExtractConfig, target: str) -> Examination:
    """Plan one sample as `extract` would, and say what its video is and what lies in the output root for it.

    Its video is opened in a process that decodes for `extract`: what it does to libav it does there.

    Args:
        target: a video's path or URL, or the name of a sample in the datasets of `config` (`name`, or
            `dataset/name`). For a path, action units are looked for in `aus` or `mer_factory_output`.

    Raises:
        UsageError: `target` is neither, or a setting is wrong.
        RunError: the output root cannot be read.
        SampleError: the video cannot be planned.
    """
    with copies_below(place(config.output_root)) as copies:
        return _examine(config, copies, target)


def _examine(config: ExtractConfig, copies: Path | None, target: str) -> Examination:
    sample, corpus = _find(config, target)
    pool = WorkerPool(1, n=1, size=1, time_limit=config.time_limit, held=0)
    with contextlib.closing(pool):
        (done,) = pool.perform([ExamineTask(sample)])
    if not isinstance(done, Done):
        raise SampleError(done.stage, done.reason)
    found: Examination = done.value
    if corpus is None:
        return found
    return dataclasses.replace(found, extracted=_extracted(found.plan, corpus, config, copies))


@dataclass(frozen=True, slots=True)
class ExamineTask:
    """The examination of a sample, for a worker to make."""

    sample: Sample

    def __call__(self) -> Examination:
        sample = self.sample
        if sample.video is None:
            raise SampleError("find", f"no {'video' if sample.stream == 'frame' else '.npy'} file of this name")
        with at_hand(sample) as found:
            video = local(found.here.video or Path())
            seen = _of_video(found.here, video) if sample.stream == "frame" else _of_faces(found.here, video)
            return dataclasses.replace(seen, sample=sample, plan=found.restored(seen.plan))


def _of_faces(sample: Sample, file: Path) -> Examination:
    faces = open_faces(file)
    height, width = faces.shape[1:3]
    plan = plan_frames(sample, len(faces), "faces")
    return Examination(sample, plan, width, height, None, (), 0, 0, ())


def _of_video(sample: Sample, video: Path) -> Examination:
    with open_clip(video) as clip:
        plan = plan_frames(sample, clip.frames, clip.codec)
        return Examination(
            sample=sample,
            plan=plan,
            width=clip.width,
            height=clip.height,
            fps=clip.fps,
            key_frames=tuple(clip.key_frames),
            packets=clip.packets,
            packets_needed=len(clip.needed(plan.unique)),
            times=tuple(clip.times[index] for index in plan.indices),
        )


def _extracted(plan: FramePlan, corpus: Corpus, config: ExtractConfig, copies: Path | None) -> Extracted:
    sample, rule, spec = plan.sample, corpus.rule, encoder_spec(config.encoder)
    target = feature_place(config, corpus, spec)
    directory = copied(target, copies, lambda name: is_record(name) or name == f"{sample.name}.npy")
    file = directory / f"{sample.name}.npy"
    state = "none"
    if os.path.lexists(file):
        features = read_checked(file, rule.n, spec.dim)
        state = features if isinstance(features, str) else f"whole, float32 {list(features.shape)}"
    line: ManifestLine | None = None
    problem: str | None = None
    run: dict[str, Any] | None = None
    try:
        for each in read_manifest(directory):
            line = each if each.sample == sample.name else line
        there = FeatureDirectory(directory, rule.n, spec.dim)
        if run := there.run:
            if run.get("overwriting"):
                problem = "a run with --overwrite was cut short: some files are still those from before it"
            there.refuse_mixing(settings_of(corpus, spec, identify(spec, config.weights)))
    except ConfigError as error:
        problem = str(error).replace(str(directory), str(target))
    taken = line.indices if line else ()
    return Extracted(
        target / f"{sample.name}.npy",
        state,
        _recorded(line) if line else None,
        taken,
        taken == plan.indices if taken else None,
        _made_by(run) if run else None,
        problem,
    )


def _recorded(line: ManifestLine) -> str:
    if line.outcome == FAILED:
        return f"failed: {line.failure}"
    return "kept, of unknown origin" if line.outcome == KEPT else line.outcome


def _made_by(run: dict[str, Any]) -> str:
    """The line for a `run.json`, which may hold anything."""

    def of(section: str, key: str) -> object:
        values = run.get(section)
        return values.get(key) if isinstance(values, dict) else None

    told = f"gpupeak {of('versions', 'gpupeak')} on {run.get('device')}, weights {of('settings', 'weights')}"
    return f"{told}, {run.get('started')}"


def _find(config: ExtractConfig, target: str) -> tuple[Sample, Corpus | None]:
    """The sample that is meant, and its dataset if it is of one."""
    config = dataclasses.replace(config, limit=None)
    path = place(target)
    own_video = is_there(path) if isinstance(path, Url) else is_file(path)
    if own_video and config.stream != "frame":
        rule = SamplingRule("uniform", config.n_frms or SamplingRule().n)
        return Sample(config.name or "video", path.stem, path, (), rule, Path(f"{path.stem}.npy"), config.stream), None
    if own_video:
        own = dataclasses.replace(
            config,
            datasets=(),
            videos=target,
            name=config.name or "video",
            aus=config.aus or config.mer_factory_output,
            samples=None,
        )
        wanted, config = path.stem, own
    elif isinstance(path, Url) or path.is_absolute() or path.suffix.lower() in VIDEO_EXTENSIONS:
        raise ConfigError(f"there is no video {path}")
    else:
        dataset, _, wanted = target.rpartition("/")
        if dataset:
            config = dataclasses.replace(config, datasets=(dataset,))
    named, listed = bool(config.datasets or config.videos), 0
    for corpus in resolve(config, absent=not named):
        try:
            samples = list_samples(corpus, Path()).samples
        except LabelError:
            if named:
                raise
            continue  # of all the datasets, those that are there are searched
        listed += 1
        for entry in samples:
            if isinstance(entry, Sample) and entry.name == wanted:
                return entry, None if own_video else corpus
    if not listed:
        resolve(config)  # which says what is not there
    raise ConfigError(
        f"{target!r} is neither a video file nor a sample of {', '.join(config.datasets) or 'the datasets'}"
    )
