"""What a person sees of a run: lines, a live table and tables at the end, whatever the names and the terminal."""

from __future__ import annotations

import io
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from samples import plan, sample

from gpupeak.check.survey import Examination, Survey
from gpupeak.cli.display import (
    Display,
    Output,
    clean,
    print_examination,
    print_report,
    print_survey,
    print_warnings,
)
from gpupeak.errors import WriteError
from gpupeak.tally import RunReport, Tally
from gpupeak.types import Failed, FramePlan, NoPeak, Peak, Sample, SamplingRule, Saved

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


def report(*tallies: Tally, interrupted: bool = False) -> RunReport:
    return RunReport(tallies, 12.5, "cpu", interrupted, ())


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
    print_report(console, report(count))
    print_warnings(console, report(count), failures=True)
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
    print_report(output(monkeypatch, file, colour=colour), report(count))
    assert "mer2023 failed" in file.shown
    assert bool(re.search(r"\x1b\[[0-9;]*3[0-9]", file.getvalue())) == colour


# At the end


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_the_table_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    one = tally("one", listed=20, skipped=3)
    for index in range(8):
        one.add(saved(tmp_path, fallback=NoPeak("no AU file" if index else "cut JSON", "x") if index < 4 else None))
    for index in range(7):
        one.add(failed(tmp_path, f"bad{index}"))
    one.began, one.ended = 100.0, 104.0
    one.close()
    two = tally("two", listed=5, skipped=5)
    print_report(output(monkeypatch, file), report(one, two, interrupted=True))
    text = file.getvalue()
    table = rows(text)
    assert table[1] == ["dataset", "saved", "skipped", "back", "clamped", "failed", "reached", "seconds", "samples/s"]
    assert table[3] == ["one", "8", "3", "4", "0", "7", "2", "4.0", "2.0"]
    assert table[4] == ["two", "0", "5", "0", "0", "0", "0", "0.0", "-"]
    assert table[5] == ["all", "8", "8", "4", "0", "7", "2", "12.5", "0.64"]
    assert "one fell back: no AU file (3), cut JSON (1)\n" in text
    assert "one failed: decode: no moov atom (7)\n" in text
    assert re.findall(r"^  (bad\d): decode: no moov atom$", text, re.MULTILINE) == [f"bad{i}" for i in range(5)]
    assert "all of them: features/one/manifest.jsonl\n" in text
    assert "features in features\n" in text
    assert "warning: one: 4 of 8 samples saved fell back" in text
    assert "interrupted, 2 samples not reached" in text


def test_columns_align_under_chinese_names(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    print_report(output(monkeypatch, file), report(tally("情感数据集", skipped=100), tally("x", skipped=100)))
    table = file.getvalue().splitlines()[1:6]
    assert len({cell_len(line) for line in table}) == 1


def test_a_narrow_terminal_gets_lines_that_say_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    counts = tally("one", listed=2, skipped=1), tally("two", listed=2)
    counts[0].add(saved(tmp_path))
    counts[1].add(failed(tmp_path))
    print_report(output(monkeypatch, file, width=60), report(*counts))
    lines = file.getvalue().splitlines()
    assert lines[0].startswith("one: 2 of 2 done: 1 saved, 1 skipped, ")
    assert lines[1].startswith("two: 1 of 2 done: 0 saved, 1 failed, ")
    assert lines[2].startswith("all: 3 of 4 done: 1 saved, 1 skipped, 1 failed, ")


def test_a_long_reason_is_one_line_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    count = tally(listed=1)
    count.add(failed(tmp_path, reason="word " * 100))
    print_report(output(monkeypatch, file), report(count))
    assert f"  clip: decode: {'word ' * 100}\n" in file.getvalue()


def surveyed(name: str, **changes: object) -> Survey:
    fields: dict[str, object] = {
        "dataset": name,
        "directory": Path("features") / name,
        "listed": 400,
        "expected": 411,
        "done": 100,
        "missing_videos": 0,
        "missing_first": (),
        "peaks": Counter(au_info=390),
        "no_peak": Counter({"no AU file": 10}),
        "refused": (),
        "bytes_to_write": 300 * 24704,
        "warnings": (),
    }
    return Survey(**{**fields, **changes})  # type: ignore[arg-type]


def test_the_table_of_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    surveys: Sequence[Survey] = (
        surveyed(
            "mer2023", warnings=("mer2023: 400 samples listed, expected 411",), refused=("../x\n", "", "x" * 81, *"ABC")
        ),
        surveyed("own", expected=None, missing_videos=7, missing_first=tuple("abcde"), peaks=Counter(openface=3)),
    )
    print_survey(output(monkeypatch, file), surveys)
    table = rows(file.getvalue())
    assert table[1] == ["dataset", "expected", "done", "video", "info", "openface", "peak", "write"]
    assert table[3] == ["mer2023", "400/411", "100", "0", "390", "0", "10", "7.4", "MB"]
    assert table[4] == ["own", "400", "100", "7", "0", "3", "10", "7.4", "MB"]
    assert table[5] == ["all", "800", "200", "7", "390", "3", "20", "14.8", "MB"]
    text = file.getvalue()
    assert "mer2023 without a peak: no AU file (10)\n" in text
    assert "own without a video: a, b, c, d, e, ...\n" in text
    assert f"mer2023 with names that cannot be a file's: ../x\\n, '', {'x' * 77}..., A, B, ...\n" in text
    assert "warning: mer2023: 400 samples listed, expected 411\n" in text
    file.seek(0)
    file.truncate()
    print_survey(output(monkeypatch, file), surveys, table=False)
    assert text.endswith(f"MB\n{file.getvalue()}")


def test_a_plan_without_peaks_says_nothing_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    print_survey(output(monkeypatch, file), [surveyed("mer2023", peaks=Counter(), no_peak=Counter())])
    assert rows(file.getvalue())[1] == ["dataset", "expected", "done", "video", "write"]
    assert "peak" not in file.getvalue()
    assert "all" not in file.getvalue()


def test_nine_datasets_with_every_kind_of_peak_fit_into_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    every = Counter(au_info=4659, per_frame=4659, merr_data=4659, openface=4659)
    print_survey(
        output(monkeypatch, file), [surveyed("ovmerdplus", listed=4659, expected=4659, done=4659, peaks=every)]
    )
    assert rows(file.getvalue())[3][0] == "ovmerdplus"
    assert max(map(cell_len, file.getvalue().splitlines())) <= 80


def examined(found: FramePlan) -> Examination:
    return Examination(
        sample=found.sample,
        plan=found,
        width=640,
        height=360,
        fps=29.97,
        key_frames=tuple(range(0, 100, 10)),
        packets=100,
        packets_needed=31,
        times=tuple(index / 25 for index in found.indices),
    )


def test_an_examination_says_which_frames_and_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    who = Sample("mer2023", "sample_1", tmp_path / "clip.mp4", (), SamplingRule(), tmp_path / "x.npy")
    peak = Peak(61, 61, 38, 100, "au_info", Path("aus/sample_1.json"))
    found = FramePlan(who, (0, 31, 59, 60, 61, 61, 61, 61), 100, "h264", peak, clamp="index 110 to 61")
    print_examination(output(monkeypatch, file), examined(found))
    assert file.getvalue().splitlines() == [
        "sample      mer2023/sample_1",
        f"video       {tmp_path}/clip.mp4",
        "picture     h264, 640 x 360, 29.97 frames/s",
        "frames      100, of them 10 key frames: 0, 10, 20, 30, 40, 50, 60, 70, ...",
        "sampling    emotion_peak, 8 frames",
        "peak        frame 61, by au_info in aus/sample_1.json (before 61, after 38, total 100)",
        "clamped     index 110 to 61",
        "indices     0 31 59 60 61 61 61 61",
        "at seconds  0.00 1.24 2.36 2.40 2.44 2.44 2.44 2.44",
        "decoding    31 of 100 packets, for 5 different frames",
    ]


def test_an_examination_tells_of_a_fallback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    who = Sample("own", "clip", tmp_path / "clip.mp4", (), SamplingRule(fallback="middle"), tmp_path / "x.npy")
    fallback = NoPeak("no AU file", f"nothing in {tmp_path}")
    print_examination(output(monkeypatch, file), examined(FramePlan(who, (5,) * 8, 10, "h264", fallback=fallback)))
    assert "peak        none\n" in file.getvalue()
    assert f"fallback    middle: no AU file (nothing in {tmp_path})\n" in file.getvalue()


def test_an_examination_of_a_sampling_without_peaks_does_not_speak_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.StringIO()
    print_examination(output(monkeypatch, file), examined(plan(tmp_path)))
    assert "peak" not in file.getvalue()
