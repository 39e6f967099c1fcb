"""`gpupeak doctor`."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.text import Text

from gpupeak.cli.extract import sharded
from gpupeak.cli.options import JSON, with_settings
from gpupeak.cli.output import Output, clean, print_json
from gpupeak.config import ExtractConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpupeak.check.doctor import Finding


@with_settings()
def doctor(config: ExtractConfig, as_json: bool = JSON) -> int:
    """Show what this machine has for extract with the same arguments, and what to install. Changes nothing.

    Exit code 1 if the job could not run.
    """
    from gpupeak.check.doctor import MISSING, diagnose

    findings = diagnose(sharded(config, Output(stderr=True).say))
    missing = [finding.name for finding in findings if finding.state == MISSING]
    if as_json:
        print_json(int(bool(missing)), findings=[asdict(finding) for finding in findings])
    else:
        _print(Output(), findings, missing)
    return int(bool(missing))


def _print(console: Output, findings: "Sequence[Finding]", missing: list[str]) -> None:
    styles = {"ok": "green", "note": "yellow", "missing": "red"}
    for finding in findings:
        name, state = Text(f"{finding.name:<13}", "bold"), Text(f"{finding.state:<8}", styles[finding.state])
        console.say(Text.assemble(name, state, clean(finding.found)))
        if finding.advice is not None:
            console.say(f"{'':21}-> {finding.advice}", "bold")
    if missing:
        console.say(f"the job cannot run: {', '.join(missing)}", "red")
    else:
        console.say("the job can run", "green")
