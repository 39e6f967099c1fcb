"""Where does the time of a run go: in which stage, and in which of torch's operations?

    make bench PROFILE=1        one run of the real line; its trace lies beside the record

Stages are timed by the line itself, operations and kernels by torch.profiler on every thread. docs/profiling.md tells
how to read what comes out, and how py-spy and Nsight Systems look at a run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import torch
from record import Record, Row
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity
from workload import Scale, decode_clips, make, sample_of, saved

from gpupeak.config import ExtractConfig
from gpupeak.decode.nvdec import nvdec_abilities
from gpupeak.encoders import CLIP_VIT_LARGE, encoder_spec
from gpupeak.lines.build import build, cuda_line
from gpupeak.pipeline import Line
from gpupeak.types import Sample

CPU_ENCODER = "open_clip:ViT-B-32"
"""ViT-L/14 takes two cores some 12 s a sample, beside which nothing else can be seen."""
N = 8


def profile(record: Record, scale: Scale, work: Path, out: Path) -> None:
    """A row of the stages; torch's trace of the run goes to `out`."""
    videos = make(decode_clips(scale), work / "clips").values()
    homes = [work / "profile" / str(number) for number in range(48 if torch.cuda.is_available() else 3)]
    for home in homes:
        home.mkdir(parents=True)
    samples = [sample_of(video, home, work / "aus") for home in homes for video in videos]
    with closing(line(lambda text: None)) as built:
        list(saved(built.run(samples[: len(samples) // 3])))  # warm
        record.row("the line", traced, built, samples, out)


def line(tell: Callable[[str], None]) -> Line:
    """The line as `gpupeak extract` builds it, in this process: torch.profiler sees no other."""
    if not torch.cuda.is_available():
        config = ExtractConfig(device="cpu", encoder=CPU_ENCODER, weights="random:0")
        return build(config, encoder_spec(CPU_ENCODER), N, tell)
    mode = "cpu" if isinstance(nvdec_abilities(), str) else "nvdec"
    return cuda_line(ExtractConfig(weights="random:0"), CLIP_VIT_LARGE, N, "cuda:0", mode, tell)


def traced(built: Line, samples: Sequence[Sample], out: Path) -> Row:
    """The run that the trace is of. What decoding takes of a sample is spread over all decoding processes."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    every_thread = _ExperimentalConfig(profile_all_threads=True)
    began = time.perf_counter()
    with torch.profiler.profile(activities=activities, experimental_config=every_thread) as seen:
        seconds = [outcome.seconds for outcome in saved(built.run(samples))]
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
