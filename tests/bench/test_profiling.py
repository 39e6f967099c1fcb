"""Where the time of a run goes: spans that do not overlap, shares that add up, and a trace that Perfetto can read."""

from __future__ import annotations

import importlib
import json
import random
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from samples import sample
from synthetic import SyntheticEncoder

from gpupeak.decode.pool import WorkerPool
from gpupeak.decode.worker import Planned
from gpupeak.features.writer import NpyWriter
from gpupeak.lines.build import Parts
from gpupeak.types import FramePlan, Sample

REPOSITORY = Path(__file__).resolve().parents[2]
profiling: Any = importlib.import_module("profiling")
gpu_check: Any = importlib.import_module("gpu_check")
bench_record: Any = importlib.import_module("record")
workload: Any = importlib.import_module("workload")

INPUT, ROOM = profiling.INPUT, profiling.ROOM


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def assert_sound(trace: Any, path: Path) -> dict[str, set[str]]:
    """Spans nest or follow each other on every track, shares add up; returns the names by process of the file."""
    for group in {span.group for span in trace.spans}:
        for spans in trace.tracks(group).values():
            open_until: list[float] = []
            for span in spans:
                assert span.ended >= span.began
                while open_until and open_until[-1] <= span.began + 1e-9:
                    open_until.pop()
                assert not open_until or span.ended <= open_until[-1] + 1e-9, span
                open_until.append(span.ended)
        assert sum(trace.shares(group).values()) == pytest.approx(1)
        row = profiling.of_stage(trace, group, samples=1)
        assert row["busy"] + row[INPUT] + row[ROOM] == pytest.approx(1)
        assert 0 <= row["busy"] <= 1 + 1e-9
    content = json.loads(path.read_text())
    events = content["traceEvents"]
    processes = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    tracks = {(event["pid"], event["tid"]) for event in events if event["name"] == "thread_name"}
    names: dict[str, set[str]] = {}
    for event in events:
        assert event["ph"] in "MX"
        if event["ph"] == "X":
            assert event["ts"] >= 0 <= event["dur"]
            assert (event["pid"], event["tid"]) in tracks
            names.setdefault(processes[event["pid"]], set()).add(event["name"])
    assert sum(event["ph"] == "X" for event in events) == len(trace.spans)
    return names


def test_the_line_on_the_cpu_is_traced_from_plan_to_write(clip_of: Callable[[str], Path], tmp_path: Path) -> None:
    samples = [sample(tmp_path, f"clip{i}", video=clip_of("h264")) for i in range(24)]
    again = [replace(each, dataset="again") for each in samples]
    trace = profiling.Trace()
    with profiling.watched_pools(trace):
        parts = Parts(WorkerPool(2), SyntheticEncoder(8, 224), NpyWriter(), "cpu")
        row = profiling.traced(trace, parts, None, samples[:4], again, tmp_path / "trace.json")
        parts.close()
    names = assert_sound(trace, tmp_path / "trace.json")
    waits = {INPUT, ROOM}
    assert names["workers"] - waits == {"plan", "decode"}
    assert names["encode"] - waits == {"encode"}
    assert names["write"] - waits == {"write"}

    # Every sample once in each stage, and no longer than the run took.
    for group, name in (("workers", "plan"), ("workers", "decode"), ("encode", "encode"), ("write", "write")):
        about = [span.about for span in trace.of(group, name) if span.about]
        assert sorted(about) == sorted(map(str, again)), name
    assert set(trace.tracks("workers")) == {"process 1", "process 2"}
    first, last = min(span.began for span in trace.spans), max(span.ended for span in trace.spans)
    assert 0.8 * row["seconds"] < last - first <= row["seconds"]
    assert set(row["cpu_ms_per_sample"]) == {"decoder 1", "encode 1", "write 1", "write 2"}
    assert sum(row["cpu_ms_per_sample"].values()) < 2 * 1000 * row["seconds"] / 24

    stages = {group: profiling.of_stage(trace, group, 24) for group in ("workers", "encode", "write")}
    assert stages["workers"]["busy"] > max(stages["encode"]["busy"], stages["write"]["busy"])  # they decode, for real
    assert stages["encode"][INPUT] > 0.5
    of_workers = stages["workers"]["ms_per_sample"]
    assert of_workers["decode"] == pytest.approx(
        1000 * sum(span.ended - span.began for span in trace.of("workers", "decode")) / 24
    )


def test_the_line_of_a_gpu_is_traced_from_plan_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    """DALI decodes on the CPU in NVDEC's place, and work is done as it is put on a stream."""
    marks: list[str] = []
    nvtx = profiling._NVTX
    monkeypatch.setattr(nvtx, "range_push", marks.append)
    monkeypatch.setattr(nvtx, "range_pop", lambda: None)
    monkeypatch.setattr(nvtx, "range_start", lambda name: marks.append(name) or len(marks))
    monkeypatch.setattr(nvtx, "range_end", lambda number: marks[number - 1])
    corpus = gpu_check.Corpus(tmp_path, True, 8)
    gpu_check.make_corpus(corpus)
    samples = corpus.samples()
    trace = profiling.Trace(nvtx=True)
    setup = gpu_check.in_small()
    cuda = profiling.WatchedCuda(setup.cuda, trace)
    with profiling.watched_pools(trace), profiling.watched_nvdec(trace):
        parts = replace(setup, cuda=cuda).parts("nvdec")
        profiling.traced(trace, parts, cuda, samples[:2], samples, tmp_path / "trace.json")
        parts.close()
    names = assert_sound(trace, tmp_path / "trace.json")
    waits = {INPUT, ROOM}
    assert names["planners"] - waits == {"plan"}
    assert names["NVDEC"] - waits == {"read", "decode"}
    assert names["workers"] - waits == {"plan", "decode"}  # of the one that DALI has no decoder for here
    assert names["GPU"] - waits == {"patch rows", "replay", "copy"}
    assert names["GPU uploads"] == {"upload"}
    assert names["write"] - waits == {"write"}
    launched = [span.name for span in trace.of("launches") if span.name != "upload"]
    assert launched == [span.name for span in trace.of("GPU", "patch rows", "replay", "copy")]
    assert {"planners", "workers", "read", "decode", "encode", "write"} <= set(marks)


def staged(trace: Any, verb: Callable[[Iterable[int]], Any], inputs: Iterable[int], **options: Any) -> Any:
    return profiling.Stage(trace, "encode", verb, "encode", **options).encode(inputs)


class Item:
    def __init__(self, number: int) -> None:
        self.sample = f"sample {number}"


def test_a_stage_waits_for_input_then_works_then_waits_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(100))
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: float(next(now)))
    trace = profiling.Trace()

    def verb(items: Iterable[int]) -> Any:
        for item in items:
            yield Item(item)

    assert [item.sample for item in staged(trace, verb, [1, 2])] == ["sample 1", "sample 2"]
    found = [(span.name, span.about) for span in trace.spans if span.about or span.name != "encode"]
    assert found == [
        (INPUT, ""),
        ("encode", "sample 1"),
        (ROOM, ""),
        (INPUT, ""),
        ("encode", "sample 2"),
        (ROOM, ""),
        (INPUT, ""),
    ]
    assert all(before.ended == after.began for before, after in pairwise(trace.spans))


def test_a_stage_that_is_cut_off_or_raises_is_closed_and_noted() -> None:
    trace = profiling.Trace()
    closed = threading.Event()

    def verb(items: Iterable[int]) -> Any:
        try:
            for item in items:
                yield Item(item)
                raise ValueError("broken")
        finally:
            closed.set()

    stage = staged(trace, verb, [1, 2])
    next(stage)
    stage.close()
    assert closed.is_set()
    assert trace.spans[-1].name == ROOM
    with pytest.raises(ValueError, match="broken"):
        list(staged(trace, verb, [1]))
    assert set(trace.cpu_seconds) == {"encode 1"}


def test_waits_are_the_gaps_for_room_while_held() -> None:
    busy = [(1.0, 2.0), (2.0, 3.0), (5.0, 7.0)]
    assert profiling.waits(busy, (0, 10), [(2.5, 4.0), (6.0, 8.0), (9.5, 12.0)]) == [
        (INPUT, 0, 1.0),
        (ROOM, 3.0, 4.0),
        (INPUT, 4.0, 5.0),
        (ROOM, 7.0, 8.0),
        (INPUT, 8.0, 9.5),
        (ROOM, 9.5, 10),
    ]
    assert profiling.waits([], (3, 4), []) == [(INPUT, 3, 4)]
    assert profiling.waits([(0.0, 9.0)], (3, 4), [(3.0, 4.0)]) == []
    draw = random.Random(0)
    for _ in range(200):
        cuts = sorted(draw.sample(range(100), 12))
        taken, held = list(zip(cuts[::4], cuts[1::4], strict=True)), list(zip(cuts[2::4], cuts[3::4], strict=True))
        found = profiling.waits(taken, (0, 100), held)
        total = sum(last - first for _, first, last in found)
        assert total == 100 - sum(last - first for first, last in taken)
        assert sum(last - first for name, first, last in found if name == ROOM) == sum(b - a for a, b in held)


def test_each_process_is_at_the_samples_that_it_was_handed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 11.0, 12.0])
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: next(clock))
    trace = profiling.Trace()
    pool = profiling.Watched(trace, "workers", 2)
    handing = pool.handing([sample(tmp_path, name) for name in "abc"])
    a, b = next(handing), next(handing)
    pool.answered(planned(b, 0.5))
    c = next(handing)
    pool.answered(planned(c, 0.25))
    pool.answered(planned(a, 4.0))  # the first one takes the longest
    found = {span.about[-1]: (span.track, span.began, span.ended) for span in trace.spans}
    assert found == {"a": ("process 1", 10, 14), "b": ("process 2", 11, 11.5), "c": ("process 2", 12, 12.25)}


def planned(each: Sample, seconds: float) -> Any:
    return Planned(FramePlan(each, (0,) * each.rule.n, 1, "h264"), {"plan": seconds}, None)


def test_a_sample_that_fails_is_in_the_trace_and_no_measurement(tmp_path: Path) -> None:
    trace = profiling.Trace()
    with profiling.watched_pools(trace):
        parts = Parts(WorkerPool(1), SyntheticEncoder(8, 224), NpyWriter(), "cpu")
        with pytest.raises(RuntimeError, match="1 failed"):
            profiling.watched_run(trace, parts, [sample(tmp_path, "missing")])
        parts.close()
    assert [span.name for span in trace.of("workers")] == ["failed"]


def test_looks_are_counted_by_thread() -> None:
    looks = "thread (0x7F2A): gpupeak-encode;run (a.py:1);encode (b.py:2) 30\nthread (12);main (a b.py:3) 4\n"
    looks += "thread (0x7F2A): gpupeak-encode;run (a.py:1) 12\n"
    assert profiling.held(looks) == {"gpupeak-encode": 42, "unnamed": 4}


def test_without_py_spy_the_time_with_the_gil_has_an_upper_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    row = profiling.gil({"encode 1": 3.0, "write 1": 0.5}, lambda: None, samples=8)
    assert row["at_most_ms_per_sample"] == 3.5
    assert "py-spy" in row["says"]


SPY = """\
#!{python}
import signal, sys, threading
stop = threading.Event()
signal.signal(signal.SIGINT, lambda *_: stop.set())
{say}
sys.stdout.flush()
while not stop.wait(0.01): pass
open(sys.argv[sys.argv.index("--output") + 1], "w").write("thread (1): gpupeak-encode;f (a.py:1) 40\\n")
print("wrote it down", flush=True)
"""


def test_what_py_spy_saw_is_ms_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spy, done = tmp_path / "py-spy", list[int]()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    spy.write_text(SPY.format(python=sys._base_executable, say="print('py-spy> Sampling process')"))  # type: ignore[attr-defined]
    spy.chmod(0o755)
    row = profiling.gil({}, lambda: done.append(1), samples=8)
    assert row["gil_ms_per_sample"] == {"gpupeak-encode": 1000 * 40 / 200 / 8}
    spy.write_text(SPY.format(python=sys._base_executable, say="sys.exit('Permission denied')"))  # type: ignore[attr-defined]
    assert "Permission denied" in profiling.gil({"encode 1": 1.0}, lambda: done.append(2), samples=8)["says"]
    assert done == [1]


def test_the_part_has_one_row_a_stage(
    clip_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a synthetic encoder in the real one's place, and two clips in place of those that are drawn."""
    parts = Parts(WorkerPool(1), SyntheticEncoder(8, 224), NpyWriter(), "cpu")
    clips = {kind: clip_of(kind) for kind in ("h264", "h264_no_b")}

    def no_py_spy(work: object) -> str:
        raise FileNotFoundError("no py-spy")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(profiling, "make", lambda asked, directory: clips)
    monkeypatch.setattr(profiling, "build", lambda config, spec, n, tell: parts)
    monkeypatch.setattr(profiling, "py_spy", no_py_spy)
    record = bench_record.Record(tmp_path, {}, "bench")
    with record.part("profile"):
        profiling.profile(record, workload.QUICK, tmp_path, tmp_path / "trace.json")
    rows = {row["row"]: row for row in map(json.loads, record.path.read_text().splitlines()[1:])}
    assert list(rows) == ["the line", "workers", "encode", "write", "GIL"]
    assert all(row.get("ok") is None for row in rows.values()), rows
    assert rows["the line"]["samples"] == 6
    assert rows["GIL"]["at_most_ms_per_sample"] > 0
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]


def test_on_a_gpu_the_line_is_the_one_of_a_run_with_its_device_watched(
    clip_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    """`cuda_line` itself; what it would ask of a GPU is done by the host."""
    setup = gpu_check.in_small()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(profiling, "nvdec_missing", lambda: "no NVDEC here")
    monkeypatch.setattr(profiling, "TorchCuda", lambda device: setup.cuda)
    monkeypatch.setattr("gpupeak.lines.build.load_tower", lambda *arguments: setup.tower(torch.float32))
    monkeypatch.setattr("gpupeak.kernels.patch_rows.cuda_patch_rows", lambda *arguments: gpu_check.patch_rows)
    samples = [sample(tmp_path, f"clip{i}", video=clip_of("h264")) for i in range(3)]
    trace = profiling.Trace()
    with profiling.line(trace, lambda text: None) as (parts, cuda):
        profiling.traced(trace, parts, cuda, samples[:1], samples, tmp_path / "trace.json")
    names = assert_sound(trace, tmp_path / "trace.json")
    assert names["GPU"] >= {"patch rows", "replay", "copy"}
    assert names["workers"] >= {"plan", "decode"}
    assert len(trace.of("GPU", "patch rows")) >= 1
