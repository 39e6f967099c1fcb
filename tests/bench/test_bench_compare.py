"""Two records beside each other: what got slower is found, whatever kind of figure it is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

COMPARE = Path(__file__).resolve().parents[2] / "bench/compare.py"

ROWS: list[dict[str, Any]] = [
    {"part": "decoding", "row": "clip", "ratios": {"decord": {"median": 1.5}}, "median_s": 1.0, "took_s": 9},
    {"part": "planning", "row": "all", "samples_per_s": 200.0, "mbit_per_s": 2.0},
    {"part": "growth", "row": "size", "points": [{"side": 1, "sample_ms": 4.0}, {"side": 2, "sample_ms": 8.0}]},
]


@pytest.mark.parametrize(
    ("row", "changed", "code", "told"),
    [
        (0, {"ratios": {"decord": {"median": 1.2}}}, 1, "SLOWER"),
        (1, {"samples_per_s": 170.0}, 1, "SLOWER"),
        (2, {"points": [{"sample_ms": 4.0}, {"sample_ms": 9.0}]}, 1, "SLOWER"),
        (1, {"samples_per_s": 300.0, "mbit_per_s": 1.0, "took_s": 99}, 0, "faster"),
        (1, {"samples_per_s": None, "ok": False, "says": "no"}, 0, "FAILED in the new record: planning: all: no"),
        (1, {"samples_per_s": None}, 0, "only in the old record: planning: all: samples_per_s"),
    ],
)
def test_what_changed_is_told(tmp_path: Path, row: int, changed: dict[str, Any], code: int, told: str) -> None:
    new = [{**each, **changed} if number == row else each for number, each in enumerate(ROWS)]
    for name, rows in (("old", ROWS), ("new", new)):
        lines = [{"conditions": {"cpu": "x", "commit": name}}, *rows]
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    command = [sys.executable, str(COMPARE), "old.jsonl", "new.jsonl"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout.count(told), done.stdout.count("SLOWER")) == (code, 1, code)
    assert "commit: old -> new" in done.stdout


@pytest.mark.parametrize("text", ["", "no json", '{"conditions": {}}\n{"part": "x"}\n'])
def test_a_file_that_is_no_record_is_named_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.jsonl").write_text(text)
    command = [sys.executable, str(COMPARE), str(tmp_path / "bad.jsonl"), str(tmp_path / "none.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "bad.jsonl: expected a record" in done.stderr
