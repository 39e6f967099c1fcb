"""Looking without decoding: what a run would do (`survey`), and what one video holds (`examine`)."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpupeak.config import ExtractConfig
from gpupeak.container import open_clip
from gpupeak.datasets import VIDEO_EXTENSIONS, count_peaks, list_samples, resolve
from gpupeak.encode.spec import EncoderSpec, encoder_spec
from gpupeak.encode.weights import identify
from gpupeak.errors import ConfigError, SampleError
from gpupeak.plan import plan_frames
from gpupeak.run import Job, prepare
from gpupeak.store import npy_header
from gpupeak.types import PEAK_SOURCES, FramePlan, Sample

__all__ = ["Examination", "Survey", "examine", "survey"]

_NAMED = 5


@dataclass(frozen=True, slots=True)
class Survey:
    """What `extract` with the same settings would find and do in one dataset.

    `peaks` counts samples by the source of their peak and `no_peak` those without one by reason, both
    empty unless the sampling is emotion_peak; `done` are samples that would be skipped; `bytes_to_write`
    is for the others whose video is there.
    """

    dataset: str
    directory: Path
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
    return tuple(_survey(prepare(corpus, config, spec, weights), spec) for corpus in resolve(config))


def _survey(job: Job, spec: EncoderSpec) -> Survey:
    rule, tally = job.corpus.rule, job.tally
    found = count_peaks(job.samples if rule.method == "emotion_peak" else ())
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
class Examination:
    """One video, and the frames that would be taken of it.

    `times` are the presentation times of the chosen frames in seconds, `key_frames` presentation
    numbers, `packets_needed` how many of the stream's `packets` decoding them takes.
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

    def to_json(self) -> dict[str, Any]:
        """The examination as plain JSON values."""
        plan = self.plan
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
            "peak": None if plan.peak is None else {**dataclasses.asdict(plan.peak), "file": str(plan.peak.file)},
            "sampling": self.sample.rule.method,
            "indices": list(plan.indices),
            "times": list(self.times),
            "fallback": None if plan.fallback is None else dataclasses.asdict(plan.fallback),
            "clamp": plan.clamp,
        }


def examine(config: ExtractConfig, target: str) -> Examination:
    """Plan one sample as `extract` would, and say what its video is.

    Args:
        target: a video's path, or the name of a sample in the datasets of `config` (`name`, or
            `dataset/name`). For a path, action units are looked for in `aus` or `mer_factory_output`.

    Raises:
        ConfigError: `target` is neither.
        SampleError: the video cannot be planned.
    """
    sample = _find(config, target)
    if sample.video is None:
        raise SampleError("find", "no video file of this name")
    with open_clip(sample.video) as clip:
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


def _find(config: ExtractConfig, target: str) -> Sample:
    path = Path(target).expanduser()
    if path.is_file():
        own = dataclasses.replace(
            config,
            datasets=(),
            videos=path,
            name=config.name or "video",
            aus=config.aus or config.mer_factory_output,
            samples=None,
            limit=None,
        )
        wanted, config = path.stem, own
    elif path.suffix.lower() in VIDEO_EXTENSIONS:
        raise ConfigError(f"there is no video {path}")
    else:
        dataset, _, wanted = target.rpartition("/")
        if dataset:
            config = dataclasses.replace(config, datasets=(dataset,), limit=None)
    for corpus in resolve(config):
        for entry in list_samples(corpus, Path()).samples:
            if isinstance(entry, Sample) and entry.name == wanted:
                return entry
    raise ConfigError(
        f"{target!r} is neither a video file nor a sample of {', '.join(config.datasets) or 'the datasets'}"
    )
