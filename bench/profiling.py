"""Where does the time of a run go: which stage works, which one waits for what, and who holds the GIL meanwhile?

    make bench PROFILE=1        one run of the real line; the trace lies beside the record

The stages run as they are. What they are given and what they yield goes through here, which notes when each one
works, waits for its input, or waits for room behind it; the decoding processes' times come with their answers, the
GPU's from events around all that is put on its streams. docs/profiling.md tells how to read what comes out. On a
GPU every span that begins in this process is an NVTX range, too, for Nsight Systems.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias
from unittest import mock

import torch
from record import Record, Row
from workload import Scale, decode_clips, make, sample_of

from gpupeak.config import ExtractConfig
from gpupeak.decode.nvdec import nvdec_missing
from gpupeak.decode.pool import WorkerPool
from gpupeak.decode.worker import Planned
from gpupeak.encode.gpu.device import Cuda, Event, Graph, Stream, TorchCuda, Work
from gpupeak.encode.gpu.graphs import GraphEncoder
from gpupeak.encoders import CLIP_VIT_LARGE, encoder_spec
from gpupeak.lines.build import Parts, build, cuda_line
from gpupeak.pipeline import run
from gpupeak.types import Failed, FrameBatch, Sample, Saved, Seconds

Interval: TypeAlias = "tuple[float, float]"

INPUT, ROOM = "waits for input", "waits for room"
_NVTX: Any = torch.cuda.nvtx  # it has no annotations


class Span(NamedTuple):
    """What one track was at, from `began` to `ended` (`time.perf_counter`); `about` names samples."""

    group: str
    track: str
    name: str
    began: float
    ended: float
    about: str = ""


class Trace:
    """The spans of one run, from any of its threads.

    Args:
        nvtx: mark what begins and ends on one thread as an NVTX range, too.
    """

    def __init__(self, *, nvtx: bool = False) -> None:
        self.spans: list[Span] = []
        self.cpu_seconds: dict[str, float] = {}
        self.nvtx = nvtx

    def add(self, *span: Any) -> None:
        self.spans.append(Span(*span))  # one thread at a time does so, under the GIL

    def clear(self) -> None:
        self.spans.clear()
        self.cpu_seconds.clear()

    @contextlib.contextmanager
    def span(self, group: str, name: str) -> Iterator[None]:
        """What this thread does meanwhile."""
        began = time.perf_counter()
        with _NVTX.range(name) if self.nvtx else contextlib.nullcontext():
            yield
        self.add(group, threading.current_thread().name, name, began, time.perf_counter())

    def of(self, group: str, *names: str) -> list[Span]:
        """A group's spans, those of some names only if there are any, in the order in which they began."""
        spans = (span for span in self.spans if span.group == group and (not names or span.name in names))
        return sorted(spans, key=lambda span: (span.began, -span.ended))

    def tracks(self, group: str) -> dict[str, list[Span]]:
        found: dict[str, list[Span]] = defaultdict(list)
        for span in self.of(group):
            found[span.track].append(span)
        return found

    def fill(self, group: str, stage: str) -> None:
        """Add how a group waited on each of its tracks for what is not known of it, while its `stage` ran.

        While whoever hands over for it waited for room, it did, too; else for input.
        """
        life = self.of(stage)
        whole = (life[0].began, max(span.ended for span in life))
        held = [(span.began, span.ended) for span in life if span.name == ROOM]
        for track, spans in self.tracks(group).items():
            for name, began, ended in waits([(span.began, span.ended) for span in spans], whole, held):
                self.add(group, track, name, began, ended)

    def shares(self, group: str) -> dict[str, float]:
        """By name, the share of a group's time, over all of its tracks; what lies within another span counts there."""
        seconds: dict[str, float] = defaultdict(float)
        for spans in self.tracks(group).values():
            for span in outermost(spans):
                seconds[span.name] += span.ended - span.began
        total = sum(seconds.values())
        return {name: spent / total for name, spent in seconds.items()}

    def chrome(self, conditions: Row) -> Row:
        """The trace as ui.perfetto.dev and chrome://tracing read it: Chrome's trace event format, times in us."""
        first = min((span.began for span in self.spans), default=0.0)
        events: list[Row] = []
        for process, group in enumerate(dict.fromkeys(span.group for span in self.spans), 1):
            events.append({"ph": "M", "name": "process_name", "pid": process, "tid": 0, "args": {"name": group}})
            for thread, (track, spans) in enumerate(sorted(self.tracks(group).items()), 1):
                at = {"pid": process, "tid": thread}
                events.append({"ph": "M", "name": "thread_name", **at, "args": {"name": track}})
                for span in spans:
                    times = {"ts": 1e6 * (span.began - first), "dur": 1e6 * (span.ended - span.began)}
                    about = {"args": {"about": span.about}} if span.about else {}
                    events.append({"ph": "X", "name": span.name, "cat": group, **at, **times, **about})
        return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": conditions}


def outermost(spans: Sequence[Span]) -> list[Span]:
    """Of one track's spans, in order, those that lie in no other."""
    found: list[Span] = []
    for span in spans:
        if not found or span.began >= found[-1].ended:
            found.append(span)
    return found


def waits(busy: Iterable[Interval], whole: Interval, held: Sequence[Interval]) -> list[tuple[str, float, float]]:
    """The time of `whole` in which nothing is `busy`: for room while it is `held`, else for input. In order."""
    found: list[tuple[str, float, float]] = []
    for began, ended in _gaps(busy, whole):
        for first, last in _gaps(held, (began, ended)):
            found.append((INPUT, first, last))
        found += ((ROOM, max(first, began), min(last, ended)) for first, last in held if first < ended and last > began)
    return sorted(found, key=lambda wait: wait[1])


def _gaps(taken: Iterable[Interval], whole: Interval) -> Iterator[Interval]:
    """What of `whole` is in none of `taken`, which come in order."""
    reached, end = whole
    for began, ended in taken:
        if reached < min(began, end):
            yield reached, min(began, end)
        reached = max(reached, ended)
    if reached < end:
        yield reached, end


class Stage:
    """A stage of the line with its verb, noted on a track of its own for each thread that runs it.

    Args:
        inside: what it does between taking its input and yielding what it made of it.
        pulls: whether it takes its input on the thread that runs it; else only waits for room can be told.
    """

    def __init__(
        self,
        trace: Trace,
        group: str,
        verb: Callable[[Iterable[Any]], Generator[Any]],
        inside: str,
        *,
        pulls: bool = True,
    ) -> None:
        self._trace, self._group, self._verb, self._inside, self._pulls = trace, group, verb, inside, pulls
        self._numbers = itertools.count(1)

    def run(self, items: Iterable[Any]) -> Generator[Any]:
        clock = _Clock(self._trace, self._group, f"{self._group} {next(self._numbers)}")

        def pulled() -> Iterator[Any]:
            source = iter(items)
            while True:
                clock.turn(INPUT)
                item = next(source, None)
                clock.turn(self._inside)
                if item is None:
                    return
                yield item

        try:
            with contextlib.closing(self._verb(pulled() if self._pulls else items)) as made:
                clock.turn(self._inside)
                for item in made:
                    clock.turn(ROOM, named(item))
                    yield item
                    clock.turn(self._inside)
        finally:
            clock.stop()

    decode = encode = write = run

    def close(self) -> None:
        """What it holds is its owner's."""


class _Clock:
    """What one thread is at, one thing after the other."""

    def __init__(self, trace: Trace, group: str, track: str) -> None:
        self._trace, self._group, self._track = trace, group, track
        self._name, self._since = "", time.perf_counter()
        self._cpu = time.thread_time()

    def turn(self, name: str, about: str = "") -> None:
        """It turns to something else; `about` are the samples that it was at until now."""
        now = time.perf_counter()
        if self._name:
            self._trace.add(self._group, self._track, self._name, self._since, now, about)
        if self._trace.nvtx:
            if self._name:
                _NVTX.range_pop()
            if name:
                _NVTX.range_push(name)
        self._name, self._since = name, now

    def stop(self) -> None:
        self.turn("")
        self._trace.cpu_seconds[self._track] = time.thread_time() - self._cpu


def named(item: Any) -> str:
    """The samples that a batch or an outcome is about."""
    plans = getattr(item, "plans", None)
    return ", ".join(str(plan.sample) for plan in plans) if plans else str(item.sample)


class Watched:
    """A decoder's processes, each at one sample at a time, as far as their answers tell.

    An answer carries how long planning and decoding took. That they began when the sample was handed over is
    right but for the pipe, some 0.1 ms: an idle process is given its sample at once.
    """

    def __init__(self, trace: Trace, group: str, processes: int) -> None:
        self._trace, self._group = trace, group
        self._idle = [f"process {number}" for number in range(1, processes + 1)]
        self._handed: dict[str, tuple[str, float, Any]] = {}

    def handing(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        for sample in samples:
            # Not a range of this thread: others begin before it ends.
            mark = _NVTX.range_start(self._group) if self._trace.nvtx else None
            # Which of the idle ones it goes to makes no difference.
            self._handed[str(sample)] = self._idle.pop(0), time.perf_counter(), mark
            yield sample

    def answered(self, item: FrameBatch | Planned | Failed) -> None:
        sample, seconds = _answer(item)
        process, at, mark = self._handed.pop(str(sample))
        self._idle.append(process)
        if mark is not None:
            _NVTX.range_end(mark)
        for name, spent in (seconds or {"failed": time.perf_counter() - at}).items():
            self._trace.add(self._group, process, name, at, at + spent, str(sample))
            at += spent


def _answer(item: FrameBatch | Planned | Failed) -> tuple[Sample, Seconds]:
    if isinstance(item, Failed):
        return item.sample, {}
    if isinstance(item, Planned):
        return item.plan.sample, item.seconds
    return item.plans[0].sample, item.seconds[0]


@contextlib.contextmanager
def watched_pools(trace: Trace) -> Iterator[None]:
    """Note what every `WorkerPool` does: "workers" are those that decode, "planners" those that only plan."""

    def watched(verb: Callable[[WorkerPool, Iterable[Sample]], Generator[Any]], group: str) -> Any:
        def watching(pool: WorkerPool, samples: Iterable[Sample]) -> Generator[Any]:
            processes = Watched(trace, group, len(pool.pids))
            with contextlib.closing(verb(pool, processes.handing(samples))) as items:
                for item in items:
                    processes.answered(item)
                    yield item

        return watching

    with (
        mock.patch.object(WorkerPool, "decode", watched(WorkerPool.decode, "workers")),
        mock.patch.object(WorkerPool, "plan", watched(WorkerPool.plan, "planners")),
    ):
        yield


@contextlib.contextmanager
def watched_nvdec(trace: Trace) -> Iterator[None]:
    """Note what the threads of DALI decoders that are made here do: read files, and wait for what is decoded."""
    from gpupeak.decode import dali

    read, make_pipeline = dali.DaliDecoder._read, dali.frames_pipeline

    def reading(decoder: Any, batch: Any) -> Any:
        with trace.span("NVDEC", "read"):
            return read(decoder, batch)

    class Pipeline:
        def __init__(self, *arguments: Any) -> None:
            self._pipeline = make_pipeline(*arguments)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._pipeline, name)

        def share_outputs(self, stream: Any) -> Any:
            with trace.span("NVDEC", "decode"):
                return self._pipeline.share_outputs(stream)

    with mock.patch.object(dali.DaliDecoder, "_read", reading), mock.patch.object(dali, "frames_pipeline", Pipeline):
        yield


class WatchedCuda:
    """A device on which it is noted what is put on the streams, and, by events around it, when it ran there."""

    def __init__(self, cuda: Cuda, trace: Trace) -> None:
        self._cuda, self._trace = cuda, trace
        self.zeros, self.pinned, self.pool = cuda.zeros, cuda.pinned, cuda.pool
        self._streams: list[_WatchedStream] = []

    def stream(self) -> Stream:
        group = "GPU uploads" if self._streams else "GPU"  # in the order in which the encoder makes them
        self._streams.append(_WatchedStream(self._cuda.stream(), self._trace, group))
        return self._streams[-1]

    def capture(self, stream: Stream, pool: object, work: Work) -> Graph:
        assert isinstance(stream, _WatchedStream)
        return self._cuda.capture(stream.stream, pool, work)

    def collect(self) -> None:
        """Add to the trace what the device has done so far."""
        for stream in self._streams:
            stream.collect()


class _WatchedStream:
    def __init__(self, stream: Stream, trace: Trace, group: str) -> None:
        self.stream, self._trace, self._group = stream, trace, group
        self.wait, self.record = stream.wait, stream.record
        self._done: list[tuple[str, Event, Event]] = []

    def run(self, label: str, work: Work) -> None:
        before, began = self.stream.record(), time.perf_counter()
        self.stream.run(label, work)
        track = threading.current_thread().name
        self._trace.add("launches", track, label, began, time.perf_counter())
        self._done.append((label, before, self.stream.record()))

    def collect(self) -> None:
        now = self.stream.record()
        now.synchronize()
        clock = time.perf_counter()
        for label, before, after in self._done:
            began, ended = (clock - event.elapsed_time(now) / 1000 for event in (before, after))
            self._trace.add(self._group, "stream", label, began, ended)
        self._done.clear()


def watched_run(trace: Trace, parts: Parts, samples: Sequence[Sample], cuda: WatchedCuda | None = None) -> float:
    """Take samples through the line, noting all of it in `trace`; returns the seconds it took."""
    on_stage_thread = not isinstance(parts.encoder, GraphEncoder)  # it reads ahead on a thread of its own
    began = time.perf_counter()
    outcomes = list(
        run(
            samples,
            Stage(trace, "decoder", parts.decoder.decode, "waits for frames", pulls=False),
            Stage(trace, "encode", parts.encoder.encode, "encode", pulls=on_stage_thread),
            Stage(trace, "write", parts.writer.write, "write"),
        )
    )
    took = time.perf_counter() - began
    expect_saved(outcomes, len(samples))
    if cuda is not None:
        cuda.collect()
    for group, stage in (("planners", "decoder"), ("workers", "decoder"), ("NVDEC", "decoder"), ("GPU", "encode")):
        trace.fill(group, stage)
    return took


def expect_saved(outcomes: Iterable[Any], count: int) -> None:
    outcomes = list(outcomes)
    failed = [outcome for outcome in outcomes if not isinstance(outcome, Saved)]
    if failed or len(outcomes) != count:
        raise RuntimeError(f"{len(outcomes)} outcomes of {count} samples, {len(failed)} failed: {failed[:1]}")


SAMPLES_A_SECOND = 200
"""How often py-spy looks: at 200 a second, 1,000 looks in five seconds of a run."""
CPU_ENCODER = "open_clip:ViT-B-32"
"""ViT-L/14 takes two cores some 12 s a sample, beside which nothing else can be seen."""
N = 8
STAGES = ("planners", "workers", "NVDEC", "GPU", "encode", "write")


def profile(record: Record, scale: Scale, work: Path, out: Path) -> None:
    """One row a stage, and one of the GIL; the trace of the same run goes to `out`."""
    on_gpu = torch.cuda.is_available()
    videos = make(decode_clips(scale), work / "clips").values()
    once = [sample_of(video, work / "profile", work / "aus") for video in videos]
    samples = list(repeated(once, 48 if on_gpu else 3))
    third = samples[: len(samples) // 3]
    trace = Trace(nvtx=on_gpu)
    with line(trace, lambda text: None) as (parts, cuda):
        whole = record.row("the line", traced, trace, parts, cuda, third, samples, out)
        for group in STAGES:
            if trace.tracks(group) and not (group == "encode" and trace.tracks("GPU")):
                record.row(group, of_stage, trace, group, len(samples))
        bound = whole.get("cpu_ms_per_sample", {})
        record.row("GIL", gil, bound, lambda: expect_saved(parts.run(third), len(third)), len(third))


def repeated(once: Sequence[Sample], times: int) -> Iterator[Sample]:
    """The same samples several times, each time as those of another data set."""
    for number in range(times):
        for sample in once:
            target = sample.target.parent / str(number) / sample.target.name
            target.parent.mkdir(parents=True, exist_ok=True)
            yield replace(sample, dataset=f"{sample.dataset}-{number}", target=target)


@contextlib.contextmanager
def line(trace: Trace, tell: Callable[[str], None]) -> Iterator[tuple[Parts, WatchedCuda | None]]:
    """The line as `gpupeak extract` builds it, in this process, with what its parts start noted in `trace`."""
    with contextlib.ExitStack() as watching:
        watching.enter_context(watched_pools(trace))
        if not torch.cuda.is_available():
            config = ExtractConfig(device="cpu", encoder=CPU_ENCODER, weights="random:0")
            parts = build(config, encoder_spec(CPU_ENCODER), N, tell)
            assert isinstance(parts, Parts)
            cuda = None
        else:
            device = torch.device("cuda:0")
            cuda = WatchedCuda(TorchCuda(device), trace)
            watching.enter_context(mock.patch("gpupeak.encode.gpu.device.TorchCuda", lambda _: cuda))
            mode = "cpu" if nvdec_missing() else "nvdec"
            if mode == "nvdec":
                watching.enter_context(watched_nvdec(trace))
            parts = cuda_line(ExtractConfig(weights="random:0"), CLIP_VIT_LARGE, N, device, mode, tell)
        watching.callback(parts.close)
        yield parts, cuda


def traced(
    trace: Trace,
    parts: Parts,
    cuda: WatchedCuda | None,
    warm: Sequence[Sample],
    samples: Sequence[Sample],
    out: Path,
) -> Row:
    """The run that the trace is of, after one to warm; `cpu_ms_per_sample` is that of the line's threads."""
    expect_saved(parts.run(warm), len(warm))
    if cuda is not None:
        cuda.collect()
    trace.clear()
    took = watched_run(trace, parts, samples, cuda)
    out.write_text(json.dumps(trace.chrome({"samples": len(samples), "device": parts.device})))
    rate = len(samples) / took
    return {
        "samples": len(samples),
        "seconds": took,
        "samples_per_s": rate,
        "cpu_ms_per_sample": {track: 1000 * spent / len(samples) for track, spent in trace.cpu_seconds.items()},
        "trace": str(out),
        "says": f"{len(samples)} samples on {parts.device}, {rate:.2f} samples/s; {out.name} for ui.perfetto.dev",
    }


def of_stage(trace: Trace, group: str, samples: int) -> Row:
    """How a stage spent its time, over all the threads, processes or streams that it has."""
    shares, tracks = trace.shares(group), trace.tracks(group)
    waiting = {name: shares.pop(name, 0.0) for name in (INPUT, ROOM)}
    seconds = sum(span.ended - span.began for spans in tracks.values() for span in outermost(spans))
    busy, each = sum(shares.values()), {name: 1000 * share * seconds / samples for name, share in shares.items()}
    says = f"busy {100 * busy:5.1f} %, {INPUT} {100 * waiting[INPUT]:5.1f} %, for room {100 * waiting[ROOM]:5.1f} %"
    says += f"; {len(tracks)} x; ms a sample: " + ", ".join(f"{name} {ms:.3g}" for name, ms in each.items())
    return {"tracks": len(tracks), "busy": busy, **waiting, "busy_with": shares, "ms_per_sample": each, "says": says}


def gil(bound: Mapping[str, float], work: Callable[[], object], samples: int) -> Row:
    """How many ms a sample the threads of this process hold the GIL: by py-spy; without it, no more than `bound`."""
    try:
        looks = held(py_spy(work))
    except OSError as error:
        most = sum(bound.values())
        says = f"at most {most:.3g} ms a sample, which is the CPU time of the line's threads; not measured: {error}"
        return {"at_most_ms_per_sample": most, "says": says}
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
