"""What is printed: plain lines and tables, JSON, and the one line that an error is told in."""

from __future__ import annotations

import contextlib
import json
import os
import traceback
from collections import Counter
from collections.abc import Sequence
from typing import Any

import typer
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from gpupeak.errors import GpupeakError, SampleError, WriteError, out_of_memory

INTERRUPTED = 130
"""The exit code of an interrupted command."""
NAMED = 5
"""How many names or reasons a line tells."""
_LONGEST_NAME = 80
_NARROW = 80  # columns; what is narrower wraps by itself


class Output(Console):
    """A console for text as it is: no markup, no highlighting.

    A reader that goes away (`| head`) ends the output and not the run. So does a standard error that cannot be
    written; of standard output that is a `WriteError`, for then somebody lacks what they asked for.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, highlight=False, emoji=False)
        self._warnings: set[str] = set()

    def say(self, text: object, style: str = "") -> None:
        """Print one line, whatever it holds and however long: a terminal gets it wrapped at words, a file whole.

        So does a terminal that is narrower than a word: a path that it wraps itself can be copied. A `Text` is clean
        already, and has its styles.
        """
        told = text if isinstance(text, Text) else Text(clean(text), style)
        longest = max(map(cell_len, told.plain.split()), default=0)
        if not self.is_terminal or self.width < max(_NARROW, longest):
            told.no_wrap, told.overflow = True, "ignore"
        self.print(Group(told), crop=False)  # alone it would be copied without them

    def warn(self, text: str) -> None:
        """Print a warning, but none twice: what is the same for all datasets names none."""
        if text not in self._warnings:
            self._warnings.add(text)
            self.say(f"warning: {text}", "yellow")

    def print(self, *objects: Any, **how: Any) -> None:
        try:
            super().print(*objects, **how)
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
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def print_table(console: Output, headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a row a dataset, its name first; where they are too wide, a line a value."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("dataset", max_width=len("dataset"), overflow="fold", vertical="bottom")  # what alone gives way
    for header in headers:
        words = header.replace(" ", "\n").replace("_", "_\n")
        table.add_column(words, justify="right", no_wrap=True, vertical="bottom")
    cells = [[value if isinstance(value, Text) else Text(clean(value)) for value in row] for row in rows]
    for row in cells:
        table.add_row(*row)
    if console.measure(table, options=console.options.update(width=1 << 16)).maximum <= console.width:
        table.columns[0].max_width = 32
        console.print(table)
        return
    for name, *values in cells:
        console.say(name)
        for header, value in zip(headers, values, strict=True):
            console.say(Text.assemble(f"  {header.replace('/ ', '/'):<16}", value))


def red(count: int, colour: str = "red") -> Text:
    """A number that stands out unless it is 0."""
    return Text(str(count), colour if count else "")


def commonest(reasons: Counter[str]) -> str:
    """The commonest of some reasons, each with its count."""
    return first([f"{reason} ({count})" for reason, count in reasons.most_common()], len(reasons))


def first(names: Sequence[str], count: int) -> str:
    """The first of `count` names."""
    short = [name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}..." for name in names[:NAMED]]
    return ", ".join([*(name or "''" for name in short), *["..."] * (count > len(short))])


def print_json(exit_code: int, error: str | None = None, /, **values: Any) -> None:
    """Print what a command ends with, as one JSON object."""
    whole = json.dumps({**values, "exit_code": exit_code, "error": error})
    Output().print(Text(clean(whole)), soft_wrap=True)  # also on a terminal: a line that is wrapped is no JSON


def verdict(error: BaseException) -> tuple[int, str]:
    """The exit code that an error ends a command with, and the one line that it is told in."""
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return INTERRUPTED, "interrupted"
    if isinstance(error, SampleError):
        return 1, f"{error.stage}: {error.reason}"
    if isinstance(error, GpupeakError):
        return error.exit_code, str(error)
    if isinstance(error, typer.TyperException):
        context = getattr(error, "ctx", None)
        hint = f" (see {context.command_path} --help)" if context is not None else ""
        return error.exit_code, f"{error.format_message()}{hint}"
    if short := out_of_memory(error):
        return 3, short
    if isinstance(error, ImportError):
        return 3, f"a package cannot be loaded: {error} (gpupeak doctor says what to install)"
    return 3, (
        f"unexpected {type(error).__name__}: {error} "
        "(please report it; with GPUPEAK_TRACEBACK=1 in the environment it shows where it arose)"
    )


def complain(error: BaseException) -> int:
    """Print an error as one line on standard error and return the exit code."""
    code, message = verdict(error)
    if os.environ.get("GPUPEAK_TRACEBACK"):
        traceback.print_exception(error)
    Output(stderr=True).say(f"error: {' '.join(part.strip() for part in message.splitlines())}", "red")
    return code
