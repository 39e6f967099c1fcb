"""What a person sees of a run while it goes."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from gpupeak.cli.output import Output, clean
from gpupeak.tally import Observer, RunReport, Tally, Watch, unwatched
from gpupeak.types import Failed, Outcome

_STOPPING = "stopping after what is in hand; press Ctrl-C again to stop at once"
_Item = TypeVar("_Item")
_SECONDS_A_LINE = 10.0
_SECONDS_UNSEEN = 2.0  # what takes no longer needs no bar
_SHOW_CURSOR = "\x1b[?25h"
_STDERR = 2


class _Bars(Progress):
    """A line that says what is being waited for, and a bar a dataset."""

    status = "reading the lists of samples"
    unseen_until = 0.0

    def __init__(self, console: Output, *told: TextColumn) -> None:
        whole = Column(no_wrap=True)
        super().__init__(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, max_width=16)),
            BarColumn(24),
            MofNCompleteColumn(table_column=whole),
            *told,
            TimeRemainingColumn(table_column=whole),
            console=console,
            refresh_per_second=4,  # drawing nine datasets holds the GIL for 5 ms
            transient=True,
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        if time.monotonic() >= self.unseen_until:
            yield Text(self.status, "bold")
            yield from super().get_renderables()

    def watch(self, items: Iterable[_Item], /, total: int, *, description: str) -> Iterable[_Item]:
        self.status = ""
        return self.track(items, total, description=description)


class Display(Observer):
    """Shows a run on `console` as it goes; entered for as long as the run takes.

    On a terminal it is a bar for each dataset; elsewhere plain lines, one every ten seconds and one at the end of each
    dataset. A dataset's first failures are named as they occur. With `quiet` only notices are shown.
    """

    def __init__(self, console: Output, *, quiet: bool = False) -> None:
        self.tallies: tuple[Tally, ...] = ()
        self._console = console
        self._quiet = quiet
        self._notices: list[str] = []
        self._began = self._told = time.monotonic()
        self._rows: dict[str, TaskID] = {}
        self._bars: _Bars | None = None
        if not quiet and _can_draw(console):
            self._bars = _Bars(console, TextColumn("{task.fields[told]}"))

    def __enter__(self) -> Display:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *raised: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def started(self, tallies: tuple[Tally, ...]) -> None:
        self.tallies = tallies
        if self._bars is not None:
            self._bars.status = ""
            for tally in tallies:
                row = self._bars.add_task(clean(tally.dataset), total=tally.listed, completed=tally.skipped, told="")
                self._rows[tally.dataset] = row
        elif not self._quiet:
            for tally in tallies:
                self._console.say(f"{tally.dataset}: {tally.listed} listed, {tally.skipped} already done")

    def notice(self, text: str) -> None:
        self._notices.append(text)
        self._console.say(text)

    def advanced(self, tally: Tally, outcome: Outcome) -> None:
        if self._quiet:
            return
        if isinstance(outcome, Failed) and tally.failed_first[-1] is outcome:
            self._console.say(f"failed: {tally.dataset}/{failure(outcome)}")
        counts = {"saved": tally.saved, "failed": tally.failed, "fell back": tally.fallbacks.total()}
        told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        told += f", {rate(tally.saved, tally.seconds)} samples/s"
        now = time.monotonic()
        if self._bars is not None:
            self._bars.update(self._rows[tally.dataset], completed=tally.done, told=told)
        elif now - self._told >= _SECONDS_A_LINE or not tally.not_reached:
            self._told = now
            left = timedelta(seconds=round(tally.not_reached * tally.seconds / (tally.saved + tally.failed)))
            self._console.say(f"{tally.dataset}: {tally.done} of {tally.listed} done: {told}, {left} left")

    def stopping(self) -> None:
        """Say that the run is being stopped. For a signal handler: goes around the console, which may be in use."""
        if self._bars is not None:
            self._bars.status = _STOPPING
        else:
            _write_to_stderr(f"{_STOPPING}\n")

    def leave(self) -> None:
        """Give the terminal its cursor back, from a signal handler after which the process ends."""
        if self._bars is not None:
            _write_to_stderr(f"{_SHOW_CURSOR}\n")

    def so_far(self) -> RunReport:
        """The report of a run that raised: what had been counted by then."""
        return RunReport(self.tallies, time.monotonic() - self._began, None, False, tuple(self._notices))


@contextlib.contextmanager
def watching(console: Output, *, quiet: bool = False) -> Iterator[Watch]:
    """Show on a terminal how far a command is that takes more than two seconds: a bar for each of its loops."""
    if quiet or not _can_draw(console):
        yield unwatched
        return
    bars = _Bars(console)
    bars.status, bars.unseen_until = "reading", time.monotonic() + _SECONDS_UNSEEN
    with bars:
        yield bars.watch


def _can_draw(console: Output) -> bool:
    return console.file.isatty() and not console.is_dumb_terminal


def failure(failed: Failed) -> str:
    """One failed sample in a line."""
    return f"{failed.sample.name}: {failed.stage}: {failed.reason}"


def rate(saved: int, seconds: float) -> str:
    """Samples a second, `-` where there are none."""
    if not saved or seconds <= 0:
        return "-"
    rate = saved / seconds
    return f"{rate:.1f}" if rate >= 1 else f"{rate:.2f}"  # ViT-L/14 takes a CPU seconds a sample


def _write_to_stderr(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(_STDERR, text.encode())
