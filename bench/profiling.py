"""Where does the time of a run go: in which stage, in which of torch's operations, and who holds the GIL meanwhile?

    make bench PROFILE=1        one run of the real line; its trace lies beside the record

Stages are timed by the line itself, operations and kernels by torch.profiler on every thread, the GIL by py-spy in
a run of its own. docs/profiling.md tells how to read what comes out.
"""

from __future__ import annotations

import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch
from record import Record, Row
from torch.profiler import ProfilerActivity, _ExperimentalConfig
from workload import Scale, decode_clips, make, sample_of

from gpupeak.config import ExtractConfig
from gpupeak.decode.nvdec import nvdec_missing
from gpupeak.encoders import CLIP_VIT_LARGE, encoder_spec
from gpupeak.lines.build import build, cuda_line
from gpupeak.pipeline import Line
from gpupeak.types import Sample, Saved, Seconds

SAMPLES_A_SECOND = 200
"""How often py-spy looks: at 200 a second, 1,000 looks in five seconds of a run."""
CPU_ENCODER = "open_clip:ViT-B-32"
"""ViT-L/14 takes two cores some 12 s a sample, beside which nothing else can be seen."""
N = 8


def profile(record: Record, scale: Scale, work: Path, out: Path) -> None:
    """A row of the stages and one of the GIL; torch's trace of the first run goes to `out`."""
    videos = make(decode_clips(scale), work / "clips").values()
    once = [sample_of(video, work / "profile", work / "aus") for video in videos]
    samples = list(repeated(once, 48 if torch.cuda.is_available() else 3))
    third = samples[: len(samples) // 3]
    with closing(line(lambda text: None)) as built:
        saved(built, third)  # warm
        record.row("the line", traced, built, samples, out)
        record.row("GIL", gil, lambda: saved(built, third), len(third))


def repeated(once: Sequence[Sample], times: int) -> Iterator[Sample]:
    """The same samples several times, each time as those of another data set."""
    for number in range(times):
        for sample in once:
            target = sample.target.parent / str(number) / sample.target.name
            target.parent.mkdir(parents=True, exist_ok=True)
            yield replace(sample, dataset=f"{sample.dataset}-{number}", target=target)


def line(tell: Callable[[str], None]) -> Line:
    """The line as `gpupeak extract` builds it, in this process: torch.profiler sees no other."""
    if not torch.cuda.is_available():
        config = ExtractConfig(device="cpu", encoder=CPU_ENCODER, weights="random:0")
        return build(config, encoder_spec(CPU_ENCODER), N, tell)
    mode = "cpu" if nvdec_missing() else "nvdec"
    return cuda_line(ExtractConfig(weights="random:0"), CLIP_VIT_LARGE, N, torch.device("cuda:0"), mode, tell)


def saved(built: Line, samples: Sequence[Sample]) -> list[Seconds]:
    """Take samples through the line: what each stage took of each.

    Raises:
        RuntimeError: one failed.
    """
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


def gil(work: Callable[[], object], samples: int) -> Row:
    """How many ms a sample the threads of this process hold the GIL, by py-spy."""
    try:
        looks = held(py_spy(work))
    except OSError as error:
        return {"says": f"left out: {error}"}
    spent = {thread: 1000 * count / SAMPLES_A_SECOND / samples for thread, count in looks.most_common()}
    says = ", ".join(f"{thread} {ms:.3g}" for thread, ms in list(spent.items())[:3])
    return {"gil_ms_per_sample": spent, "says": f"held {sum(spent.values()):.3g} ms a sample, by py-spy: {says}"}


def py_spy(work: Callable[[], object]) -> str:
    """What py-spy sees of whoever holds this process's GIL while it does some work.

    Raises:
        OSError: there is no py-spy beside this Python, or it may not look at this process.
    """
    with tempfile.NamedTemporaryFile("r", suffix=".raw") as file:
        command = [str(Path(sys.executable).with_name("py-spy")), "record", "--gil", "--threads", "--format", "raw"]
        # Without stopping what it looks at: that takes too long for 200 looks a second.
        command += ["--nonblocking", "--rate", str(SAMPLES_A_SECOND), "--pid", str(os.getpid()), "--output", file.name]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as looking:
            assert looking.stdout is not None
            try:
                if "Sampling" not in (first := looking.stdout.readline()):
                    raise PermissionError(f"py-spy: {first.strip() or 'ended'}")
                work()
            finally:
                looking.send_signal(signal.SIGINT)  # it writes down what it saw, then says so
                looking.communicate()
        return file.read()


def held(looks: str) -> Counter[str]:
    """By thread, how often it held the GIL, of py-spy's raw format: `thread (id): name;frame;frame count`."""
    found: Counter[str] = Counter()
    for look in looks.splitlines():
        stack, _, count = look.rpartition(" ")
        found[re.sub(r"^thread \(\w+\)(: )?", "", stack.partition(";")[0]) or "unnamed"] += int(count)
    return found
