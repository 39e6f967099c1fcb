"""What a person sees of a run while it goes, whatever the names and the terminal."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from samples import sample

from gpupeak.cli.extract import print_report
from gpupeak.cli.output import Output, clean
from gpupeak.cli.progress import Display
from gpupeak.errors import WriteError
from gpupeak.tally import RunReport, Tally
from gpupeak.types import Failed, FramePlan, NoPeak, Saved

HOSTILE = "[bold]x[/bold]\x1b[31m\r\n\x07:smile:"


class Terminal(io.StringIO):
    """What a terminal is sent."""

    def isatty(self) -> bool:
        return True

    @property
    def shown(self) -> str:
        """Without the sequences that move the cursor and colour."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", self.getvalue())


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)


def output(
    monkeypatch: pytest.MonkeyPatch, file: io.StringIO, width: int = 80, height: int = 24, colour: bool = False
) -> Output:
    """A console that writes to `file`, a terminal of that size if it is one."""
    for name, value in {"COLUMNS": str(width), "LINES": str(height), "TERM": "xterm-256color"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setenv("NO_COLOR", "" if colour else "1")
    monkeypatch.setattr("sys.stderr", file)
    return Output(stderr=True)


def tally(name: str = "mer2023", listed: int = 100, skipped: int = 0) -> Tally:
    return Tally(name, Path("features") / name, listed, skipped=skipped)


def saved(directory: Path, name: str = "clip", fallback: NoPeak | None = None) -> Saved:
    return Saved(FramePlan(sample(directory, name), (0,) * 8, 10, "h264", fallback=fallback), {})


def failed(directory: Path, name: str = "clip", reason: str = "no moov atom") -> Failed:
    return Failed(sample(directory, name), "decode", reason)


def tell(display: Display, count: Tally, outcome: Saved | Failed) -> None:
    count.add(outcome)
    display.advanced(count, outcome)


@given(st.text())
def test_cleaned_text_is_one_line_that_no_terminal_obeys(text: str) -> None:
    assert clean(text).isprintable()
    if text.isprintable():
        assert clean(text) == text


def test_clean_keeps_what_can_be_read_and_spells_out_the_rest() -> None:
    assert clean("样本 é [bold]") == "样本 é [bold]"
    assert clean("a\x1b[2J\nb\u202e\udc80") == r"a\x1b[2J\nb\u202e\udc80"
    assert clean(Path("a\tb")) == r"a\tb"


def test_a_reader_that_goes_away_ends_the_output_and_nothing_else() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    console = Output()
    console.file = os.fdopen(writer, "w")
    console.say("nobody reads this")
    console.say("nor this")
    console.file.close()


def test_standard_output_that_takes_nothing_is_an_error_and_standard_error_is_not() -> None:
    for output in (Output(), Output(stderr=True)):
        with Path("/dev/full").open("w") as full:
            output.file = full
            if output.stderr:
                output.say("a warning")
            else:
                with pytest.raises(WriteError, match="standard output: cannot be written: No space left on device"):
                    output.say("an answer")
            output.out("nothing is tried again")


# While the run goes


def test_lines_come_every_ten_seconds_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, file = Clock(monkeypatch), io.StringIO()
    count = tally(listed=37, skipped=2)
    with Display(output(monkeypatch, file)) as display:
        display.started((count,))
        count.start()
        for index in range(35):
            clock.now += 1
            tell(display, count, saved(tmp_path, fallback=NoPeak("no AU file", "x") if index == 0 else None))
    assert file.getvalue().splitlines() == [
        "mer2023: 37 listed, 2 already done",
        "mer2023: 12 of 37 done: 10 saved, 2 skipped, 1 fell back, 1.0 samples/s, 0:00:25 left",
        "mer2023: 22 of 37 done: 20 saved, 2 skipped, 1 fell back, 1.0 samples/s, 0:00:15 left",
        "mer2023: 32 of 37 done: 30 saved, 2 skipped, 1 fell back, 1.0 samples/s, 0:00:05 left",
        "mer2023: 37 of 37 done: 35 saved, 2 skipped, 1 fell back, 1.0 samples/s, 35.0 s",
    ]


@pytest.mark.parametrize("terminal", [False, True])
def test_the_first_failures_of_a_dataset_are_named(
    terminal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Terminal() if terminal else io.StringIO()
    counts = tally("one"), tally("two")
    with Display(output(monkeypatch, file)) as display:
        display.started(counts)
        for count in counts:
            for index in range(7):
                tell(display, count, failed(tmp_path, f"clip{index}"))
    for dataset in ("one", "two"):
        named = re.findall(rf"failed: {dataset}/(clip\d): decode: no moov atom", file.getvalue())
        assert named == [f"clip{index}" for index in range(5)]


def test_quiet_leaves_the_notices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = Terminal()
    count = tally(listed=1)
    with Display(output(monkeypatch, file), quiet=True) as display:
        display.notice("on the CPU: there is no GPU")
        display.started((count,))
        tell(display, count, failed(tmp_path))
    assert file.shown == "on the CPU: there is no GPU\n"
    assert display.so_far().notices == ("on the CPU: there is no GPU",)
    assert display.so_far().datasets == (count,)


@pytest.mark.parametrize("terminal", [False, True])
def test_names_and_reasons_do_not_drive_the_terminal(
    terminal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Terminal() if terminal else io.StringIO()
    console = output(monkeypatch, file, width=200)
    count = tally("[red]corpus\x1b[2J", listed=1)
    with Display(console) as display:
        display.notice(HOSTILE)
        display.started((count,))
        tell(display, count, failed(tmp_path, "clip", HOSTILE))
    count.warnings.append(HOSTILE)
    print_report(console, RunReport((count,), 12.5, "cpu", False, ()))
    assert clean(HOSTILE) in file.getvalue()
    assert r"[red]corpus\x1b[2J" in file.getvalue()
    for sequence in ("\x1b[31m", "\x1b[2J", "\x07"):
        assert sequence not in file.getvalue()


@pytest.mark.parametrize("width", [60, 79, 80, 99, 100, 200])
@pytest.mark.parametrize("height", [12, 40])
def test_the_live_table_fits_the_terminal(
    width: int, height: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Terminal()
    counts = tuple(tally(f"数据集_number_{index}_of_twenty", 20000, skipped=19000) for index in range(20))
    with Display(output(monkeypatch, file, width, height)) as display:
        display.started(counts)
        for index, count in enumerate(counts[:3]):
            for _ in range(10):
                tell(display, count, saved(tmp_path, fallback=NoPeak("no AU file", "x")))
            tell(display, count, failed(tmp_path, str(index)))
        file.seek(0)
        file.truncate()
    # What is left is the last picture, drawn when the display ends and then taken away.
    lines = [line.rstrip() for line in file.shown.splitlines()]
    picture = lines[: next(i for i, line in enumerate(lines) if line.startswith("all")) + 1]
    assert len(picture) <= height - 3
    assert all(cell_len(line) <= width for line in picture)
    assert "380033/400000" in picture[-1]
    assert next(line for line in picture if "19011/20000" in line).split()[-6:-2] == [*("19011/20000", "10", "1", "10")]
    assert len(picture) == (5 if height == 12 else 22)
    assert "\x1b[?25h" in file.getvalue(), "the cursor is back"


@pytest.mark.parametrize(
    ("steps", "status"),
    [
        (0, "reading the lists of samples"),
        (1, "loading the encoder"),
        (2, "stopping after what is in hand; press Ctrl-C again to stop at once"),
    ],
)
def test_the_live_display_says_what_is_being_waited_for(
    steps: int, status: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    file = Terminal()
    with Display(output(monkeypatch, file)) as display:
        if steps > 0:
            display.started((tally(),))
        if steps > 1:
            display.stopping()
    assert status in file.shown
    assert capfd.readouterr().err == "", "nothing is written past the live display"


@pytest.mark.parametrize("colour", [False, True])
def test_no_colour_is_respected(colour: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = Terminal()
    count = tally(listed=1)
    count.add(failed(tmp_path))
    print_report(output(monkeypatch, file, colour=colour), RunReport((count,), 12.5, "cpu", False, ()))
    assert "mer2023 failed" in file.shown
    assert bool(re.search(r"\x1b\[[0-9;]*3[0-9]", file.getvalue())) == colour
