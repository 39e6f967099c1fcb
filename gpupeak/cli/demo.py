"""`gpupeak demo`."""

from pathlib import Path
from typing import Annotated

import typer

from gpupeak.cli.output import Output

__all__ = ["demo"]


def demo(
    out: Annotated[Path, typer.Option(help="Where everything goes.", metavar="DIR")] = Path("demo"),
    device: Annotated[str, typer.Option(help="Where the encoder runs.", metavar="auto|cpu|cuda:N")] = "auto",
    weights: Annotated[str, typer.Option(help="As in extract.", metavar="WEIGHTS")] = "random:0",
) -> int:
    """Draw a small corpus, extract its features and show what came out. Needs no data and no network."""
    from gpupeak.demo.show import run_demo

    return run_demo(out, Output(), device, weights)
