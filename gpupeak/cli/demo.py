"""`gpupeak demo`."""

# ruff: noqa: B008 - a default that is a call is how typer is told of an option

from pathlib import Path

import typer

from gpupeak.cli.output import Output


def demo(
    out: Path = typer.Option(Path("demo"), help="Where everything goes.", metavar="DIR"),
    device: str = typer.Option("auto", help="Where the encoder runs.", metavar="auto|cpu|cuda:N"),
    weights: str = typer.Option("random:0", help="As in extract.", metavar="WEIGHTS"),
) -> int:
    """Draw a small corpus, extract its features and show what came out. Needs no data and no network."""
    from gpupeak.cli.app import main
    from gpupeak.demo.show import run_demo

    return run_demo(out, Output(), main, device, weights)
