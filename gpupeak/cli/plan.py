"""`gpupeak plan` and `gpupeak inspect`: what extract would do, with all samples and with one."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.text import Text

from gpupeak.cli.extract import sharded
from gpupeak.cli.options import JSON, QUIET, option, with_settings
from gpupeak.cli.output import Output, clean, commonest, first, print_json, print_table
from gpupeak.cli.progress import watching
from gpupeak.cli.settings import show_settings
from gpupeak.config import OUTPUT, ExtractConfig
from gpupeak.errors import ConfigError, SampleError, sized, writing
from gpupeak.peaks.sources import PEAK_SOURCES
from gpupeak.types import Failed, FramePlan

if TYPE_CHECKING:
    from gpupeak.check.inspect import Extracted, Inspection
    from gpupeak.check.plan import Plan

_KEY_FRAMES = 8  # how many are told


@with_settings()
def plan(
    config: ExtractConfig,
    given: Mapping[str, tuple[Any, str]],
    settings: bool = option(
        False, OUTPUT, "", "Show the value of each option and where it comes from, nothing else.", "--show-settings"
    ),
    quiet: bool = QUIET,
    as_json: bool = JSON,
) -> int:
    """Show what extract would do with the same arguments: samples, videos, peaks, finished work. Decodes nothing."""
    if settings:
        return show_settings(config, given, as_json=as_json)
    from gpupeak.check.plan import plan as look

    console = Output(stderr=True)
    with watching(console, quiet=quiet or as_json) as watch:
        plans = look(sharded(config, console.say), watch)
    if as_json:
        print_json(0, datasets=[found.to_json() for found in plans])
    else:
        _print_plans(Output(), plans, table=not quiet)
    return 0


def _print_plans(console: Output, plans: "Sequence[Plan]", *, table: bool) -> None:
    if table:
        sources = [source for source in PEAK_SOURCES if any(plan.peaks[source] for plan in plans)]
        rows = [_row(plan.dataset, [plan], sources) for plan in plans]
        if len(plans) > 1:
            rows.append(_row("all", plans, sources))
        print_table(console, ["found/ expected", "done", "no video", *sources, "no peak", "to write"], rows)
    for plan in plans:
        name = plan.dataset
        if plan.no_peak:
            console.say(f"{name} without a peak: {commonest(plan.no_peak)}")
        if plan.missing_videos:
            console.say(f"{name} without a video: {first(plan.missing_first, plan.missing_videos)}")
        if plan.refused:
            console.say(f"{name} with names that cannot be a file's: {first(plan.refused, len(plan.refused))}")
        for warning in plan.warnings:
            console.warn(warning)


def _row(name: str, plans: "Sequence[Plan]", sources: Sequence[str]) -> list[object]:
    listed, done, missing, size = (
        sum(getattr(plan, what) for plan in plans) for what in ("listed", "done", "missing_videos", "bytes_to_write")
    )
    expected = f"/{plans[0].expected}" if len(plans) == 1 and plans[0].expected is not None else ""
    peaks = [sum(plan.peaks[source] for plan in plans) for source in sources]
    no_peak = sum(plan.no_peak.total() for plan in plans)
    return [name, f"{listed}{expected}", done, missing, *peaks, no_peak, sized(size)]


@with_settings(names=False, recorded=True)
def inspect(
    config: ExtractConfig,
    target: str = typer.Argument(help="A video, or a sample: NAME or DATASET/NAME.", metavar="VIDEO_OR_SAMPLE"),
    show: str | None = option(
        None,
        "Pictures",
        "FILE.png",
        "Draw these frames under the curve of the action units: into a .png file, or without one on the terminal.",
    ),
    as_json: bool = JSON,
) -> int:
    """Show which frames of one video would be taken, and why; what decoding them needs; what was extracted.

    Decodes nothing but what --show asks for.
    """
    from gpupeak.check.inspect import inspect_video

    if show == "-" and not sys.stdout.isatty():
        raise ConfigError("--show without a file draws on a terminal, and standard output is none; name a FILE.png")
    try:
        found = inspect_video(config, target)
        picture = None if show is None else _drawn(found, show, config.time_limit)
    except SampleError as error:
        raise SampleError(error.stage, f"{target}: {error.reason}") from error
    if as_json:
        print_json(0, **found.to_json())
    else:
        _print_inspection(Output(), found)
    if picture is not None:
        sys.stdout.write(picture)
    return 0


def _drawn(found: "Inspection", show: str, time_limit: float) -> str | None:
    """The contact sheet for the terminal, or None if it was written into a file."""
    from gpupeak.report.sheets import SheetTask, read_sheets, require, to_png, to_terminal
    from gpupeak.storage.atomic import replace_file

    require("PIL")
    plan, peak, fallback = found.plan, found.plan.peak, found.plan.fallback
    told = (peak and f"peak by {peak.source}", fallback and fallback.reason, plan.clamp, *plan.warnings)
    remarks = tuple(text for text in told if text)
    task = SheetTask(plan.sample, plan.indices, peak.index if peak else None, remarks=remarks)
    ((_, sheet),) = read_sheets([task], time_limit=time_limit)
    if isinstance(sheet, Failed):
        raise SampleError(sheet.stage, sheet.reason)
    if show == "-":
        return to_terminal(sheet, Output().width)
    with writing(show):
        replace_file(Path(show), [to_png(sheet)])
    return None


def _print_inspection(console: Output, found: "Inspection") -> None:
    plan, sample, there = found.plan, found.plan.sample, found.extracted
    fps = f", {found.fps:.6g} frames/s" if found.fps else ""
    keys = ", ".join(map(str, found.key_frames[:_KEY_FRAMES])) + ", ..." * (len(found.key_frames) > _KEY_FRAMES)
    for name, value in (
        ("sample", sample),
        ("video", sample.video),
        ("picture", f"{plan.codec}, {found.width} x {found.height}{fps}"),
        ("frames", f"{plan.frames}, as decoding delivers them" if plan.recounted else plan.frames),
        ("key frames", found.key_frames and f"{len(found.key_frames)}: {keys}"),
        ("sampling", f"{sample.rule.method}, {sample.rule.n} frames"),
        ("peak", _peak(plan)),
        ("fallback", plan.fallback and f"{sample.rule.fallback}: {plan.fallback.reason} ({plan.fallback.detail})"),
        ("clamped", plan.clamp),
        ("warnings", "; ".join(plan.warnings)),
        ("indices", " ".join(map(str, plan.indices))),
        ("at seconds", " ".join(f"{seconds:.2f}" for seconds in found.times)),
        ("decoding", found.packets and f"{found.packets_needed} of {found.packets} packets"),
        ("features", there and f"{there.state}: {there.file}"),
        ("recorded", there and _recorded(there)),
        ("settings", there and "; ".join(filter(None, (there.problem, *there.marks)))),
    ):
        if value:
            console.say(Text.assemble((f"{name:<12}", "bold"), clean(value)))


def _recorded(there: "Extracted") -> str | None:
    """What the manifest tells of a sample, and how its frames compare with those that would be taken now."""
    if not there.indices:
        return there.recorded
    which = "of these frames" if there.agrees else f"of other frames: {' '.join(map(str, there.indices))}"
    return f"{there.recorded}, {which}"


def _peak(plan: FramePlan) -> str | None:
    peak = plan.peak
    if peak is None:
        return None
    given = {"before": peak.before, "after": peak.after, "total": peak.total}
    numbers = ", ".join(f"{name} {value}" for name, value in given.items() if value is not None)
    return f"frame {peak.index}, by {peak.source} in {peak.file}" + (f" ({numbers})" if numbers else "")
