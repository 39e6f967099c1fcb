"""Signals and readers that go away: in this process where it lives on, else in one of its own."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from gpupeak import ExtractConfig, RunReport
from gpupeak.cli.app import main
from gpupeak.tally import Observer, Tally

AS_A_PROCESS = """
import atexit, os, signal, sys
from gpupeak import __main__ as process

def cut(*_):
    os.kill(os.getpid(), signal.SIGINT)

when = sys.argv.pop(1)
if when == "loading":
    sys.addaudithook(lambda event, arguments: event == "import" and arguments[0] == "gpupeak.cli.app" and cut())
elif when == "ended":  # among the last things that the process does
    atexit.register(cut)
sys.argv[0] = "gpupeak"
sys.exit(process.main())
"""


@pytest.mark.parametrize(("when", "code"), [("loading", 130), ("ended", 0)])
def test_a_signal_while_it_loads_or_when_all_is_done_shows_no_traceback(when: str, code: int) -> None:
    command = [sys.executable, "-c", AS_A_PROCESS, when, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (code, "")
    assert ("gpupeak" in done.stdout) == (when == "ended")


def interrupted(number: int, *, working: bool = True) -> Any:
    """A run that gets a signal, once samples are worked on or before, and ends as it is asked to."""

    def act(config: ExtractConfig, observer: Observer, stop: threading.Event) -> RunReport:
        tally = Tally("mine", Path("features"), listed=5)
        observer.started((tally,))
        if working:
            tally.start()
        signal.raise_signal(number)
        return RunReport((tally,), 1.0, "cpu", stop.is_set(), ())

    return act


def test_the_first_signal_finishes_what_is_in_hand(stage: Any, capfd: pytest.CaptureFixture[str]) -> None:
    stage.act = interrupted(signal.SIGTERM)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["extract", "--quiet", "--json"]) == 130
    assert signal.getsignal(signal.SIGTERM) == before
    out, error = capfd.readouterr()
    summary = json.loads(out)
    assert error.startswith("stopping after what is in hand; press Ctrl-C again to stop at once\n")
    assert (summary["exit_code"], summary["interrupted"], summary["error"]) == (130, True, None)
    assert "interrupted, 5 samples not reached: the same command goes on from here" in error


@pytest.mark.parametrize("listed", [0, 5], ids=["listing", "loading the encoder"])
def test_a_signal_before_samples_are_worked_on_ends_it(
    listed: int, stage: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.act = interrupted(signal.SIGINT, working=False) if listed else lambda *_: signal.raise_signal(signal.SIGINT)
    assert main(["extract", "--json"]) == 130
    out, error = capsys.readouterr()
    assert error.endswith("error: interrupted\n")
    summary = json.loads(out)
    assert (summary["exit_code"], summary["interrupted"]) == (130, True)
    assert [tally["listed"] for tally in summary["datasets"]] == [listed] * bool(listed)


def test_an_ignored_interrupt_stays_ignored(stage: Any) -> None:
    stage.act = interrupted(signal.SIGINT)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for what a script runs in the background
    try:
        assert main(["extract"]) == 0
    finally:
        signal.signal(signal.SIGINT, before)


RUNS = """
import os, sys, threading
from pathlib import Path
import gpupeak.run
from gpupeak.tally import RunReport, Tally
from gpupeak.types import Failed, Sample, SamplingRule

def begin(observer):
    tally = Tally("mine", Path("features"), listed=5)
    observer.started((tally,))
    tally.start()
    outcome = Failed(Sample("mine", "bad", None, (), SamplingRule(), Path("x.npy")), "find", "no video")
    tally.add(outcome)
    observer.advanced(tally, outcome)
    return RunReport((tally,), 1.0, "cpu", False, ())

def wait(event, letter):  # on another thread, as the line's own threads do
    os.write(int(os.environ["TOLD"]), letter)
    waiting = threading.Thread(target=event.wait, daemon=True)
    waiting.start()
    waiting.join()

def stubborn(config, observer, stop):
    begin(observer)
    wait(stop, b"b")
    wait(threading.Event(), b"s")

def done(config, observer, stop):
    return begin(observer)

gpupeak.run.extract = globals()[sys.argv.pop(1)]
if __name__ == "__main__":
    from gpupeak.cli.app import main
    sys.exit(main())
"""


def start(directory: Path, run: str, **streams: Any) -> subprocess.Popen[str]:
    """`gpupeak extract` in a process of its own."""
    script = directory / "runs.py"
    script.write_text(RUNS)
    size = {"COLUMNS": "100", "LINES": "30", "TERM": "xterm-256color"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    environment = {**os.environ, **size, "TOLD": str(streams.get("pass_fds", [0])[0])}
    return subprocess.Popen([sys.executable, str(script), run, "extract"], env=environment, text=True, **streams)


def test_a_second_interrupt_ends_it_and_gives_the_terminal_its_cursor_back(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    told, telling = os.pipe()  # the run tells where it is, a letter at a time
    process = start(tmp_path, "stubborn", stderr=theirs, pass_fds=(telling,))
    os.close(theirs)
    for letter in (b"b", b"s"):
        assert os.read(told, 1) == letter
        process.send_signal(signal.SIGINT)
    got = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while chunk := os.read(ours, 65536):
            got += chunk
    out, _ = process.communicate(timeout=60)
    for descriptor in (ours, told, telling):
        os.close(descriptor)
    assert (process.returncode, out) == (130, "")
    assert got.rindex(b"\x1b[?25h") > got.rindex(b"\x1b[?25l")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_goes_away_changes_nothing_about_the_run(stream: str, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = start(tmp_path, "done", **{stream: writer})
    os.close(writer)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in (error or "")
    assert "BrokenPipe" not in (error or "")
    assert stream == "stdout" or "mine failed: find: no video (1)" in out
