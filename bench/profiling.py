"""Where does the time of a run go: in which stage, and in which of torch's operations?

    make bench PROFILE=1        one run of the real line; its trace lies beside the record

Stages are timed by the line itself, operations and kernels by torch.profiler on every thread. docs/profiling.md tells
how to read what comes out, and how py-spy and Nsight Systems look at a run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch
from record import Record, Row
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity
from workload import Scale, decode_clips, make, sample_of

from gpupeak.config import ExtractConfig
from gpupeak.decode.nvdec import nvdec_missing
from gpupeak.encoders import CLIP_VIT_LARGE, encoder_spec
from gpupeak.lines.build import build, cuda_line
from gpupeak.pipeline import Line
from gpupeak.storage.places import local
from gpupeak.types import Sample, Saved, Seconds

CPU_ENCODER = "open_clip:ViT-B-32"
"""ViT-L/14 takes two cores some 12 s a sample, beside which nothing else can be seen."""
N = 8


def profile(record: Record, scale: Scale, work: Path, out: Path) -> None:
    """A row of the stages; torch's trace of the run goes to `out`."""
    videos = make(decode_clips(scale), work / "clips").values()
    once = [sample_of(video, work / "profile", work / "aus") for video in videos]
    samples = list(repeated(once, 48 if torch.cuda.is_available() else 3))
    with closing(line(lambda text: None)) as built:
        saved(built, samples[: len(samples) // 3])  # warm
        record.row("the line", traced, built, samples, out)


def repeated(once: Sequence[Sample], times: int) -> Iterator[Sample]:
    """The same samples several times, each time as those of another data set."""
    for number in range(times):
        for sample in once:
            target = sample.target.parent / str(number) / sample.target.name
            local(target).parent.mkdir(parents=True, exist_ok=True)
            yield replace(sample, dataset=f"{sample.dataset}-{number}", target=target)


def line(tell: Callable[[str], None]) -> Line:
    """The line as `gpupeak extract` builds it, in this process: torch.profiler sees no other."""
    if not torch.cuda.is_available():
        config = ExtractConfig(device="cpu", encoder=CPU_ENCODER, weights="random:0")
        return build(config, encoder_spec(CPU_ENCODER), N, tell)
    mode = "cpu" if nvdec_missing() else "nvdec"
    return cuda_line(ExtractConfig(weights="random:0"), CLIP_VIT_LARGE, N, "cuda:0", mode, tell)


def saved(built: Line, samples: Sequence[Sample]) -> list[Seconds]:
    """Take samples through the line: what each stage took of each. Raises RuntimeError if one fails."""
    seconds = []
    for outcome in built.run(samples):
        if not isinstance(outcome, Saved):
            raise RuntimeError(f"{outcome.sample}: {outcome.reason}")
        seconds.append(outcome.seconds)
    return seconds


def traced(built: Line, samples: Sequence[Sample], out: Path) -> Row:
    """The run that the trace is of. What decoding takes of a sample is spread over all decoding processes."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    every_thread = _ExperimentalConfig(profile_all_threads=True)
    began = time.perf_counter()
    with torch.profiler.profile(activities=activities, experimental_config=every_thread) as seen:
        seconds = saved(built, samples)
        took = time.perf_counter() - began
    seen.export_chrome_trace(str(out))
    stages = {stage: 1000 * statistics.mean(each[stage] for each in seconds) for stage in seconds[0]}
    told = ", ".join(f"{stage} {ms:.3g}" for stage, ms in stages.items())
    return {
        "samples": len(samples),
        "seconds": took,
        "samples_per_s": len(samples) / took,
        "ms_per_sample": stages,
        "trace": str(out),
        "says": f"{len(samples)} samples on {built.device}, {len(samples) / took:.2f} samples/s; ms a sample: {told}",
    }
