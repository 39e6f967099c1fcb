"""`gpupeak init`, and what `gpupeak plan --show-settings` shows: the settings, and where each comes from."""

# ruff: noqa: B008 - a default that is a call is how typer is told of an option

import json
import os
import textwrap
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import typer

from gpupeak.cli.options import SETTINGS_FILE
from gpupeak.cli.output import Output, print_json
from gpupeak.config import OF_EACH, OPTIONS, ExtractConfig, Option, keys_of
from gpupeak.corpora.table import read_table
from gpupeak.errors import ConfigError, writing

_HEAD = """\
# Settings of gpupeak: read where this file is gpupeak.toml in the current directory, or is named by --config.
# To make a setting, take off the "# " before it; paths start where this file lies. The command line comes first, then
# the environment (GPUPEAK_OUTPUT_ROOT and so on), then this file: gpupeak plan --show-settings tells what holds.
"""
_SECTION = """
# ---- One dataset: of the table, or of your own; paths start at dataset_root

# [datasets.mycorpus]
# videos = "mycorpus/clips"
# labels = "mycorpus/list.txt"
# n_frms = 16
"""


def init(file: Path = typer.Argument(Path(SETTINGS_FILE), help="The file to write.", metavar="FILE")) -> int:
    """Write a settings file in which every option stands as a comment, with its help and its default."""
    if file.suffix.lower() != ".toml":
        raise ConfigError(f"{file}: settings are TOML; name a .toml file")
    if os.path.lexists(file):
        raise ConfigError(f"{file}: is there already; name another file")
    with writing(file):
        file.write_text(template(), encoding="utf-8")
    named = f", and give --config {file}" if file != Path(SETTINGS_FILE) else ""
    Output().say(f"{file}: take off the # before what you want to set{named}")
    return 0


def template() -> str:
    """The settings file that `gpupeak init` writes."""
    text = _HEAD
    of = {field: option for field, option in OPTIONS.items() if field != "config_file"}
    for panel, fields in groupby(of, lambda field: of[field].panel):
        text += f"\n# ---- {panel}\n"
        for field in fields:
            told = f" [default: {of[field].told}]" if of[field].told else ""
            text += "\n" + textwrap.fill(of[field].help + told, 120, initial_indent="# ", subsequent_indent="# ") + "\n"
            text += f"# {keys_of(field)[0]} = {json.dumps(_example(of[field]))}\n"
    return text + _SECTION


def _example(of: Option) -> object:
    """The default of an option; where there is none to write, what has its form."""
    if isinstance(of.default, tuple):
        return ["mer2023", "meld"]
    if of.default is not None:
        return of.told if of.metavar == "SIZE" else str(of.default) if isinstance(of.default, Path) else of.default
    least, _ = of.bounds or (0, 0)
    some = (of.metavar, of.parsed(of.told), *of.choices, int(least))
    return next((value for value in some if of.expected(value) is None), 1)


def show_settings(config: ExtractConfig, given: Mapping[str, tuple[Any, str]], *, as_json: bool) -> int:
    """Print each option's value and where it comes from, then what the settings file says of single datasets."""
    rows: list[tuple[str, Any, str]] = []
    for field, option in OPTIONS.items():
        value, source = given.get(field, (option.told or option.default, "default"))
        rows.append((option.name, str(value) if isinstance(value, Path) else value, source))
    for name, entry in read_table(config.config_file).entries.items():
        own = ((f"{name}: {OPTIONS[field].name}", getattr(entry, field)) for field in OF_EACH)
        rows += [(key, value, str(config.config_file)) for key, value in own if value is not None]
    if as_json:
        print_json(0, settings={name: {"value": value, "from": source} for name, value, source in rows})
        return 0
    for name, value, source in rows:
        shown = " ".join(value) if isinstance(value, tuple) else "" if value is None else str(value)
        Output().say(f"{name:<18}  {shown.lower() if isinstance(value, bool) else shown:<39}  {source}")
    return 0
