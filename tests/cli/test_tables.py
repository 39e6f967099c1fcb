"""The tables and lines that commands end with."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from rich.cells import cell_len
from rich.text import Text
from samples import sample

from gpupeak import RunReport
from gpupeak.check.inspect import Inspection
from gpupeak.check.plan import Plan
from gpupeak.cli.app import main
from gpupeak.cli.output import Output, print_table
from gpupeak.tally import Tally
from gpupeak.types import Failed, FramePlan, NoPeak, Peak, Sample, SamplingRule, Saved

Told: TypeAlias = Callable[..., str]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Told:
    """What a command prints whose work has this value."""

    def told(words: str, value: object, width: int = 80) -> str:
        command = words.split()[0]
        work = {"extract": "run.extract", "plan": "check.plan.plan", "inspect": "check.inspect.inspect_video"}[command]
        monkeypatch.setattr(f"gpupeak.{work}", lambda *_: value)
        monkeypatch.setenv("COLUMNS", str(width))
        main(words.split())
        return capsys.readouterr().out

    return told


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def tally(name: str, listed: int, skipped: int = 0) -> Tally:
    return Tally(name, Path("features") / name, listed, skipped=skipped)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_header_is_broken_and_lines_wrap_at_words(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("FORCE_COLOR", "1")  # as a terminal does
    headers = ["whole", "missing", "broken", "stale", "alike", "changed", "different", "listed/ expected"]
    print_table(Output(), headers, [["a_name_of_thirty-two_characters__", *["12799"] * 7, "12799/12799"]])
    lines = [line.rstrip() for line in re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out).splitlines()]
    assert max(map(cell_len, lines)) <= width
    words = set(" ".join(lines).replace("listed/expected", "listed/ expected").split())
    assert {*" ".join(headers).split(), "12799/12799"} < words
    if width == 80:
        Output().say(Text("output       ok      " + "/tmp/" + "x" * 40 + ": 44.0 GB free, 3 samples to write"))
        assert capsys.readouterr().out.endswith(": 44.0 GB \nfree, 3 samples to write\n")
        Output().say("features in " + "/path" * 20)
        assert "/path" * 20 in capsys.readouterr().out, "can be copied"


@pytest.mark.parametrize("width", [80, 200])
def test_the_table_of_a_run(width: int, told: Told, tmp_path: Path) -> None:
    one, two = tally("情感数据集", listed=20, skipped=3), tally("two", listed=5, skipped=5)
    for index in range(8):
        fallback = NoPeak("no AU file" if index else "cut JSON", "x") if index < 4 else None
        one.add(Saved(FramePlan(sample(tmp_path, "clip"), (0,) * 8, 10, "h264", fallback=fallback), {}))
    for index in range(7):
        one.add(Failed(sample(tmp_path, f"bad{index}"), "decode", "no moov atom"))
    one.began, one.ended = 100.0, 104.0
    one.close()
    text = told("extract", RunReport((one, two), 12.5, "cpu", True, ()), width)
    table = rows(text)
    assert table[1] == ["dataset", "saved", "skipped", "back", "clamped", "failed", "reached", "seconds", "samples/s"]
    assert table[3] == ["情感数据集", "8", "3", "4", "0", "7", "2", "4.0", "2.0"]
    assert table[4] == ["two", "0", "5", "0", "0", "0", "0", "0.0", "-"]
    assert table[5] == ["all", "8", "8", "4", "0", "7", "2", "4.0", "2.0"]
    assert "loading, listing and recording: 8.5 s more\n" in text
    assert len({cell_len(line) for line in text.splitlines()[3:6]}) == 1, "columns align under Chinese names"
    assert "情感数据集 fell back: no AU file (3), cut JSON (1)\n" in text
    assert "情感数据集 failed: decode: no moov atom (7)\n" in text
    assert re.findall(r"^  (bad\d): decode: no moov atom$", text, re.MULTILINE) == [f"bad{i}" for i in range(5)]
    assert "all of them: features/情感数据集/manifest.jsonl\n" in text
    assert "features in features/two\n" in text
    assert "warning: 情感数据集: 4 of 8 samples saved fell back" in text
    assert "interrupted, 2 samples not reached" in text


def planned(name: str, **changes: Any) -> Plan:
    fields: dict[str, Any] = {"dataset": name, "directory": Path("features") / name, "listed": 400, "expected": 411}
    fields |= {"done": 100, "stale": 0, "missing_videos": 0, "missing_first": (), "refused": (), "warnings": ()}
    fields |= {"peaks": Counter(au_info=390), "no_peak": Counter({"no AU file": 10}), "bytes_to_write": 300 * 24704}
    return Plan(**{**fields, **changes})


def test_the_table_of_a_plan(told: Told) -> None:
    refused = ("../x\n", "", "x" * 81, *"ABC")
    plans = (
        planned("mer2023", warnings=("mer2023: 400 samples listed, expected 411",), refused=refused),
        planned("own", expected=None, missing_videos=7, missing_first=tuple("abcde"), peaks=Counter(openface=3)),
    )
    text = told("plan", plans)
    table = rows(text)
    assert table[1] == ["dataset", "expected", "done", "video", "info", "openface", "peak", "write"]
    assert table[3] == ["mer2023", "400/411", "100", "0", "390", "0", "10", "7.4", "MB"]
    assert table[4] == ["own", "400", "100", "7", "0", "3", "10", "7.4", "MB"]
    assert table[5] == ["all", "800", "200", "7", "390", "3", "20", "14.8", "MB"]
    assert "mer2023 without a peak: no AU file (10)\n" in text
    assert "own without a video: a, b, c, d, e, ...\n" in text
    assert f"mer2023 with names that cannot be a file's: ../x\\n, '', {'x' * 77}..., A, B, ...\n" in text
    assert "warning: mer2023: 400 samples listed, expected 411\n" in text
    assert text.endswith(f"MB\n{told('plan --quiet', plans)}")


def test_an_inspection_says_which_frames_and_why(told: Told, tmp_path: Path) -> None:
    def inspected(found: FramePlan) -> str:
        times = tuple(index / 25 for index in found.indices)
        keys = tuple(range(0, 100, 10))
        return told("inspect x", Inspection(found, 640, 360, 29.97, keys, 100, 31, times), 200)

    who = Sample("mer2023", "sample_1", tmp_path / "clip.mp4", (), SamplingRule(fallback="middle"), tmp_path / "x.npy")
    peak = Peak(61, 61, 38, 100, "au_info", Path("aus/sample_1.json"))
    text = inspected(FramePlan(who, (0, 31, 59, 60, 61, 61, 61, 61), 100, "h264", peak, clamp="index 110 to 61"))
    assert text.splitlines() == [
        "sample      mer2023/sample_1",
        f"video       {tmp_path}/clip.mp4",
        "picture     h264, 640 x 360, 29.97 frames/s",
        "frames      100",
        "key frames  10: 0, 10, 20, 30, 40, 50, 60, 70, ...",
        "sampling    emotion_peak, 8 frames",
        "peak        frame 61, by au_info in aus/sample_1.json (before 61, after 38, total 100)",
        "clamped     index 110 to 61",
        "indices     0 31 59 60 61 61 61 61",
        "at seconds  0.00 1.24 2.36 2.40 2.44 2.44 2.44 2.44",
        "decoding    31 of 100 packets",
    ]
    text = inspected(FramePlan(who, (5,) * 8, 10, "h264", fallback=NoPeak("no AU file", f"nothing in {tmp_path}")))
    assert "peak  " not in text
    assert f"fallback    middle: no AU file (nothing in {tmp_path})\n" in text
