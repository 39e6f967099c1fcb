"""Words on the command line become an `ExtractConfig`: the fields of `config.OPTIONS` as typer's parameters."""

# No postponed evaluation of annotations here: they are what typer makes the options from.

from collections.abc import Callable, Iterable, Sequence
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Any

import typer

from gpupeak.cli.output import errors_in_json
from gpupeak.config import OUTPUT, ExtractConfig, Option, options_of, parse_size
from gpupeak.errors import ConfigError
from gpupeak.storage.places import is_url

_TAKE_MANY = ("--datasets", "--dataset", "--show-samples", "--options")


def option(
    value: object, panel: str, metavar: str, help: str, *names: str, told: object = None, min: int | None = None
) -> Any:
    """The default of a parameter that is an option in a panel of the help; a flag has no `metavar`.

    The help tells the default only where it is `told`.
    """
    text = help.replace("[", "\\[") + ("" if told is None else f" [dim]\\[default: {told}][/]")
    return typer.Option(value, *names, help=text, show_default=False, rich_help_panel=panel, metavar=metavar, min=min)


QUIET = option(False, OUTPUT, "", "Only notices, warnings and errors: no progress, no table.", "--quiet", "-q")
JSON = option(False, OUTPUT, "", "One JSON object on standard output, and nothing else there.", "--json")
_NAMES = typer.Argument(
    None, help="Names, apart or joined by commas; none for the nine of MER-UniBench.", metavar="DATASETS"
)


def with_settings(*, names: bool = True) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Make a function of a `config` and options of its own a command that takes the options of its name, too.

    With `names`, the datasets may be given without `--datasets`. With `--json` the command's errors are JSON, too.
    """

    def wrap(command: Callable[..., int]) -> Callable[..., int]:
        taken = options_of(command.__name__)
        own = [parameter for parameter in signature(command).parameters.values() if parameter.name != "config"]

        def run(**given: Any) -> int:
            extra = {parameter.name: given.pop(parameter.name) for parameter in own}
            with errors_in_json(extra["as_json"]):
                return command(_settings(taken, given), **extra)

        shared = [_parameter("names", list[str], _NAMES)] if names else []
        shared += [_as_parameter(field, option) for field, option in taken.items()]
        own = [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in own]
        run.__signature__ = Signature([*shared, *own])  # type: ignore[attr-defined]
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return wrap


def _parameter(name: str, kind: Any, default: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=kind | None)


def _as_parameter(field: str, of: Option) -> Parameter:
    kind: Any = of.types[0] if _reader(of) is None else str
    how = option(None, of.panel, of.metavar, of.help, f"--{of.name}", told=of.told or None)
    return _parameter(field, list[str] if field == "datasets" else kind, how)


def _reader(of: Option) -> Callable[[str], object] | None:
    """What makes a value of the option's text, where typer does not."""
    if {Path, str} <= set(of.types):
        return place
    return parse_size if of.metavar == "SIZE" else None


def _settings(taken: dict[str, Option], given: dict[str, Any]) -> ExtractConfig:
    words = [*(given.pop("names", None) or ()), *(given.pop("datasets", None) or ())]
    values: dict[str, Any] = {"datasets": dataset_names(words)}
    for field, value in given.items():
        if value is not None:
            read = _reader(taken[field])
            values[field] = value if read is None else read(value)
    return ExtractConfig(**values)


def place(text: str) -> Path | str:
    """What an option names: the URL of a store as it stands, anything else as a path."""
    return text if is_url(text) else Path(text)


def dataset_names(words: Iterable[str]) -> tuple[str, ...]:
    """The names in `words`, each once; in a word they are joined by commas.

    Raises:
        ConfigError: a word holds none: an unset shell variable must not mean all of them.
    """
    names = []
    for word in words:
        some = [name.strip() for name in word.split(",") if name.strip()]
        if not some:
            raise ConfigError(f"dataset is {word!r}, expected a name; without any, all nine are meant")
        names += some
    return tuple(dict.fromkeys(names))


def spread(argv: Sequence[str]) -> list[str]:
    """Let `--datasets` and the like take every word up to the next option, as AffectGPT's guide does."""
    takers: tuple[str, ...] = _TAKE_MANY
    if argv[:1] == ["inspect"]:
        argv = _name_show(argv)
        if argv[1:2] == [] or argv[1].startswith("-"):  # what is inspected may be the last word
            takers = ()
    words: list[str] = []
    taker = ""  # the option that takes words now
    taken = 0  # that it has been given
    for index, word in enumerate(argv):
        if word == "--":
            return [*words, *argv[index:]]
        if word.startswith("-"):
            taker, taken = word if word in takers else "", 0
        elif taker:
            if taken:
                words.append(taker)
            taken += 1
        words.append(word)
    return words


def _name_show(argv: Sequence[str]) -> list[str]:
    """Let `--show` stand alone, for the terminal: the next word is its file if it is called like a picture."""
    named: list[str] = []
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        named.append(word)
        if word == "--show" and following != "-" and not following.lower().endswith(".png"):
            named.append("-")
    return named
