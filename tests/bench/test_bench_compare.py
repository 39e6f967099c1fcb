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


def compare(directory: Path, row: int, figures: dict[str, Any], *options: str) -> tuple[int, str]:
    """`ROWS` beside themselves, one row of the new record changed."""
    changed = [{**each, **figures} if number == row else each for number, each in enumerate(ROWS)]
    for name, rows in (("old", ROWS), ("new", changed)):
        lines = [{"conditions": {"cpu": "x", "commit": name}}, *rows]
        (directory / f"{name}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    command = [sys.executable, str(COMPARE), "old.jsonl", "new.jsonl", *options]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("row", "slower"),
    [
        (0, {"ratios": {"decord": {"median": 1.2}}}),
        (1, {"samples_per_s": 170.0}),
        (2, {"points": [{"sample_ms": 4.0}, {"sample_ms": 9.0}]}),
    ],
)
def test_what_got_slower_fails(tmp_path: Path, row: int, slower: dict[str, Any]) -> None:
    code, told = compare(tmp_path, row, slower)
    assert (code, told.count("SLOWER")) == (1, 1)
    assert compare(tmp_path, row, slower, "--past", "1.5")[0] == 0


def test_what_got_faster_or_says_nothing_about_speed_does_not(tmp_path: Path) -> None:
    code, told = compare(tmp_path, 1, {"samples_per_s": 300.0, "mbit_per_s": 1.0, "took_s": 99})
    assert (code, told.count("faster"), told.count("SLOWER")) == (0, 1, 0)
    assert "commit: old -> new" in told


def test_a_row_that_failed_is_named(tmp_path: Path) -> None:
    code, told = compare(tmp_path, 1, {"samples_per_s": None, "ok": False, "says": "RuntimeError: no"})
    assert code == 0
    assert "FAILED in the new record: planning: all: RuntimeError: no" in told
    assert "only in the old record: planning: all: samples_per_s" in told


@pytest.mark.parametrize("text", ["", "no json", '{"conditions": {}}\n{"part": "x"}\n'])
def test_a_file_that_is_no_record_is_named_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.jsonl").write_text(text)
    command = [sys.executable, str(COMPARE), str(tmp_path / "bad.jsonl"), str(tmp_path / "none.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "bad.jsonl: expected a record" in done.stderr
