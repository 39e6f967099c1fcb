"""What a person sees of a run while it goes, whatever the names and the terminal."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len
from samples import sample

from gpupeak.cli.extract import print_report
from gpupeak.cli.output import Output, clean
from gpupeak.cli.progress import Display, watching
from gpupeak.errors import WriteError
from gpupeak.tally import RunReport, Tally
from gpupeak.types import Failed, FramePlan, NoPeak, Outcome, Saved

HOSTILE = "[bold]x[/bold]\x1b[31m\r\n\x07:smile:"


class Terminal(io.StringIO):
    """What a terminal is sent."""

    def isatty(self) -> bool:
        return True

    @property
    def shown(self) -> str:
        """Without the sequences that move the cursor and colour."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", self.getvalue())


def output(monkeypatch: pytest.MonkeyPatch, file: io.StringIO, width: int = 80) -> Output:
    """A console that writes to `file`, a terminal of that width if it is one."""
    for name, value in {"COLUMNS": str(width), "LINES": "24", "TERM": "xterm-256color"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("sys.stderr", file)
    return Output(stderr=True)


def tally(name: str = "mer2023", listed: int = 100, skipped: int = 0) -> Tally:
    return Tally(name, Path("features") / name, listed, skipped=skipped)


def saved(directory: Path, fallback: NoPeak | None = None) -> Saved:
    return Saved(FramePlan(sample(directory), (0,) * 8, 10, "h264", fallback=fallback), {})


def failed(directory: Path, name: str, reason: str) -> Failed:
    return Failed(sample(directory, name), "decode", reason)


def tell(display: Display, count: Tally, outcome: Outcome) -> None:
    count.add(outcome)
    display.advanced(count, outcome)


@given(st.text())
@example("样本 [bold]\x1b[2J\nb\u202e\udc80")
def test_cleaned_text_is_one_line_that_no_terminal_obeys(text: str) -> None:
    assert clean(text).isprintable()
    if text.isprintable():
        assert clean(text) == text


def test_standard_output_that_takes_nothing_is_an_error_and_standard_error_is_not() -> None:
    for output in (Output(), Output(stderr=True)):
        with Path("/dev/full").open("w") as full:
            output.file = full
            if output.stderr:
                output.say("a warning")
            else:
                with pytest.raises(WriteError, match="standard output: cannot be written: No space left on device"):
                    output.say("an answer")
            output.say("nothing is tried again")


def test_lines_come_every_ten_seconds_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    file, count = io.StringIO(), tally(listed=37, skipped=2)
    with Display(output(monkeypatch, file)) as display:
        display.started((count,))
        count.start()
        for index in range(35):
            now += 1
            tell(display, count, saved(tmp_path, NoPeak("no AU file", "x") if index == 0 else None))
    assert file.getvalue().splitlines() == [
        "mer2023: 37 listed, 2 already done",
        "mer2023: 12 of 37 done: 10 saved, 1 fell back, 1.0 samples/s, 0:00:25 left",
        "mer2023: 22 of 37 done: 20 saved, 1 fell back, 1.0 samples/s, 0:00:15 left",
        "mer2023: 32 of 37 done: 30 saved, 1 fell back, 1.0 samples/s, 0:00:05 left",
        "mer2023: 37 of 37 done: 35 saved, 1 fell back, 1.0 samples/s, 0:00:00 left",
    ]


@pytest.mark.parametrize("file", [Terminal(), io.StringIO()], ids=["terminal", "file"])
def test_the_first_failures_of_a_dataset_are_named_and_do_not_drive_the_terminal(
    file: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    console, counts = output(monkeypatch, file, width=200), (tally("[red]corpus\x1b[2J"), tally("two"))
    with Display(console) as display:
        display.notice(HOSTILE)
        display.started(counts)
        for count in counts:
            for index in range(7):
                tell(display, count, failed(tmp_path, f"clip{index}", HOSTILE))
    for dataset in (r"[red]corpus\x1b[2J", "two"):
        named = re.findall(
            f"failed: {re.escape(f'{dataset}/')}(.*): decode: {re.escape(clean(HOSTILE))}", file.getvalue()
        )
        assert named == [f"clip{index}" for index in range(5)]
    counts[0].warnings.append(HOSTILE)
    print_report(console, RunReport(counts, 12.5, "cpu", False, ()))
    assert file.getvalue().count(clean(HOSTILE)) > 22
    for sequence in ("\x1b[31m", "\x1b[2J", "\x07"):
        assert sequence not in file.getvalue()


@pytest.mark.parametrize("width", [80, 200])
def test_a_terminal_shows_a_bar_for_each_dataset(width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    file = Terminal()
    counts = tuple(tally(f"数据集{index}", 20000, skipped=19000) for index in range(9))
    with Display(output(monkeypatch, file, width)) as display:
        assert "reading the lists of samples" in file.shown
        display.started(counts)
        counts[0].start()
        outcomes: list[Outcome] = [saved(tmp_path, NoPeak("no AU file", "x"))] * 10
        for outcome in (*outcomes, failed(tmp_path, "clip", "no moov atom")):
            now += 1
            tell(display, counts[0], outcome)
        file.seek(0)
        file.truncate()
        display.stopping()
    # What is left is the last picture, drawn when the display ends and then taken away.
    lines = [line for line in file.shown.splitlines() if line.startswith("数据集")][-9:]
    assert [line[3] for line in lines] == list("012345678")
    assert all(cell_len(line.rstrip()) <= width for line in lines)
    assert re.search(r"19011/20000 10 saved, 1 failed, 10 fell back, 0.91 samples/s", lines[0])
    assert "19000/20000" in lines[8]
    assert "stopping after what is in hand; press Ctrl-C again" in file.shown
    assert "\x1b[?25h" in file.getvalue(), "the cursor is back"


@pytest.mark.parametrize(("quiet", "seconds"), [(False, 3), (False, 0), (True, 3)])
def test_what_takes_longer_than_two_seconds_has_a_bar(
    quiet: bool, seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, clock, terminal = time.monotonic(), time.monotonic, Terminal()
    monkeypatch.setattr("time.monotonic", lambda: began)
    with watching(output(monkeypatch, terminal), quiet=quiet) as watch:
        monkeypatch.setattr("time.monotonic", lambda: clock() + seconds)
        assert list(watch(iter("abc"), 3, description="mer2023")) == ["a", "b", "c"]
    assert ("mer2023" in terminal.shown and "3/3" in terminal.shown) is (seconds > 0 and not quiet)
