"""What does AffectGPT's configuration say, read as AffectGPT reads it, though a stranger may have written it?

AffectGPT keeps the sections `run`, `model`, `datasets` and `inference` of its file, lays what `--options` says
over them, and resolves `${...}` when a key is asked for. `${oc.env:NAME}` is what it would be there: a variable
of the environment.

A YAML file can be small and resolve to anything, and one of OmegaConf's own resolvers, `oc.coerce`, imports
whatever module it is told. So the file is read in a process of its own, without that resolver and with bounds
on its time and memory.
"""

from __future__ import annotations

import io
import reprlib
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from gpupeak.child import Child, Ended, connect
from gpupeak.errors import ConfigError
from gpupeak.storage.files import read_bounded

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["KEYS", "Document", "Section", "Unusable", "Value", "read_document", "serve"]

KEYS = (
    "frame_sampling",
    "frame_n_frms",
    "preextracted_root",
    "visual_encoder",
    "use_preextracted_frame",
    "use_preextracted_features",
    "face_or_frame",
    "mer_factory_output",
)
"""What is read of a section; the rest of it has no part in how frames are loaded."""

_SECTIONS = ("run", "model", "datasets", "inference")
_LARGEST = 1 << 18  # AffectGPT's own files take 5 kB
_LONGEST_TEXT = 4096  # no path is longer
_LARGEST_NUMBER = 10**9
_MEMORY = 1 << 30
_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Unusable:
    """A key whose value is none: `reason` says why, as the end of a sentence that begins with the key."""

    reason: str


Value: TypeAlias = "str | int | float | bool | Unusable | None"
Section: TypeAlias = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Document:
    """AffectGPT's configuration, as far as it says how frames are loaded.

    Args:
        inference: the section of that name, None where there is none.
        datasets: the sections below `datasets`.
        n_frms: `model.vis_processor.train.n_frms`, which frame counts default to; None where it is not set.
        absent: which of the sections that AffectGPT needs to start are not there.
        ignored: the options that change nothing, because AffectGPT keeps no such section.
        stray: keys whose value comes from outside the sections that AffectGPT keeps.
    """

    inference: Section | None
    datasets: Mapping[str, Section]
    n_frms: Value
    absent: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    stray: tuple[str, ...] = ()


def read_document(file: Path, options: Sequence[str] = ()) -> Document:
    """Read a configuration of AffectGPT.

    Args:
        options: `key=value`, as AffectGPT's `--options` takes them; a key has its section before it.

    Raises:
        ConfigError: the file is not there, too large, no YAML, or no configuration of AffectGPT; or an option is
            not of that form.
    """
    for option in options:
        key, equals, _ = option.partition("=")
        if not equals or not key:
            raise ConfigError(f"option is {option!r}, expected key=value")
    try:
        text = read_bounded(file, _LARGEST).decode("utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{file}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: {getattr(error, 'strerror', None) or error}") from error
    child = Child("gpupeak.check.affectgpt_yaml:serve")
    try:
        child.send((text, tuple(options)))
        answer: Document | str = child.receive(_SECONDS)
    except Ended as ended:
        raise ConfigError(f"{file}: cannot be read: OmegaConf {ended}{child.last_words()}") from ended
    finally:
        child.end()
    if isinstance(answer, str):
        raise ConfigError(f"{file}: {answer}")
    return answer


def serve() -> None:
    """Answer one `(text, options)` with its `Document`, or with what is wrong with it; a process of its own."""
    connection, _ = connect()
    text, options = connection.recv()
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    try:
        answer: Document | str = _document(text, options)
    except _Unlike as error:
        answer = str(error)
    except (RecursionError, MemoryError):
        answer = "too deep or too large once it is resolved"
    connection.send(answer)


class _Unlike(Exception):
    """The text is no configuration of AffectGPT; says why."""


def _document(text: str, options: Sequence[str]) -> Document:
    import yaml
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    OmegaConf.clear_resolver("oc.coerce")
    try:
        loaded = OmegaConf.load(io.StringIO(text))
    except (yaml.YAMLError, OSError, ValueError, OmegaConfBaseException) as error:
        raise _Unlike(f"not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, DictConfig) or not {"inference", "datasets"} & set(loaded):
        there = ", ".join(str(key) for key in loaded)[:200] if isinstance(loaded, DictConfig) else "a list"
        raise _Unlike(
            f"not AffectGPT's configuration: expected a section inference or datasets, found {there or 'nothing'}"
        )
    for name in ("model", "datasets", "inference"):
        _section(loaded, name)

    effective = [option for option in options if _reaches(loaded, option)]
    try:
        whole = _merged(loaded, OmegaConf.from_dotlist(effective))
        kept = _merged(*({name: whole[name]} for name in _SECTIONS if name in whole))
    except (yaml.YAMLError, ValueError, OmegaConfBaseException) as error:
        raise _Unlike(_first_line(error)) from error

    stray: list[str] = []

    def values(path: str, of_kept: DictConfig, of_whole: DictConfig) -> dict[str, Value]:
        found = {}
        for key in sorted(set(KEYS) & set(of_kept.keys())):
            value = _value(of_kept, key)
            if isinstance(value, Unusable) and not isinstance(elsewhere := _value(of_whole, key), Unusable):
                value = elsewhere
                stray.append(f"{path}.{key}")
            found[key] = value
        return found

    inference, datasets = _section(kept, "inference"), _section(kept, "datasets")
    return Document(
        inference=None if inference is None else values("inference", inference, whole["inference"]),
        datasets={}
        if datasets is None
        else {
            str(name): values(f"datasets.{name!s}", section, whole["datasets"][name])
            for name in datasets
            if (section := _section(datasets, name, "datasets.")) is not None
        },
        n_frms=_n_frms(kept),
        absent=tuple(name for name in _SECTIONS if name not in whole),
        ignored=tuple(option for option in options if option not in effective),
        stray=tuple(stray),
    )


def _merged(*parts: DictConfig | dict[str, Any]) -> DictConfig:
    from omegaconf import OmegaConf

    return cast("DictConfig", OmegaConf.merge(*parts))


def _section(parent: DictConfig, name: object, path: str = "") -> DictConfig | None:
    """A section, None where it is not there or empty."""
    from omegaconf import DictConfig
    from omegaconf.errors import OmegaConfBaseException

    try:
        section = parent.get(name)  # type: ignore[arg-type]
    except OmegaConfBaseException as error:
        raise _Unlike(f"{path}{name}: {_first_line(error)}") from error
    if section is not None and not isinstance(section, DictConfig):
        raise _Unlike(f"{path}{name} is {reprlib.repr(section)}, expected a section")
    return section


def _reaches(loaded: DictConfig, option: str) -> bool:
    """Whether an option changes a section that the file has: AffectGPT adds none, nor a dataset."""
    first, *rest = option.partition("=")[0].split(".")
    if first not in _SECTIONS or first not in loaded or not rest:
        return False
    return first != "datasets" or rest[0] in (loaded.datasets or ())


def _n_frms(kept: DictConfig) -> Value:
    from omegaconf import DictConfig

    node: Any = kept
    for name in ("model", "vis_processor", "train"):
        node = node.get(name) if isinstance(node, DictConfig) else None
    if not isinstance(node, DictConfig) or "n_frms" not in set(node.keys()):
        return None
    return _value(node, "n_frms")


def _value(section: DictConfig, key: str) -> Value:
    from omegaconf.errors import OmegaConfBaseException

    try:
        value = section[key]
    except OmegaConfBaseException as error:
        return Unusable(f"cannot be resolved: {_first_line(error)}")
    if value is not None and not isinstance(value, (str, int, float)):  # bool is an int
        return Unusable(f"is {reprlib.repr(value)}, expected one value")
    if isinstance(value, int) and abs(value) > _LARGEST_NUMBER:
        return Unusable(f"is a number of {value.bit_length():,} bits, expected at most {_LARGEST_NUMBER:,}")
    if isinstance(value, str) and len(value) > _LONGEST_TEXT:
        return Unusable(f"takes {len(value):,} characters, expected at most {_LONGEST_TEXT:,}")
    return value


def _first_line(error: BaseException) -> str:
    """What OmegaConf says, without the lines in which it names its own types."""
    return (str(error).splitlines() or [type(error).__name__])[0][:500]
