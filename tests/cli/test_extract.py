"""What a run ends with: tables, JSON, exit codes; one line for every error; readers that go away, Ctrl-C."""

from __future__ import annotations

import io
import json
import re
import resource
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from clips import write_clip
from samples import plan, sample

import gpupeak.demo.show
from gpupeak import ExtractConfig, RunReport
from gpupeak.cli.app import main
from gpupeak.errors import WriteError
from gpupeak.tally import Observer, Tally
from gpupeak.types import Failed, Saved

NO_ROOM = "out of memory: this process may have 3.0 GiB of addresses (ulimit -v)"


def run(directory: Path, error: Exception | None = None) -> Any:
    """A run that saves one sample of three, fails another and prints something of its own; then raises `error`."""

    def act(config: ExtractConfig, observer: Observer, stop: threading.Event) -> RunReport:
        tally = Tally("mine", directory, listed=3, warnings=["mine: odd"])
        observer.started((tally,))
        print("a library prints")
        observer.notice("on the CPU")
        for outcome in (Saved(plan(directory), {}), Failed(sample(directory, "bad"), "decode", "no moov atom")):
            tally.add(outcome)
            observer.advanced(tally, outcome)
        if error is not None:
            raise error
        return RunReport((tally,), 1.0, "cpu", False, ())

    return act


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (WriteError("x\x1b[2J\n[red]y"), 3, r"x\x1b[2J [red]y"),
        (RuntimeError("two\nlines"), 3, "unexpected RuntimeError: two lines (please report it; with GPUPEAK_T"),
        (MemoryError(), 3, NO_ROOM),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), 3, NO_ROOM),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4194304 bytes"),
            3,
            NO_ROOM,
        ),
        (ImportError("libtorch.so: no such file"), 3, "a package cannot be loaded: libtorch.so: no such file (g"),
    ],
)
def test_an_error_is_one_line_and_its_exit_code(
    error: Exception,
    code: int,
    message: str,
    stage: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def act(config: ExtractConfig, observer: Observer, stop: threading.Event) -> RunReport:
        raise error from OSError("the driver is missing")

    stage.act = act
    monkeypatch.setattr(resource, "getrlimit", lambda which: (3 << 30, 3 << 30))
    assert main(["extract"]) == code
    out, told = capsys.readouterr()
    assert (out, told.count("\n")) == ("", 1)
    assert told.startswith(f"error: {message}")
    monkeypatch.setenv("GPUPEAK_TRACEBACK", "1")
    assert main(["extract"]) == code
    assert re.search(r"OSError: the driver is missing\n(.*\n)+error: ", capsys.readouterr().err)


def test_the_table_or_json_goes_to_standard_output_and_all_else_to_standard_error(
    stage: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.act = run(tmp_path)
    failed = ["mine failed: decode: no moov atom (1)", "  bad: decode: no moov atom"]
    failed += [f"  all of them: {tmp_path}/manifest.jsonl", "warning: mine: odd"]
    assert main(["extract"]) == 1
    out, error = capsys.readouterr()
    assert set(failed) < set(out.splitlines())
    assert "prints" not in out
    assert error.splitlines() == [
        *["mine: 3 listed, 0 already done", "a library prints", "on the CPU", "failed: mine/bad: decode: no moov atom"]
    ]
    assert main(["extract", "--quiet"]) == 1
    out, error = capsys.readouterr()
    assert (out, error.splitlines()) == ("", ["a library prints", "on the CPU", *failed])
    assert main(["extract", "--json"]) == 1
    out, error = capsys.readouterr()
    assert out.count("\n") == 1
    summary = json.loads(out)
    assert (summary["exit_code"], summary["error"], summary["saved"], summary["failed"]) == (1, None, 1, 1)
    assert summary["datasets"][0]["failed_first"] == [{"sample": "bad", "stage": "decode", "reason": "no moov atom"}]
    assert failed[0] in error


@pytest.mark.parametrize("as_json", [False, True])
def test_a_run_that_cannot_go_on_still_tells_what_it_did(
    as_json: bool, stage: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.act = run(tmp_path, WriteError("out: no space left on the disk"))
    assert main(["extract", *["--json"] * as_json]) == 3
    out, error = capsys.readouterr()
    assert error.endswith("error: out: no space left on the disk\n")
    if as_json:
        summary = json.loads(out)
        assert (summary["exit_code"], summary["error"]) == (3, "out: no space left on the disk")
        for counts in (summary, *summary["datasets"]):
            assert (counts["saved"], counts["failed"], counts["not_reached"]) == (1, 1, 1)
    else:
        assert re.search(r"^mine +1 +0 +0 +0 +1 +1 ", out, re.MULTILINE)


def test_the_demo_gets_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []

    def run_demo(out: Path, console: object, command: object, device: str, weights: str) -> int:
        calls.append((out, device, weights))
        return 1

    monkeypatch.setattr(gpupeak.demo.show, "run_demo", run_demo)
    assert main(["demo"]) == 1
    assert main(["demo", "--out", "x", "--device", "cpu", "--weights", "openai"]) == 1
    assert calls == [(Path("demo"), "auto", "random:0"), (Path("x"), "cpu", "openai")]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("视频 videos")
    write_clip(directory / "样本 1.mp4", frames=20)
    write_clip(directory / "-b.mp4", frames=30)
    (directory / "text.mp4").write_text("no video")
    return directory


def test_inspect_a_video_and_a_sample(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(videos / "样本 1.mp4")]) == 0
    text = capsys.readouterr().out
    assert f"video       {videos}/样本 1.mp4\n" in text
    assert "indices     0 2 5 8 10 13 16 19\n" in text
    own = ["--videos", str(videos), "--name", "mine", "--sampling", "uniform", "--json"]
    assert main(["inspect", *own, "--", "-b"]) == 0
    out, error = capsys.readouterr()
    assert (error, out.count("\n")) == ("", 1)
    found = json.loads(out)
    assert (found["sample"], found["frames"], found["exit_code"]) == ("mine/-b", 30, 0)


def test_a_name_that_the_locale_cannot_spell_does_not_end_the_command(
    videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert main(["inspect", str(videos / "样本 1.mp4")]) == 0
    sys.stdout.seek(0)
    assert r"\u6837\u672c 1.mp4" in sys.stdout.read()
