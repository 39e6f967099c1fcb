"""`gpupeak extract`, and what Ctrl-C does to a run."""

import contextlib
import dataclasses
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from gpupeak.cli.options import JSON, QUIET, with_settings
from gpupeak.cli.output import INTERRUPTED, Output, commonest, complain, print_json, print_table, red, verdict
from gpupeak.cli.progress import Display, failure, rate
from gpupeak.config import ExtractConfig
from gpupeak.errors import counted
from gpupeak.tally import RunReport, Tally


@with_settings()
def extract(config: ExtractConfig, quiet: bool = QUIET, as_json: bool = JSON) -> int:
    """Extract the features of DATASETS. What is already there is skipped; a run that was cut off goes on.

    Progress goes to standard error, the table at the end to standard output.
    Ctrl-C stops after what is in hand, a second one at once.
    """
    console = Output(stderr=True)
    display = Display(console, quiet=quiet)
    stop = threading.Event()
    error: BaseException | None = None
    with interrupts(stop, display):
        # Standard output is for the result: whatever a library prints goes where the progress goes.
        with contextlib.redirect_stdout(sys.stderr):
            try:
                from gpupeak.run import extract as run

                config = sharded(config, display.notice)
                with display:
                    report = run(config, display, stop)
            except (Exception, KeyboardInterrupt) as raised:
                error, report = raised, display.so_far()
        stop.set()  # there is nothing left to finish: from here on one signal is enough
        code, message = (report.exit_code, None) if error is None else verdict(error)
        if as_json:
            print_json(code, message, **{**report.to_json(), "interrupted": code == INTERRUPTED})
        if error is None or any(tally.saved or tally.failed for tally in report.datasets):
            out = console if as_json or quiet else Output()
            print_report(out, report, quiet=quiet, overwrite=config.overwrite)
        return code if error is None else complain(error)


def sharded(config: ExtractConfig, tell: Callable[[str], None]) -> ExtractConfig:
    """The settings of what SLURM has started as one of several, unless they name a shard themselves."""
    from gpupeak.corpora.shards import slurm_shard

    if config.engine is not None or config.num_shards is not None or (found := slurm_shard(os.environ)) is None:
        return config
    shard, told = found
    tell(f"shard {shard}, by {told}; --num-shards 1 takes all samples")
    return dataclasses.replace(config, num_shards=shard.count, shard_index=shard.index)


@contextlib.contextmanager
def interrupts(stop: threading.Event, display: Display) -> Iterator[None]:
    """Ctrl-C or SIGTERM sets `stop`, once samples are worked on; a second one ends the process there and then."""

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            display.leave()
            os._exit(INTERRUPTED)  # the writer renames whole files only, and the workers end with this process
        if all(tally.began is None for tally in display.tallies):  # listing, or loading the encoder
            raise KeyboardInterrupt
        stop.set()
        display.stopping()

    # A signal that is ignored (SIGINT of a job that a script has put in the background) stays ignored.
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def print_report(console: Output, report: RunReport, *, quiet: bool = False, overwrite: bool = False) -> None:
    """What a run ends with: a table of the datasets and all together, then what fell back and failed, and why.

    With `quiet` only what failed, and warnings.
    """
    tallies = report.datasets
    times = [(tally.began, tally.ended) for tally in tallies if tally.began is not None and tally.ended is not None]
    worked = max(end for _, end in times) - min(began for began, _ in times) if times else 0.0
    if not quiet:
        rows = [_row(tally.dataset, [tally], tally.seconds) for tally in tallies]
        if len(tallies) > 1:
            rows.append(_row("all", tallies, worked))
        headers = ["saved", "skipped", "fell back", "clamped", "failed", "not reached", "seconds", "samples/s"]
        print_table(console, headers, rows)
        console.say(f"loading, listing and recording: {max(0.0, report.seconds - worked):.1f} s more")
    for tally in tallies:
        if tally.fallbacks and not quiet:
            console.say(f"{tally.dataset} fell back: {commonest(tally.fallbacks)}")
        if tally.failed:
            reasons = {f"{stage}: {reason}": count for (stage, reason), count in tally.failures.items()}
            console.say(f"{tally.dataset} failed: {commonest(Counter(reasons))}", "red")
            for failed in tally.failed_first:
                console.say(f"  {failure(failed)}")
            console.say(f"  all of them: {tally.directory}/manifest.jsonl")
        if (tally.saved or tally.skipped) and not quiet:
            console.say(f"features in {tally.directory}")
        for warning in tally.warnings:
            console.warn(warning)
    if report.interrupted:
        left = sum(tally.not_reached for tally in tallies)
        command = "the same command without --overwrite" if overwrite else "the same command"
        console.say(f"interrupted, {counted(left, 'sample')} not reached: {command} goes on from here", "bold")


def _row(name: str, tallies: Sequence[Tally], seconds: float) -> list[object]:
    saved, skipped, clamped, failed, left = (
        sum(getattr(tally, what) for tally in tallies)
        for what in ("saved", "skipped", "clamped", "failed", "not_reached")
    )
    fell_back = red(sum(tally.fallbacks.total() for tally in tallies), "yellow")
    return [name, saved, skipped, fell_back, clamped, red(failed), left, f"{seconds:.1f}", rate(saved, seconds)]
