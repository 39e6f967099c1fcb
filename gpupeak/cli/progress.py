"""What a person sees of a run while it goes."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from types import TracebackType

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gpupeak.cli.output import Output, clean, red
from gpupeak.tally import RunReport, Tally
from gpupeak.types import Failed, Outcome

_STOPPING = "stopping after what is in hand; press Ctrl-C again to stop at once"
_SECONDS_A_LINE = 10.0
_DRAWN_A_SECOND = 4  # drawing nine datasets holds the GIL for 5 ms: 2 % of the encoder's time
_SHOW_CURSOR = "\x1b[?25h"
_STDERR = 2
_SHORT = ("done", "saved", "fail", "fell", "/s", "left")  # what the live table's columns are called in 60 columns


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
                self._say(f"failed: {clean(tally.dataset)}/{failure(outcome)}")
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
            _write_to_stderr(f"{_STOPPING}\n")

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
        status = "" if self.tallies else "reading the lists of samples"
        if self.tallies and all(tally.began is None for tally in self.tallies):
            status = "loading the encoder"
        told = Text(_STOPPING if self._stopping else status, "bold")
        return Group(self._table(), told) if self.tallies else told

    def _table(self) -> Table:
        width, room = self._console.width, self._console.height - 5
        bar = 0 if width < 80 else min(24, width - 70)
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("", no_wrap=True, max_width=12 if bar else 10, overflow="ellipsis")
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
        yield red(failed)
        yield str(sum(self._fell_back[tally.dataset] for tally in tallies))
        yield rate(saved, seconds)
        yield _clock((listed - done) * seconds / (saved + failed)) if saved + failed else "-"


def _progress(tally: Tally) -> str:
    """One dataset in a line, under way or just finished."""
    counts = {"saved": tally.saved, "skipped": tally.skipped, "failed": tally.failed}
    counts |= {"fell back": tally.fallbacks.total(), "clamped": tally.clamped}
    told = [f"{count} {what}" for what, count in counts.items() if count or what == "saved"]
    if tally.saved:
        told.append(f"{rate(tally.saved, tally.seconds)} samples/s")
    worked = tally.saved + tally.failed
    left = _clock(tally.not_reached * tally.seconds / worked) if tally.not_reached and worked else None
    told.append(f"{tally.seconds:.1f} s" if left is None else f"{left} left")
    return f"{clean(tally.dataset)}: {tally.done} of {tally.listed} done: {', '.join(told)}"


def failure(failed: Failed) -> str:
    """One failed sample in a line."""
    return clean(f"{failed.sample.name or repr('')}: {failed.stage}: {failed.reason}")


def rate(saved: int, seconds: float) -> str:
    """Samples a second, `-` where there are none."""
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
