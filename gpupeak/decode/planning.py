"""From a sample to the frames that are wanted of its video, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from gpupeak.errors import SampleError
from gpupeak.peaks.reading import read_peak
from gpupeak.sampling import choose
from gpupeak.storage.places import local
from gpupeak.types import FileStamp, FramePlan, Peak, Place, Sample
from gpupeak.video.container import KNOWN_MATRICES, KNOWN_TRANSFERS, Clip

_NEAR = 2  # frames that programs count otherwise at the end of a video
_PART = 0.02  # of the frames, in the same way


def video_of(sample: Sample) -> Place:
    """Where its video is, or its file of faces. Raises SampleError if there is none."""
    if sample.video is None:
        what = "video file" if sample.stream == "frame" else ".npy file of faces"
        raise SampleError("find", f"no {what} of this name")
    return sample.video


def plan_frames(sample: Sample, frames: int, codec: str, files: tuple[FileStamp, ...] = ()) -> FramePlan:
    """Plan a sample whose video has `frames` presented frames. Raises SampleError without a peak if that is to fail."""
    rule = sample.rule
    peak = None
    if rule.method == "emotion_peak":
        peak = read_peak(sample.name, [local(each) for each in sample.au_dirs], rule)
    choice = choose(rule, sample.name, frames, peak)
    found = peak if isinstance(peak, Peak) else None
    warnings = tuple(_doubts(choice.indices, frames, found))
    told = choice.fallback, choice.clamp
    return FramePlan(sample, choice.indices, frames, codec, found, *told, files=files, warnings=warnings)


def plan_clip(sample: Sample, clip: Clip, files: tuple[FileStamp, ...] = ()) -> FramePlan:
    """`plan_frames` for a sample's open video."""
    plan = plan_frames(sample, clip.frames, clip.codec, files)
    return replace(plan, recounted=clip.recounted, warnings=(*plan.warnings, *_oddities(clip)))


def _oddities(clip: Clip) -> Iterator[str]:
    if clip.colorspace not in KNOWN_MATRICES:
        yield f"colours of matrix {clip.colorspace}, taken for BT.601"
    if clip.transfer not in KNOWN_TRANSFERS:
        yield f"colours of transfer {clip.transfer}, taken for BT.601"
    if clip.ends_early:
        yield "the file ends early: cut, or still being copied"


def _doubts(indices: tuple[int, ...], frames: int, peak: Peak | None) -> Iterator[str]:
    if frames == 1:
        yield "the video has a single frame"
    elif peak is not None and len(indices) > 1 and len(set(indices)) == 1:
        yield f"all {len(indices)} frames are the same one"
    if peak is not None:
        last = min(frames, max(1, peak.total or frames)) - 1
        if not -_NEAR <= peak.index <= last + _NEAR:
            yield f"the peak is more than {_NEAR} frames outside of the video"
        counted = peak.rows or peak.total or frames
        if abs(counted - frames) > max(_NEAR, _PART * frames):
            yield "the action-unit file tells of another number of frames than the video has"
        if peak.face is not None:
            yield "the action-unit file shows several people, of whom one was chosen"
