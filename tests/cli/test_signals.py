"""Signals and readers that go away: in a process of its own, whose run is one of these."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

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


RUNS = """
import os, sys, threading
from pathlib import Path
import gpupeak.run
from gpupeak.tally import RunReport, Tally
from gpupeak.types import Failed, Sample, SamplingRule

def tell(word):
    os.write(int(os.environ["TOLD"]), word)

def wait(event):  # on another thread, as the line's own threads do
    waiting = threading.Thread(target=event.wait, daemon=True)
    waiting.start()
    waiting.join()

def begin(observer):
    tally = Tally("mine", Path("features"), listed=5)
    observer.started((tally,))
    outcome = Failed(Sample("mine", "bad", None, (), SamplingRule(), Path("x.npy")), "find", "no video")
    tally.add(outcome)
    observer.advanced(tally, outcome)
    return tally

def graceful(config, observer, stop):
    tally = begin(observer)
    tell(b"b")
    wait(stop)
    return RunReport((tally,), 1.0, "cpu", True, ())

def stubborn(config, observer, stop):
    begin(observer)
    tell(b"b")
    wait(stop)
    tell(b"s")
    wait(threading.Event())

def listing(config, observer, stop):
    tell(b"b")
    wait(threading.Event())

def done(config, observer, stop):
    return RunReport((begin(observer),), 1.0, "cpu", False, ())

gpupeak.run.extract = globals()[sys.argv.pop(1)]
if __name__ == "__main__":
    from gpupeak.cli.app import main
    sys.exit(main())
"""


class Process:
    """`gpupeak extract` in a process of its own; it tells where it is a letter at a time."""

    def __init__(self, directory: Path, run: str, *words: str, **streams: Any) -> None:
        script = directory / "runs.py"
        script.write_text(RUNS)
        self._told, theirs = os.pipe()
        environment = {**os.environ, "TOLD": str(theirs), "COLUMNS": "100", "LINES": "30", "TERM": "xterm-256color"}
        environment.pop("GPUPEAK_TRACEBACK", None)
        self.process = subprocess.Popen(
            [sys.executable, str(script), run, "extract", *words],
            env=environment,
            pass_fds=(theirs,),
            text=True,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams},
        )
        os.close(theirs)

    def interrupt_after(self, letter: str, number: int = signal.SIGINT) -> None:
        """Send a signal as soon as the run is where `letter` says."""
        assert os.read(self._told, 1).decode() == letter
        self.process.send_signal(number)

    def end(self) -> tuple[int, str, str]:
        out, error = self.process.communicate(timeout=60)
        os.close(self._told)
        return self.process.returncode, out, error


STOPPING = "stopping after what is in hand; press Ctrl-C again to stop at once"


def test_the_first_interrupt_finishes_what_is_in_hand(tmp_path: Path) -> None:
    process = Process(tmp_path, "graceful", "--quiet", "--json")
    process.interrupt_after("b", signal.SIGTERM)
    code, out, error = process.end()
    summary = json.loads(out)
    assert (code, summary["exit_code"], summary["interrupted"], summary["error"]) == (130, 130, True, None)
    assert STOPPING in error
    assert "interrupted, 4 samples not reached: the same command goes on from here" in error


def test_an_interrupt_before_the_run_has_begun_ends_it(tmp_path: Path) -> None:
    process = Process(tmp_path, "listing", "--json")
    process.interrupt_after("b")
    code, out, error = process.end()
    assert (code, error) == (130, "error: interrupted before anything was extracted\n")
    summary = json.loads(out)
    assert (summary["exit_code"], summary["interrupted"], summary["datasets"]) == (130, True, [])


def test_an_ignored_interrupt_stays_ignored(tmp_path: Path) -> None:
    ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for what a script runs in the background
    try:
        process = Process(tmp_path, "stubborn")
    finally:
        signal.signal(signal.SIGINT, ignored)
    process.interrupt_after("b", signal.SIGINT)
    process.process.send_signal(signal.SIGTERM)
    process.interrupt_after("s", signal.SIGTERM)
    code, _, error = process.end()
    assert code == 130
    assert error.count(STOPPING) == 1


def terminal(tmp_path: Path, run: str, letters: str) -> tuple[int, str, str]:
    """Run with standard error on a terminal; return the exit code, standard output and what the terminal got."""
    ours, theirs = pty.openpty()
    process = Process(tmp_path, run, stderr=theirs)
    os.close(theirs)
    got = b""

    def read() -> None:
        nonlocal got
        with contextlib.suppress(OSError):  # the other end is closed
            while chunk := os.read(ours, 65536):
                got += chunk

    reader = threading.Thread(target=read)
    reader.start()
    for letter in letters:
        process.interrupt_after(letter)
    code, out, _ = process.end()
    reader.join()
    os.close(ours)
    return code, out, got.decode()


@pytest.mark.parametrize(("run", "letters"), [("graceful", "b"), ("stubborn", "bs")])
def test_on_a_terminal_the_cursor_is_back_however_the_run_is_stopped(run: str, letters: str, tmp_path: Path) -> None:
    code, out, got = terminal(tmp_path, run, letters)
    assert code == 130
    assert got.rindex("\x1b[?25h") > got.rindex("\x1b[?25l")
    assert run == "stubborn" or ("1/5" in got and STOPPING in got)
    assert bool(re.search(r"^mine +0 +0 +0 +0 +1 +4 ", out, re.MULTILINE)) == (run == "graceful")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_goes_away_changes_nothing_about_the_run(stream: str, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = Process(tmp_path, "done", **{stream: writer})
    os.close(writer)
    code, out, error = process.end()
    assert code == 1
    assert "Traceback" not in (error or "")
    assert "BrokenPipe" not in (error or "")
    assert stream == "stdout" or "mine failed: find: no video (1)" in out
