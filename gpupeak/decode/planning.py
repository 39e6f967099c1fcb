"""From a sample to the frames that are wanted of its video, and why."""

from __future__ import annotations

from gpupeak.errors import SampleError
from gpupeak.peaks.reading import read_peak
from gpupeak.sampling import choose
from gpupeak.storage.places import local
from gpupeak.types import FramePlan, Peak, Place, Sample


def video_of(sample: Sample) -> Place:
    """Where its video is, or its file of faces. Raises SampleError if there is none."""
    if sample.video is None:
        what = "video file" if sample.stream == "frame" else ".npy file of faces"
        raise SampleError("find", f"no {what} of this name")
    return sample.video


def plan_frames(sample: Sample, frames: int, codec: str) -> FramePlan:
    """Plan a sample whose video has `frames` presented frames. Raises SampleError without a peak if that is to fail."""
    rule = sample.rule
    peak = None
    if rule.method == "emotion_peak":
        peak = read_peak(sample.name, [local(each) for each in sample.au_dirs], rule.peak_source)
    choice = choose(rule, sample.name, frames, peak)
    found = peak if isinstance(peak, Peak) else None
    return FramePlan(sample, choice.indices, frames, codec, found, choice.fallback, choice.clamp)
