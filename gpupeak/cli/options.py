"""Words on the command line become an `ExtractConfig`: the fields of `config.OPTIONS` as typer's parameters."""

# No postponed evaluation of annotations here: they are what typer makes the options from.

from collections.abc import Callable, Iterable, Sequence
from inspect import Parameter, Signature, signature
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer

from gpupeak.config import OUTPUT, ExtractConfig, Option, options_of, parse_size
from gpupeak.errors import ConfigError
from gpupeak.storage.places import is_url

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
_NAMES = typer.Argument(
    None, help="Names, apart or joined by commas; none for the nine of MER-UniBench.", metavar="DATASETS"
)


def with_settings(*, names: bool = True) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Make a function of a `config` and options of its own a command that takes the options of its name, too.

    With `names`, the datasets may be given without `--datasets`.
    """

    def wrap(command: Callable[..., int]) -> Callable[..., int]:
        own = list(signature(command).parameters.values())[1:]
        shared = [_parameter("names", list[str], _NAMES)] if names else []
        shared += [_as_parameter(field, option) for field, option in options_of(command.__name__).items()]

        def run(**given: Any) -> int:
            extra = {parameter.name: given.pop(parameter.name) for parameter in own}
            words = [*(given.pop("names", None) or ()), *(given.pop("datasets") or ())]
            settings = {field: value for field, value in given.items() if value is not None}
            try:
                return command(ExtractConfig(datasets=dataset_names(words), **settings), **extra)
            except KeyboardInterrupt as error:  # with that, typer would end without a word
                raise typer.Abort from error

        keywords = [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in own]
        run.__signature__ = Signature([*shared, *keywords])  # type: ignore[attr-defined]
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return wrap


def _parameter(name: str, kind: Any, default: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=kind | None)


def _as_parameter(field: str, of: Option) -> Parameter:
    kind: Any = list[str] if field == "datasets" else of.types[0]
    parser: Callable[[str], object] | None = None
    if {Path, str} <= set(of.types):
        parser = place
    elif of.metavar == "SIZE":
        parser = parse_size
    how = option(None, of.panel, of.metavar, of.help, of.flag, told=of.told, parser=parser)
    return _parameter(field, str if parser else kind, how)


def place(text: str) -> Path | str:
    """What an option names: the URL of a store as it stands, anything else as a path."""
    return text if is_url(text) else Path(text)


def dataset_names(words: Iterable[str]) -> tuple[str, ...]:
    """The names in `words`, each once; in a word they are joined by commas. Raises ConfigError for a word that holds
    none: an unset shell variable must not mean all of them."""
    names = []
    for word in words:
        some = [name.strip() for name in word.split(",") if name.strip()]
        if not some:
            raise ConfigError(f"dataset is {word!r}, expected a name; without any, all nine are meant")
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
