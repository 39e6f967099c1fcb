"""Words on the command line become an `ExtractConfig`: the fields of `config.OPTIONS` as typer's parameters."""

# No postponed evaluation of annotations here: they are what typer makes the options from.

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import Parameter, Signature, signature
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer

from gpupeak.cli.output import Output
from gpupeak.config import OF_EACH, OPTIONS, OUTPUT, ExtractConfig, Option, keys_of, options_of
from gpupeak.corpora.table import expected_samples, guess, read_table
from gpupeak.errors import ConfigError

SETTINGS_FILE = "gpupeak.toml"
"""Taken where it lies in the current directory and `--config` names no other."""
_HERE = "command line"
_WHICH = ("datasets", "videos", "name", "aus")  # samples are taken: one given elsewhere stands for all of them
_TAKE_MANY = ("--datasets", "--dataset", "--show-samples", "--options")


def option(value: object, panel: str, metavar: str, help: str, *names: str, told: object = None, **how: Any) -> Any:
    """The default of a parameter that is an option in a panel of the help; a flag has no `metavar`.

    The help tells the default, in the words of `told` if there are any.
    """
    told = told or value
    text = help.replace("[", "\\[") + (f" [dim]\\[default: {told}][/]" if told else "")
    return typer.Option(value, *names, help=text, show_default=False, rich_help_panel=panel, metavar=metavar, **how)


QUIET = option(False, OUTPUT, "", "Only notices, warnings and errors: no progress, no table.", "--quiet", "-q")
JSON = option(False, OUTPUT, "", "One JSON object on standard output, and nothing else there.", "--json")


def with_settings(*, names: bool = True, recorded: bool = False) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Make a function of a `config` and options of its own a command that takes the options of its name, too.

    With `names`, the datasets may be given without `--datasets`. A command with a parameter `given` gets each setting
    that was given, with its source. `recorded` are settings taken from the records of what is there, unless given.
    """

    def wrap(command: Callable[..., int]) -> Callable[..., int]:
        taken = signature(command).parameters
        own = [parameter for name, parameter in taken.items() if name not in ("config", "given")]
        options = options_of(command.__name__)
        every = "the nine of MER-UniBench" if "dataset_root" in options else "all that are there"
        told = f"Names, apart or joined by commas; none for {every}."
        argument = typer.Argument(None, help=told, metavar="DATASETS", autocompletion=expected_samples)
        shared = [_parameter("names", list[str], argument)] * names
        shared += [_as_parameter(field, option) for field, option in options.items()]

        def run(**given: Any) -> int:
            extra = {parameter.name: given.pop(parameter.name) for parameter in own}
            words = [*(given.pop("names", None) or ()), *(given.pop("datasets") or ())]
            try:
                config, found = gathered(options, {**given, "datasets": dataset_names(words) or None})
                if recorded:
                    from gpupeak.check.recorded import as_recorded

                    config = as_recorded(config, found, Output(stderr=True).say, str(extra.get("target", "")))
                return command(config, **extra, **({"given": found} if "given" in taken else {}))
            except KeyboardInterrupt as error:  # with that, typer would end without a word
                raise typer.Abort from error

        keywords = [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in own]
        run.__signature__ = Signature([*shared, *keywords])  # type: ignore[attr-defined]
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return wrap


def gathered(
    options: Mapping[str, Option], words: Mapping[str, Any]
) -> tuple[ExtractConfig, dict[str, tuple[Any, str]]]:
    """The settings, and each that was given with its source: the command line, else the environment, else the file.

    Raises ConfigError, which names the variable or the file that a wrong value is in.
    """
    given: dict[str, tuple[Any, str]] = {}
    try:
        for field, of in options.items():
            variables = [name for key in keys_of(field) if os.environ.get(name := f"GPUPEAK_{key.upper()}")]
            value, source = words.get(field), _HERE
            if value is None and variables:
                value, source = os.environ[variables[0]], variables[0]
            if value is not None:
                given[field] = of.parsed(value) if isinstance(value, str) else value, source
        if "config_file" not in given and os.path.lexists(SETTINGS_FILE):
            given["config_file"] = Path(SETTINGS_FILE), "current directory"
            Output(stderr=True).say(f"settings from {SETTINGS_FILE}")
        file, _ = given.get("config_file", (None, ""))
        known = [key for field in OPTIONS for key in keys_of(field)]
        for name in os.environ:
            if name.startswith("GPUPEAK_") and (key := name[8:].lower()) not in (*known, "traceback"):
                Output(stderr=True).warn(f"{name} in the environment is no setting{guess(key, known)}")
        chosen = _WHICH if {"datasets", "videos"} & given.keys() else ()
        of_file = {field: value for field, value in read_table(file).settings.items() if field in options}
        given |= {field: (value, str(file)) for field, value in of_file.items() if field not in (*given, *chosen)}
        # What a file says of all datasets is asked for after what it says of one.
        settings = {
            field: value for field, (value, source) in given.items() if field not in OF_EACH or source != str(file)
        }
        return ExtractConfig(**settings), given
    except ConfigError as error:
        for field, (_, source) in given.items():
            if source != _HERE and str(error).startswith(f"{options[field].flag} "):
                spelt = source if source.startswith("GPUPEAK_") else f"{source}: {keys_of(field)[0]}"
                raise ConfigError(str(error).replace(options[field].flag, spelt, 1)) from error
        raise


def _parameter(name: str, kind: Any, default: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=kind | None)


def _as_parameter(field: str, of: Option) -> Parameter:
    """Of words, which `Option.parsed` makes values of, wherever they come from."""
    kind: Any = bool if bool in of.types else list[str] if field == "datasets" else str
    complete = (lambda: [*of.choices]) if of.choices else None
    spelt = f"{of.flag}/{of.off}" if kind is bool else of.flag
    how = option(None, of.panel, of.metavar, of.help, spelt, told=of.told, autocompletion=complete)
    return _parameter(field, kind, how)


def dataset_names(words: Iterable[str]) -> tuple[str, ...]:
    """The names in `words`, each once; in a word they are joined by commas. Raises ConfigError for a word that holds
    none: an unset shell variable must not mean all of them."""
    names = []
    for word in words:
        some = [name.strip() for name in word.split(",") if name.strip()]
        if not some:
            raise ConfigError(f"dataset is {word!r}, expected a name; without any, all are meant")
        names += some
    return tuple(dict.fromkeys(names))


def spread(argv: Sequence[str]) -> list[str]:
    """Let `--datasets` and the like take every word up to the next option, as AffectGPT's guide does.

    And let `inspect --show` stand alone, for the terminal: the next word is its file if it is called like a picture.
    """
    words: list[str] = []
    taker = ""  # the option that takes words now
    for word, following in pairwise([*argv, ""]):
        if word.startswith("-"):
            taker = word
        elif taker in _TAKE_MANY and words[-1] != taker:
            words.append(taker)
        words.append(word)
        if word == "--show" and argv[0] == "inspect" and following != "-" and not following.lower().endswith(".png"):
            words.append("-")
    return words
