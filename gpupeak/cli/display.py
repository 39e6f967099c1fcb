"""What does a person see of a run? Its progress while it goes, and tables of what it did or would do.

Names, paths and reasons come out of files from anywhere: `clean` keeps them from driving the terminal,
and none of them is ever read as markup.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.filesize import decimal
from rich.live import Live
from rich.measure import Measurement
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gpupeak.errors import WriteError
from gpupeak.peaks.sources import PEAK_SOURCES
from gpupeak.tally import RunReport, Tally
from gpupeak.types import Failed, FramePlan, Outcome, Place, Url

if TYPE_CHECKING:
    from gpupeak.check.affectgpt import Check, Judgement, Setting
    from gpupeak.check.doctor import Finding
    from gpupeak.check.survey import Examination, Extracted, Survey
    from gpupeak.check.verify import Comparison, Verification
    from gpupeak.report.contents import Overview

__all__ = [
    "Display",
    "Output",
    "clean",
    "print_check",
    "print_examination",
    "print_findings",
    "print_overview",
    "print_report",
    "print_survey",
    "print_verifications",
    "print_warnings",
]

STOPPING = "stopping after what is in hand; press Ctrl-C again to stop at once"
_SECONDS_A_LINE = 10.0
_DRAWN_A_SECOND = 4  # drawing nine datasets holds the GIL for 5 ms: 2 % of the encoder's time
_SHOW_CURSOR = "\x1b[?25h"
_STDERR = 2
_REASONS = _NAMES = 5  # how many a line tells
_LONGEST_NAME = 80
_SHORT = ("done", "saved", "fail", "fell", "/s", "left")  # what the live table's columns are called in 60 columns


class Output(Console):
    """A console for text as it is: no markup, no highlighting.

    A reader that goes away (`| head`) ends the output and not the run. So does a standard error that cannot be
    written; of standard output that is a `WriteError`, for then somebody lacks what they asked for.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, highlight=False, emoji=False)

    def say(self, text: str, style: str = "") -> None:
        """Print one line, however long: the terminal wraps it, a file keeps it whole."""
        self.print(Text(text, style), soft_wrap=True)

    def print(self, *objects: Any, **how: Any) -> None:
        with self._told():
            super().print(*objects, **how)

    def out(self, *objects: Any, **how: Any) -> None:
        with self._told():
            super().out(*objects, **how)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.on_broken_pipe()
            if not self.stderr:
                raise WriteError(f"standard output: cannot be written: {error.strerror or error}") from error

    def on_broken_pipe(self) -> None:
        self.quiet = True
        with contextlib.suppress(OSError, ValueError):  # what is still buffered is flushed into nothing at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


def clean(text: object) -> str:
    """`text` with whatever is not printable written as an escape: one line, and none that a terminal obeys."""
    line = str(text)
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


class Display:
    """Shows a run on `console` as it goes: an `Observer`, entered for as long as the run takes.

    On a terminal it is one live table with a row a dataset; elsewhere plain lines, one every ten
    seconds and one at the end of each dataset. A dataset's first failures are named as they occur.
    With `quiet` only notices are shown.
    """

    def __init__(self, console: Output, *, quiet: bool = False) -> None:
        self.tallies: tuple[Tally, ...] = ()
        self._console = console
        self._quiet = quiet
        self._notices: list[str] = []
        self._began = self._told = time.monotonic()
        self._stopping = False
        # A tally's own counter of fallbacks may grow while the table is drawn, on another thread: this one is read
        # a key at a time.
        self._fell_back: Counter[str] = Counter()
        self._live: Live | None = None
        if not quiet and console.file.isatty() and not console.is_dumb_terminal:
            self._live = Live(
                console=console, get_renderable=self._picture, refresh_per_second=_DRAWN_A_SECOND, transient=True
            )

    def __enter__(self) -> Display:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def started(self, tallies: tuple[Tally, ...]) -> None:
        self.tallies = tallies
        if self._live is None and not self._quiet:
            for tally in tallies:
                self._say(f"{clean(tally.dataset)}: {tally.listed} listed, {tally.skipped} already done")

    def notice(self, text: str) -> None:
        self._notices.append(text)
        self._say(clean(text))

    def advanced(self, tally: Tally, outcome: Outcome) -> None:
        if isinstance(outcome, Failed):
            if not self._quiet and tally.failed_first[-1] is outcome:
                self._say(f"failed: {clean(tally.dataset)}/{_failure(outcome)}")
        elif outcome.plan.fallback is not None:
            self._fell_back[tally.dataset] += 1
        if self._live is None and not self._quiet:
            now = time.monotonic()
            if now - self._told >= _SECONDS_A_LINE or not tally.not_reached:
                self._told = now
                self._say(_progress(tally))

    def stopping(self) -> None:
        """Say that the run is being stopped. For a signal handler: goes around the console, which may be in use."""
        self._stopping = True
        if self._live is None:
            _write_to_stderr(f"{STOPPING}\n")

    def leave(self) -> None:
        """Give the terminal its cursor back, from a signal handler after which the process ends."""
        if self._live is not None:
            _write_to_stderr(f"{_SHOW_CURSOR}\n")

    def so_far(self) -> RunReport:
        """The report of a run that raised: what had been counted by then."""
        return RunReport(self.tallies, time.monotonic() - self._began, None, False, tuple(self._notices))

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError):  # a log on the disk that just filled up; the run has its own error for that
            # Above a live table the console wraps, because it has to know how many rows a line takes.
            self._console.print(Text(text), soft_wrap=self._live is None)

    def _picture(self) -> RenderableType:
        """What the terminal shows now; called on the thread that draws."""
        if self._stopping:
            status = STOPPING
        elif not self.tallies:
            status = "reading the lists of samples"
        elif all(tally.began is None for tally in self.tallies):
            status = "loading the encoder"
        else:
            status = ""
        return Group(self._table(), Text(status, "bold")) if self.tallies else Text(status, "bold")

    def _table(self) -> Table:
        width, room = self._console.width, self._console.height - 5
        bar = 0 if width < 80 else 10 if width < 100 else min(24, width - 84)
        roomy = width >= 100
        table = Table(box=None, pad_edge=False, padding=(0, 2 if roomy else 1, 0, 0))
        table.add_column("", no_wrap=True, max_width=20 if roomy else 12 if bar else 10, overflow="ellipsis")
        if bar:
            table.add_column("", width=bar)
        for header in ("done", "saved", "failed", "fell back", "samples/s", "left") if bar else _SHORT:
            table.add_column(header, justify="right", no_wrap=True)
        rows = self.tallies
        if len(rows) > room:  # one taller than the terminal could not be drawn over
            rows = tuple(tally for tally in rows if tally.began is not None and tally.not_reached)[: max(room, 0)]
        for tally in rows:
            table.add_row(*self._row(clean(tally.dataset), (tally,), bar > 0))
        if len(self.tallies) > 1:
            table.add_row(*self._row("all", self.tallies, bar > 0), style="bold")
        return table

    def _row(self, name: str, tallies: Sequence[Tally], bar: bool) -> Iterator[RenderableType]:
        listed, skipped, saved, failed = (
            sum(getattr(tally, count) for tally in tallies) for count in ("listed", "skipped", "saved", "failed")
        )
        done, seconds = skipped + saved + failed, 0.0
        if began := [tally.began for tally in tallies if tally.began is not None]:
            ended = time.monotonic() if done < listed else max(tally.ended or 0.0 for tally in tallies)
            seconds = ended - min(began)
        yield Text(name)
        if bar:
            yield ProgressBar(max(listed, 1), done if listed else 1)
        yield f"{done}/{listed}"
        yield str(saved)
        yield Text(str(failed), "red" if failed else "")
        yield str(sum(self._fell_back[tally.dataset] for tally in tallies))
        yield _rate(saved, seconds)
        yield _clock((listed - done) * seconds / (saved + failed)) if saved + failed else "-"


def print_report(console: Output, report: RunReport) -> None:
    """What a run ends with: a table of the datasets and all together, then what fell back and failed, and why."""
    tallies = report.datasets
    rows = (*tallies, *[_total(report)] * (len(tallies) > 1))
    _print_table(console, _report_table(rows), [f"{_counts(tally)}, {tally.seconds:.1f} s" for tally in rows])
    for tally in tallies:
        name = clean(tally.dataset)
        if tally.fallbacks:
            console.say(f"{name} fell back: {_commonest(tally.fallbacks)}")
        if tally.failed:
            console.say(f"{name} failed: {_failures(tally)}", "red")
            for failed in tally.failed_first:
                console.say(f"  {_failure(failed)}")
            console.say(f"  all of them: {_manifest(tally)}")
    if directories := [tally.directory for tally in tallies if tally.saved or tally.skipped]:
        console.say(f"features in {clean(_common(directories))}")
    print_warnings(console, report)
    if report.interrupted:
        left = sum(tally.not_reached for tally in tallies)
        console.say(f"interrupted, {left} samples not reached: the same command goes on from here", "bold")


def print_warnings(console: Output, report: RunReport, *, failures: bool = False) -> None:
    """The warnings that a run ends with, a line each; with `failures` a line for each dataset that has some, too."""
    for tally in report.datasets:
        if failures and tally.failed:
            console.say(f"{clean(tally.dataset)}: {tally.failed} failed: {_failures(tally)}; see {_manifest(tally)}")
        for warning in tally.warnings:
            console.say(f"warning: {clean(warning)}", "yellow")


def print_survey(console: Output, surveys: Sequence[Survey], *, table: bool = True) -> None:
    """What a run would find and do: a table, unless it is not wanted, then what is missing and every warning."""
    rows = (*surveys, *[_total_survey(surveys)] * (len(surveys) > 1))
    if table:
        _print_table(console, _survey_table(rows), map(_survey_line, rows))
    for survey in surveys:
        name = clean(survey.dataset)
        if survey.no_peak:
            console.say(f"{name} without a peak: {_commonest(survey.no_peak)}")
        if survey.missing_videos:
            console.say(f"{name} without a video: {_first(survey.missing_first, survey.missing_videos)}")
        if survey.refused:
            console.say(f"{name} with names that cannot be a file's: {_first(survey.refused, len(survey.refused))}")
        for warning in survey.warnings:
            console.say(f"warning: {clean(warning)}", "yellow")


def print_examination(console: Output, found: Examination) -> None:
    """One video and the frames that would be taken of it, a line for each thing to know."""
    plan, rule, there = found.plan, found.sample.rule, found.extracted
    faces = found.sample.stream != "frame"
    rate = "" if faces else f", {_frames_a_second(found.fps)}"
    for name, value in (
        ("sample", found.sample),
        ("video", found.sample.video),
        ("picture", f"{plan.codec}, {found.width} x {found.height}{rate}"),
        ("frames", f"{plan.frames}" if faces else f"{plan.frames}, of them {_key_frames(found.key_frames)}"),
        ("sampling", f"{rule.method}, {rule.n} frames"),
        ("peak", _peak(plan)),
        ("fallback", plan.fallback and f"{rule.fallback}: {plan.fallback.reason} ({plan.fallback.detail})"),
        ("clamped", plan.clamp),
        ("indices", " ".join(map(str, plan.indices))),
        ("at seconds", None if faces else " ".join(f"{seconds:.2f}" for seconds in found.times)),
        (
            "decoding",
            None
            if faces
            else f"{found.packets_needed} of {found.packets} packets, for {len(plan.unique)} different frames",
        ),
        ("features", there and f"{there.state}: {there.file}"),
        ("recorded", there and _recorded(there)),
        ("made by", there and there.made_by),
        ("settings", there and there.problem),
    ):
        if value is not None:
            console.print(Text.assemble((f"{name:<12}", "bold"), clean(value)), soft_wrap=True)


def _recorded(there: Extracted) -> str | None:
    """What the manifest tells of a sample, and how its frames compare with those that would be taken now."""
    if there.recorded is None:
        return None
    if not there.indices:
        return there.recorded
    if there.agrees:
        return f"{there.recorded}, of these frames"
    return f"{there.recorded}, of other frames: {' '.join(map(str, there.indices))}"


def print_verifications(console: Output, found: Sequence[Verification], *, table: bool = True) -> None:
    """What is right and wrong with features: a table, unless it is not wanted, what is wrong by name, a verdict."""
    if table:
        kinds = ["missing", "broken", *(k for k in found[0].counts if any(each.counts[k] for each in found))]
        kinds = list(dict.fromkeys(kinds))
        _print_table(console, _verification_table(found, kinds), (_verification_line(each, kinds) for each in found))
    for each in found:
        name = clean(each.dataset)
        for problem in each.problems:
            console.say(f"{name}: {clean(problem)}", "red")
        for kind, count in each.counts.items():
            if count:
                console.say(f"{name}, {kind}: {count}", "red")
            faults = [fault for fault in each.faults if fault.kind == kind]
            for fault in faults[:_NAMES]:
                console.say(f"  {clean(f'{fault.sample}: {fault.reason}')}")
            if len(faults) > _NAMES:
                console.say(f"  ... and {len(faults) - _NAMES} more: --json names them all")
        for warning in each.warnings:
            console.say(f"warning: {clean(warning)}", "yellow")
        if table:
            _print_remarks(console, each)
    wrong, mendable = (
        sum(len({fault.sample for fault in each.faults}) for each in found),
        sum(len(each.mendable) for each in found),
    )
    if all(each.ok for each in found):
        console.say("all is well", "green")
    else:
        advice = f"; --fix extracts {mendable} of them again" if mendable else ""
        console.say(f"not all is well: {wrong} samples are not right{advice}", "red")


def _print_remarks(console: Output, found: Verification) -> None:
    """What is no fault: the same videos, what killed runs left behind; and how comparisons came out."""
    name = clean(found.dataset)
    if found.duplicates:
        told = [" = ".join(map(clean, alike[:_NAMES])) for alike in found.duplicates[:_NAMES]]
        console.say(f"{name}: the same video, so the same features: {', '.join(told)}")
    if found.temporaries:
        names = _first(found.temporaries, len(found.temporaries))
        console.say(f"{name}: left behind by killed runs, harmless, removed by the next one: {names}")
    for comparison, what in ((found.deep, "extracted again: on"), (found.against, "compared: with")):
        if comparison is not None:
            console.say(f"{name}, {what} {_comparison(comparison)}")
            for difference in comparison.worst:
                console.say(f"  {clean(f'{difference.sample}: {difference}')}")


def print_overview(console: Output, found: Sequence[Overview], page: str | None) -> None:
    """What is odd about the datasets of a report, a line each; then, if `page` names it, what the page tells."""
    for each in found:
        for remark in each.remarks:
            console.say(f"{clean(each.dataset)}: {clean(remark)}", "yellow")
    if page is None:
        return
    samples, sheets = sum(len(each.rows) for each in found), sum(each.shown for each in found)
    datasets = f"{len(found)} dataset{'s' * (len(found) != 1)}"
    console.say(clean(f"{page}, {samples} samples of {datasets}, {sheets} contact sheets"))


def print_findings(console: Output, findings: Sequence[Finding]) -> None:
    """What a machine has and lacks, a line each, advice below it; the last line says whether the job can run."""
    styles = {"ok": "green", "note": "yellow", "missing": "red"}
    for finding in findings:
        name, state = Text(f"{finding.name:<13}", "bold"), Text(f"{finding.state:<8}", styles[finding.state])
        console.print(Text.assemble(name, state, clean(finding.found)), soft_wrap=True)
        if finding.advice is not None:
            console.say(f"{'':21}-> {clean(finding.advice)}", "bold")
    missing = [finding.name for finding in findings if finding.state == "missing"]
    if missing:
        console.say(f"the job cannot run: {', '.join(missing)}", "red")
    else:
        console.say("the job can run", "green")


def print_check(console: Output, found: Check) -> None:
    """What AffectGPT reads of its configuration, what it would load by it and what it would do instead; a verdict."""
    groups: dict[tuple[str, tuple[Setting, ...]], list[Judgement]] = {}
    for judgement in found.judgements:
        groups.setdefault((judgement.use, judgement.settings), []).append(judgement)
    for (use, settings), judgements in groups.items():
        console.say(use, "bold")
        wide = max((len(str(setting.value)) for setting in settings), default=0)
        for setting in settings:
            console.say(clean(f"  {setting.key:<18} {setting.value!s:<{wide}}  {setting.origin}"))
        for judgement in judgements:
            console.say(_loads(judgement), "" if judgement.loads else "red")
        because: dict[str, list[str]] = {}
        for judgement in judgements:
            for problem in judgement.problems:
                because.setdefault(problem, []).append(judgement.dataset)
        for problem, names in because.items():
            whose = "" if len(names) == len(judgements) else f"{', '.join(names)}: "
            console.say(clean(f"  {whose}{problem}"))
        for instead in dict.fromkeys(judgement.instead for judgement in judgements if not judgement.loads):
            console.say(clean(f"  instead, AffectGPT {instead}"))
        for judgement in judgements:
            for warning in judgement.warnings:
                console.say(clean(f"warning: {judgement.dataset}: {warning}"), "yellow")
    for text in found.no_effect:
        console.say(clean(f"no effect: {text}"), "yellow")
    for text in found.warnings:
        console.say(clean(f"warning: {text}"), "yellow")
    wanting = [judgement for judgement in found.judgements if judgement.use == "inference" and not judgement.loads]
    if found.exit_code:
        how = "loads only a part of" if wanting and all(each.partly for each in wanting) else "does not load"
        console.say(f"inference with this configuration {how} these features", "red")
    else:
        console.say("inference with this configuration loads these features", "green")


def _loads(judgement: Judgement) -> str:
    files = f"{judgement.files}" if judgement.expected is None else f"{judgement.files}/{judgement.expected}"
    where = f", {files} files in {judgement.directory}" if judgement.directory is not None else ""
    how = "loaded" if judgement.loads else "loaded in part" if judgement.partly else "not loaded"
    return clean(f"  {judgement.dataset}: {how}{where}")


def _report_table(tallies: Sequence[Tally]) -> Table:
    cut_short = any(tally.not_reached for tally in tallies)
    unfinished = ["not reached"] * cut_short
    table = _table("saved", "skipped", "fell back", "clamped", "failed", *unfinished, "seconds", "samples/s")
    for tally in tallies:
        fell_back = tally.fallbacks.total()
        table.add_row(
            Text(clean(tally.dataset)),
            str(tally.saved),
            str(tally.skipped),
            Text(str(fell_back), "yellow" if fell_back else ""),
            str(tally.clamped),
            Text(str(tally.failed), "red" if tally.failed else ""),
            *[str(tally.not_reached)] * cut_short,
            f"{tally.seconds:.1f}",
            _rate(tally.saved, tally.seconds),
        )
    return table


def _survey_table(surveys: Sequence[Survey]) -> Table:
    sources = [source for source in PEAK_SOURCES if any(survey.peaks[source] for survey in surveys)]
    asked = any(survey.peaks or survey.no_peak for survey in surveys)
    table = _table("found/ expected", "done", "no video", *sources, *["no peak"] * asked, "to write")
    for survey in surveys:
        table.add_row(
            Text(clean(survey.dataset)),
            _listed(survey),
            str(survey.done),
            str(survey.missing_videos),
            *(str(survey.peaks[source]) for source in sources),
            *[str(survey.no_peak.total())] * asked,
            decimal(survey.bytes_to_write),
        )
    return table


def _verification_table(found: Sequence[Verification], kinds: Sequence[str]) -> Table:
    table = _table("listed/ expected", "whole", *kinds)
    for each in found:
        counts = (Text(str(each.counts[kind]), "red" if each.counts[kind] else "") for kind in kinds)
        table.add_row(Text(clean(each.dataset)), _listed(each), str(each.whole), *counts)
    return table


def _verification_line(found: Verification, kinds: Sequence[str]) -> str:
    counts = ", ".join(f"{found.counts[kind]} {kind}" for kind in kinds)
    return f"{clean(found.dataset)}: {_listed(found)} samples, {found.whole} whole, {counts}"


def _comparison(found: Comparison) -> str:
    text = clean(f"{found.where}: {found.compared} samples, {found.differing} differ")
    if found.median is None:
        return text
    return f"{text}; cosine of the worst frame, less the mean: {found.median:.6f} in the middle; the farthest:"


def _table(*headers: str) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("dataset", no_wrap=True, max_width=32, overflow="ellipsis")
    for header in headers:
        table.add_column(header.replace(" ", "\n").replace("_", "_\n"), justify="right", no_wrap=True)
    for column in table.columns:
        column.vertical = "bottom"
    return table


def _print_table(console: Output, table: Table, lines: Iterable[str]) -> None:
    """Print `table`, or `lines` that say the same where the terminal is too narrow for it."""
    unbounded = console.options.update(max_width=10_000)
    if Measurement.get(console, unbounded, table).minimum <= console.width:
        console.print(table)
    else:
        for line in lines:
            console.say(line)


def _progress(tally: Tally) -> str:
    """One dataset in a line, under way or just finished."""
    worked = tally.saved + tally.failed
    if tally.not_reached and worked:
        return f"{_counts(tally)}, {_clock(tally.not_reached * tally.seconds / worked)} left"
    return f"{_counts(tally)}, {tally.seconds:.1f} s"


def _counts(tally: Tally) -> str:
    others = (
        (tally.skipped, "skipped"),
        (tally.failed, "failed"),
        (tally.fallbacks.total(), "fell back"),
        (tally.clamped, "clamped"),
    )
    counts = [f"{tally.saved} saved", *(f"{count} {what}" for count, what in others if count)]
    if tally.saved:
        counts.append(f"{_rate(tally.saved, tally.seconds)} samples/s")
    return f"{clean(tally.dataset)}: {tally.done} of {tally.listed} done: {', '.join(counts)}"


def _total(report: RunReport) -> Tally:
    total = Tally("all", Path(), listed=0, began=0.0, ended=report.seconds)
    for tally in report.datasets:
        total.listed += tally.listed
        total.skipped += tally.skipped
        total.saved += tally.saved
        total.failed += tally.failed
        total.clamped += tally.clamped
        total.fallbacks.update(tally.fallbacks)
    return total


def _survey_line(survey: Survey) -> str:
    peaks = [f"{count} {source}" for source, count in survey.peaks.items()]
    if survey.no_peak:
        peaks.append(f"{survey.no_peak.total()} no peak")
    return (
        f"{clean(survey.dataset)}: {_listed(survey)} samples, {survey.done} done, {survey.missing_videos} no video, "
        f"{', '.join([*peaks, decimal(survey.bytes_to_write)])} to write"
    )


def _total_survey(surveys: Sequence[Survey]) -> Survey:
    return replace(
        surveys[0],
        dataset="all",
        listed=sum(survey.listed for survey in surveys),
        expected=None,
        done=sum(survey.done for survey in surveys),
        missing_videos=sum(survey.missing_videos for survey in surveys),
        peaks=sum((survey.peaks for survey in surveys), Counter()),
        no_peak=sum((survey.no_peak for survey in surveys), Counter()),
        bytes_to_write=sum(survey.bytes_to_write for survey in surveys),
    )


def _listed(survey: Survey | Verification) -> str:
    return f"{survey.listed}" if survey.expected is None else f"{survey.listed}/{survey.expected}"


def _commonest(reasons: Counter[str]) -> str:
    told = [f"{clean(reason)} ({count})" for reason, count in reasons.most_common(_REASONS)]
    return ", ".join([*told, *["..."] * (len(reasons) > _REASONS)])


def _first(names: Sequence[str], count: int) -> str:
    told = [clean(_clipped(name)) or repr(name) for name in names[:_NAMES]]
    return ", ".join([*told, *["..."] * (count > len(told))])


def _clipped(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}..."


def _failures(tally: Tally) -> str:
    return _commonest(Counter({f"{stage}: {reason}": count for (stage, reason), count in tally.failures.items()}))


def _failure(failed: Failed) -> str:
    return clean(f"{failed.sample.name or repr('')}: {failed.stage}: {failed.reason}")


def _manifest(tally: Tally) -> str:
    return clean(f"{tally.directory}/manifest.jsonl")


def _common(directories: Sequence[Place]) -> str:
    """What the directories have in common; all are in one output root."""
    common = os.path.commonpath([str(directory) for directory in directories])
    return common.replace(":/", "://", 1) if isinstance(directories[0], Url) else common


def _peak(plan: FramePlan) -> str | None:
    peak = plan.peak
    if peak is None:
        return "none" if plan.sample.rule.method == "emotion_peak" else None
    given = {"before": peak.before, "after": peak.after, "total": peak.total}
    numbers = ", ".join(f"{name} {value}" for name, value in given.items() if value is not None)
    return f"frame {peak.index}, by {peak.source} in {peak.file}" + (f" ({numbers})" if numbers else "")


def _key_frames(key_frames: Sequence[int]) -> str:
    first = ", ".join(map(str, key_frames[:8])) + (", ..." if len(key_frames) > 8 else "")
    return f"{len(key_frames)} key frame{'s' * (len(key_frames) != 1)}: {first}"


def _frames_a_second(fps: float | None) -> str:
    return "no frame rate" if fps is None else f"{fps:.6g} frames/s"


def _rate(saved: int, seconds: float) -> str:
    if not saved or seconds <= 0:
        return "-"
    rate = saved / seconds
    return f"{rate:.1f}" if rate >= 1 else f"{rate:.2f}"  # ViT-L/14 takes a CPU seconds a sample


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _write_to_stderr(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(_STDERR, text.encode())
