"""`gpupeak verify`."""

import contextlib
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpupeak.cli.extract import interrupts, print_report
from gpupeak.cli.options import JSON, QUIET, option, with_settings
from gpupeak.cli.output import INTERRUPTED, NAMED, Output, first, print_json, print_table, red
from gpupeak.cli.progress import Display, watching
from gpupeak.config import ExtractConfig
from gpupeak.errors import counted

if TYPE_CHECKING:
    from gpupeak.check.verify import Comparison, Verification


@with_settings(recorded=True)
def verify(
    config: ExtractConfig,
    deep: int = option(0, "Checks", "K", "Extract K samples of each dataset again, drawn by the seed, and compare."),
    against: str | None = option(None, "Checks", "DIR", "Compare with the features in another output root."),
    min_cosine: float = option(
        0.9995, "Checks", "COSINE", "With --against, the least cosine of a frame, less the dataset's mean."
    ),
    fix: bool = option(
        False, "Checks", "", "Extract what is missing, broken or stale, nothing else; then look again.", "--fix"
    ),
    quiet: bool = QUIET,
    as_json: bool = JSON,
) -> int:
    """Check the features that extract makes with the same arguments: all there, whole, of one kind. Writes nothing.

    Exit code 1 if anything is missing or wrong; warnings alone are 0.
    """
    from gpupeak.check.repair import repair
    from gpupeak.check.verify import verify as look

    console = Output(stderr=True)
    report = None
    with contextlib.redirect_stdout(sys.stderr):

        def looked() -> "tuple[Verification, ...]":
            with watching(console, quiet=quiet or as_json) as watch:
                return look(config, deep=deep, against=against, min_cosine=min_cosine, tell=console.say, watch=watch)

        found = looked()
        if fix and any(each.mendable for each in found):
            display, stop = Display(console, quiet=quiet), threading.Event()
            with interrupts(stop, display), display:
                report = repair(config, found, display, stop)
            if not quiet:
                print_report(console, report)
            deep, against = (0, None) if report.interrupted else (deep, against)
            found = looked()
    code = INTERRUPTED if report is not None and report.interrupted else int(not all(each.ok for each in found))
    if as_json:
        fixed = None if report is None else report.to_json()
        print_json(code, fixed=fixed, datasets=[each.to_json() for each in found])
    else:
        _print(Output(), found, table=not quiet)
    return code


def _print(console: Output, found: "Sequence[Verification]", *, table: bool) -> None:
    if table:
        seen = [kind for kind in found[0].counts if any(each.counts[kind] for each in found)]
        kinds = list(dict.fromkeys(["missing", "broken", *seen]))
        rows = []
        for each in found:
            listed = f"{each.listed}" if each.expected is None else f"{each.listed}/{each.expected}"
            rows.append([each.dataset, listed, each.whole, *(red(each.counts[kind]) for kind in kinds)])
        print_table(console, ["listed/ expected", "whole", *kinds], rows)
    for each in found:
        for problem in each.problems:
            console.say(f"{each.dataset}: {problem}", "red")
        for kind, count in each.counts.items():
            if count:
                console.say(f"{each.dataset}, {kind}: {count}", "red")
            faults = [fault for fault in each.faults if fault.kind == kind]
            for fault in faults[:NAMED]:
                console.say(f"  {fault.sample}: {fault.reason}")
            if len(faults) > NAMED:
                console.say(f"  ... and {len(faults) - NAMED} more: --json names them all")
        for warning in each.warnings:
            console.warn(warning)
        if table:
            if each.duplicates:
                told = first([" = ".join(alike[:NAMED]) for alike in each.duplicates], len(each.duplicates))
                console.say(f"{each.dataset}: the same video, so the same features: {told}")
            _print_comparison(console, f"{each.dataset}, extracted again: on", each.deep)
            _print_comparison(console, f"{each.dataset}, compared: with", each.against)
    wrong = sum(len({fault.sample for fault in each.faults}) for each in found)
    mendable = sum(len(each.mendable) for each in found)
    if all(each.ok for each in found):
        console.say("all is well", "green")
    else:
        samples = f": {counted(wrong, 'sample')} not right" if wrong else ", as said above"
        refused = any(each.problems for each in found)  # by extract, too
        advice = f"; --fix extracts {mendable} of them again" if mendable and not refused else ""
        console.say(f"not all is well{samples}{advice}", "red")


def _print_comparison(console: Output, what: str, found: "Comparison | None") -> None:
    if found is None:
        return
    text = f"{what} {found.where}: {counted(found.compared, 'sample')}, {found.differing} different"
    if found.median is not None:
        text += f"; cosine of the worst frame, less the mean: {found.median:.6f} in the middle; the farthest:"
    console.say(text)
    for difference in found.worst:
        console.say(f"  {difference.sample}: {difference}")
