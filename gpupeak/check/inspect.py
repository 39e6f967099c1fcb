"""What is in one video, which of its frames would be taken, and what of it is extracted?"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpupeak.config import ExtractConfig
from gpupeak.corpora.corpus import Corpus, resolve
from gpupeak.corpora.samples import VIDEO_EXTENSIONS, list_samples
from gpupeak.decode.faces import open_faces
from gpupeak.decode.libav import decode_clip
from gpupeak.decode.planning import plan_clip, plan_frames, video_of
from gpupeak.decode.pool import WorkerPool
from gpupeak.decode.resources import refuse_excess
from gpupeak.decode.worker import Done
from gpupeak.encode.weights.identity import identify, meaningless
from gpupeak.encoders import encoder_spec
from gpupeak.errors import ConfigError, LabelError, SampleError
from gpupeak.features.directory import FeatureDirectory
from gpupeak.features.npy import read_checked
from gpupeak.features.records import KEPT, ManifestLine, is_record, read_manifest, read_records
from gpupeak.features.remote import copied, copies_below
from gpupeak.run import feature_place, settings_of
from gpupeak.storage.fetching import at_hand
from gpupeak.storage.files import is_file
from gpupeak.storage.places import is_there, local, place
from gpupeak.types import FramePlan, Place, Sample, SamplingRule, Url
from gpupeak.video.container import open_clip


@dataclass(frozen=True, slots=True)
class Extracted:
    """What lies in the output root for one sample.

    `state` is "whole", with the form of the features, "none", or what is wrong with the file; `recorded` and `indices`
    are the manifest's; `agrees` says whether these frames would be taken now; `problem` why features made now would
    be of another kind, or the record cannot be read; `marks` what is to be known of all features that lie there.
    """

    file: Place
    state: str
    recorded: str | None
    indices: tuple[int, ...]
    agrees: bool | None
    problem: str | None
    marks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Inspection:
    """One video, and the frames that would be taken of it.

    `times` are those of the chosen frames in seconds, `key_frames` presentation numbers; decoding takes
    `packets_needed` of `packets`. Of faces these are empty; `extracted` is None for a video that is of no dataset.
    """

    plan: FramePlan
    width: int
    height: int
    fps: float | None = None
    key_frames: tuple[int, ...] = ()
    packets: int = 0
    packets_needed: int = 0
    times: tuple[float, ...] = ()
    extracted: Extracted | None = None

    def to_json(self) -> dict[str, Any]:
        plan, there = self.plan, self.extracted
        video = ("width", "height", "fps", "key_frames", "packets", "packets_needed", "times")
        return {
            "sample": str(plan.sample),
            "video": str(plan.sample.video),
            "sampling": plan.sample.rule.method,
            **{name: getattr(self, name) for name in video},
            **{name: getattr(plan, name) for name in ("codec", "frames", "recounted", "indices", "clamp", "warnings")},
            "peak": plan.peak and {**dataclasses.asdict(plan.peak), "file": str(plan.peak.file)},
            "fallback": plan.fallback and dataclasses.asdict(plan.fallback),
            "extracted": there and {**dataclasses.asdict(there), "file": str(there.file)},
        }


def inspect_video(config: ExtractConfig, target: str) -> Inspection:
    """Plan one sample as `extract` would, and say what its video is and what lies in the output root for it.

    `target` is a video's path or URL, or `name` or `dataset/name` of a sample; UsageError if it is neither. The video
    is opened in a process of its own; SampleError if it cannot be planned.
    """
    with copies_below(place(config.output_root)) as copies:
        sample, corpus = _find(config, target)
        refuse_excess(config, sample.rule.n, encoder_spec(config.encoder).size)
        pool = WorkerPool(1, n=1, size=1, time_limit=config.time_limit, held=0)
        with contextlib.closing(pool):
            (done,) = pool.perform([InspectTask(sample)])
        if not isinstance(done, Done):
            raise SampleError(done.stage, done.reason)
        found: Inspection = done.value
        if corpus is None:
            return found
        return dataclasses.replace(found, extracted=_extracted(found.plan, corpus, config, copies))


@dataclass(frozen=True, slots=True)
class InspectTask:
    """The inspection of a sample, for a worker to make."""

    sample: Sample

    def __call__(self) -> Inspection:
        with at_hand(self.sample) as found:
            video = local(video_of(found.here))
            if self.sample.stream == "frame":
                seen = _of_video(found.here, video)
            else:
                frames, height, width, _ = open_faces(video).shape
                seen = Inspection(plan_frames(found.here, frames, "faces"), width, height)
            return dataclasses.replace(seen, plan=found.restored(seen.plan))


def _of_video(sample: Sample, video: Path) -> Inspection:
    with open_clip(video) as clip:
        try:
            decode_clip(clip, plan_clip(sample, clip).unique)
        except SampleError:  # decoding them may tell that they are others, or that there are none
            if not clip.frames:
                raise
        plan = plan_clip(sample, clip)
        return Inspection(
            plan,
            clip.width,
            clip.height,
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
    try:
        for each in read_manifest(directory):
            line = each if each.sample == sample.name else line
        there = FeatureDirectory(directory, rule.n, spec.dim)
        if there.overwriting:
            problem = "a run with --overwrite was cut short: some files are still those from before it"
        there.refuse_mixing(settings_of(corpus, spec, identify(spec, config.weights)))
    except ConfigError as error:
        problem = str(error).replace(str(directory), str(target))
    taken = line.indices if line else ()
    recorded = None if line is None else "kept, of unknown origin" if line.outcome == KEPT else line.outcome
    if line is not None and line.failure is not None:
        recorded = f"failed: {line.failure}"
    agrees = taken == plan.indices if taken else None
    marks = tuple(meaningless(read_records(directory, strict=False).weights))
    return Extracted(target / f"{sample.name}.npy", state, recorded, taken, agrees, problem, marks)


def _find(config: ExtractConfig, target: str) -> tuple[Sample, Corpus | None]:
    path = place(target)
    own_video = is_there(path) if isinstance(path, Url) else is_file(path)
    wanted = path.stem
    if own_video and config.stream != "frame":
        rule = SamplingRule("uniform", config.n_frms or SamplingRule().n)
        return Sample(config.name or "video", wanted, path, (), rule, Path(f"{wanted}.npy"), config.stream), None
    config = dataclasses.replace(config, limit=None)
    if own_video:
        name, aus = config.name or "video", config.aus or config.mer_factory_output
        config = dataclasses.replace(config, datasets=(), videos=target, name=name, aus=aus, samples=None)
    elif isinstance(path, Url) or path.is_absolute() or path.suffix.lower() in VIDEO_EXTENSIONS:
        raise ConfigError(f"there is no video {path}")
    else:
        dataset, _, wanted = target.rpartition("/")
        config = dataclasses.replace(config, datasets=(dataset,)) if dataset else config
    named, listed = bool(config.datasets or config.videos), False
    passed_over = () if named else (LabelError,)  # of all the datasets, those that are there are searched
    for corpus in resolve(config, absent=not named):
        with contextlib.suppress(*passed_over):
            for entry in list_samples(corpus, Path()).samples:
                if isinstance(entry, Sample) and entry.name == wanted:
                    return entry, None if own_video else corpus
            listed = True
    if not listed:
        resolve(config)  # which says what is not there
    searched = ", ".join(config.datasets) or "the datasets"
    raise ConfigError(f"{target!r} is neither a video file nor a sample of {searched}")
