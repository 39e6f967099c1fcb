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
    {"part": "planning", "row": "all", "samples_per_s": 200.0},
    {"part": "loading", "row": "one", "load_us": 40.0},
    {"part": "writing", "row": "files", "median_s": 2.0, "fastest_s": 1.0, "ok": True},
    {"part": "planning", "row": "files", "seconds": {"au_info": 1.0}, "mbit_per_s": 2.0, "frames_a_sample": 5},
    {"part": "growth", "row": "size", "points": [{"side": 1, "sample_ms": 4.0}, {"side": 2, "sample_ms": 8.0}]},
    {"part": "encoding", "row": "tower", "images_per_s": {"eager": 10.0}},
]


def compare(directory: Path, changed: list[dict[str, Any]], *options: str) -> tuple[int, str]:
    for name, rows in (("old", ROWS), ("new", changed)):
        lines = [{"conditions": {"cpu": "x", "commit": name}}, *rows]
        (directory / f"{name}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    command = [sys.executable, str(COMPARE), "old.jsonl", "new.jsonl", *options]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def changed(row: int, **figures: object) -> list[dict[str, Any]]:
    return [{**each, **figures} if number == row else each for number, each in enumerate(ROWS)]


def test_the_same_record_has_not_changed(tmp_path: Path) -> None:
    code, told = compare(tmp_path, ROWS)
    assert code == 0
    assert "commit: old -> new" in told
    assert "SLOWER" not in told
    assert told.count("1.00x") == 8


@pytest.mark.parametrize(
    ("row", "slower", "faster"),
    [
        (0, {"ratios": {"decord": {"median": 1.2}}}, {"ratios": {"decord": {"median": 1.8}}}),
        (1, {"samples_per_s": 170.0}, {"samples_per_s": 230.0}),
        (2, {"load_us": 46.0}, {"load_us": 30.0}),
        (3, {"median_s": 2.3}, {"median_s": 1.7}),
        (4, {"seconds": {"au_info": 1.2}}, {"seconds": {"au_info": 0.8}}),
        (5, {"points": [{"sample_ms": 4.0}, {"sample_ms": 9.0}]}, {"points": [{"sample_ms": 3.0}, {"sample_ms": 8.0}]}),
        (6, {"images_per_s": {"eager": 8.0}}, {"images_per_s": {"eager": 12.0}}),
    ],
)
def test_what_got_slower_fails_and_what_got_faster_does_not(
    tmp_path: Path, row: int, slower: dict[str, Any], faster: dict[str, Any]
) -> None:
    code, told = compare(tmp_path, changed(row, **slower))
    assert (code, told.count("SLOWER")) == (1, 1)
    assert compare(tmp_path, changed(row, **slower), "--past", "1.5")[0] == 0
    code, told = compare(tmp_path, changed(row, **faster))
    assert (code, told.count("faster")) == (0, 1)


def test_beside_others_the_machine_s_own_pace_does_not_count(tmp_path: Path) -> None:
    assert compare(tmp_path, changed(0, median_s=3.0, took_s=30))[0] == 0


def test_what_says_nothing_about_speed_is_not_compared(tmp_path: Path) -> None:
    others = {"mbit_per_s": 9.0, "frames_a_sample": 50, "took_s": 99}
    assert compare(tmp_path, changed(4, **others))[1].count("1.00x") == 8


def test_what_is_no_longer_measured_is_named(tmp_path: Path) -> None:
    failed = {"part": "encoding", "row": "tower", "ok": False, "says": "RuntimeError: no"}
    fewer = {"part": "growth", "row": "size", "points": [{"sample_ms": 5.0}]}
    code, told = compare(tmp_path, [*ROWS[:5], fewer, failed])
    assert code == 0
    assert "FAILED in the new record: encoding: tower: RuntimeError: no" in told
    assert "only in the old record: encoding: tower: images_per_s eager" in told
    assert "only in the old record: growth: size: points 1 of 2 sample_ms" in told


def test_rows_of_one_record_only_are_named(tmp_path: Path) -> None:
    code, told = compare(tmp_path, [*ROWS[1:], {"part": "new", "row": "row"}])
    assert code == 0
    assert "only in the old record: decoding: clip" in told
    assert "only in the new record: new: row" in told


@pytest.mark.parametrize("text", ["", "no json", "[1]", '{"conditions": 3}', '{"conditions": {}}\n{"part": "x"}\n'])
def test_a_file_that_is_no_record_is_named_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.jsonl").write_text(text)
    command = [sys.executable, str(COMPARE), str(tmp_path / "bad.jsonl"), str(tmp_path / "none.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "bad.jsonl: expected a record" in done.stderr
