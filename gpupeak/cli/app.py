"""`gpupeak`: its commands, each in a module of its own, and how they end.

Nothing heavy is imported before a command needs it: `--help` answers without numpy, torch or av.
"""

# No postponed evaluation of annotations here: they are what typer makes the options from.

import contextlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from gpupeak._version import __version__
from gpupeak.cli.affectgpt import consumer
from gpupeak.cli.demo import demo
from gpupeak.cli.doctor import doctor
from gpupeak.cli.extract import extract
from gpupeak.cli.features import pack, unpack
from gpupeak.cli.options import spread
from gpupeak.cli.output import complain, print_json, verdict
from gpupeak.cli.plan import inspect, plan
from gpupeak.cli.report import report
from gpupeak.cli.settings import init
from gpupeak.cli.verify import verify
from gpupeak.errors import ConfigError, WriteError

_EPILOG = (
    "Exit codes: 0 all saved or skipped, 1 some samples failed, 2 wrong use or configuration, "
    "3 the run could not go on, 130 interrupted. "
    "With GPUPEAK_TRACEBACK=1 in the environment an error shows where it arose."
)

app = typer.Typer(
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (extract, plan, verify, report, inspect, doctor, pack, unpack, init, demo):
    app.command(epilog=_EPILOG)(_command)
app.add_typer(consumer, name="config")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"gpupeak {__version__}")
        raise typer.Exit


@app.callback(epilog=_EPILOG)
def _gpupeak(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Emotion-peak CLIP features for AffectGPT: decoded, encoded and saved as .npy."""
    try:
        os.getcwd()  # noqa: PTH109 - in one that was removed, libraries end the process in words of their own
    except OSError as error:
        raise ConfigError(f"the current directory is not there ({error.strerror}): change to another one") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; an error is one line on standard error, with `--json` JSON, too."""
    for number in range(3):  # of a closed standard stream, what is opened next would take the number
        try:
            os.fstat(number)
        except OSError:  # noqa: PERF203 - three times
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file name that the locale cannot spell must not end a run
            stream.reconfigure(errors="backslashreplace")
    arguments = spread(sys.argv[1:] if argv is None else argv) or ["--help"]
    try:
        code = app(args=arguments, prog_name="gpupeak", standalone_mode=False)
    except SystemExit as ended:  # typer's way to end what has to do with completion
        return int(ended.code or 0)
    except (Exception, KeyboardInterrupt) as error:
        if "--json" in arguments:
            with contextlib.suppress(WriteError):  # it may be what is told of
                print_json(*verdict(error))
        return complain(error)
    return int(code or 0)
