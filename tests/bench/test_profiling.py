"""A profile has the stages' times and torch's trace of the run."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from synthetic import SyntheticEncoder

from gpupeak.decode.pool import WorkerPool
from gpupeak.features.writer import NpyWriter
from gpupeak.lines.build import Parts

profiling: Any = importlib.import_module("profiling")
bench_record: Any = importlib.import_module("record")
workload: Any = importlib.import_module("workload")


def test_a_profile_of_the_line(clip_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(WorkerPool(1), SyntheticEncoder(8, 224), NpyWriter(), "cpu", tmp_path, 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(profiling, "make", lambda asked, directory: {"clip": clip_of("h264")})
    monkeypatch.setattr(profiling, "build", lambda config, spec, n, tell: parts)
    record = bench_record.Record(tmp_path, {}, "bench")
    with record.part("profile"):
        profiling.profile(record, workload.QUICK, tmp_path, tmp_path / "trace.json")
    (line,) = record.rows.values()
    assert line["samples"] == 3
    assert set(line["ms_per_sample"]) == {"plan", "decode", "encode", "write"}
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
