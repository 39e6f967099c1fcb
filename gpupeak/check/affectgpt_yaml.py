"""What does AffectGPT's configuration say, read as AffectGPT reads it?

AffectGPT keeps the sections `run`, `model`, `datasets` and `inference` of its file, lays what `--options` says
over them, and resolves `${...}` when a key is asked for.
"""

from __future__ import annotations

import io
import math
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

from gpupeak.errors import ConfigError
from gpupeak.storage.files import read_bounded

if TYPE_CHECKING:
    from omegaconf import DictConfig

KEYS = (
    *("frame_sampling", "frame_n_frms", "preextracted_root", "visual_encoder", "face_or_frame"),
    *("use_preextracted_frame", "use_preextracted_face", "use_preextracted_features"),
)
"""What is read of a section; the rest of it has no part in how frames are loaded."""

_SECTIONS = ("run", "model", "datasets", "inference")
_LARGEST = 1 << 16  # bytes of a file; AffectGPT's own take 5 kB
_MOST_NODES = 10_000  # once aliases are expanded
_MOST_PARTS = 5_000  # of one value, once `${...}` is resolved
_LONGEST_TEXT, _LARGEST_NUMBER = 4096, 10**9  # no path is longer

Value: TypeAlias = "str | int | float | bool | None"
Section: TypeAlias = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Document:
    """AffectGPT's configuration, as far as it says how frames are loaded.

    `n_frms` is `model.vis_processor.train.n_frms`, `encoder` `model.visual_encoder`. `absent` are sections without
    which AffectGPT does not start, `ignored` options that change nothing.
    """

    inference: Section | None
    datasets: Mapping[str, Section]
    n_frms: Value
    encoder: Value
    absent: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


def read_document(file: Path, options: Sequence[str] = ()) -> Document:
    """Read a configuration of AffectGPT, with `key=value` over it as AffectGPT's `--options` takes them.

    Raises ConfigError, which does not name the file, if that or an option is not of this form.
    """
    for option in options:
        if option.find("=") < 1:
            raise ConfigError(f"--options is {option!r}, expected key=value")
    try:
        return _document(read_bounded(file, _LARGEST).decode(), options)
    except ConfigError:
        raise
    except OSError as error:
        raise ConfigError(error.strerror or str(error)) from error
    except Exception as error:  # OmegaConf raises more than errors of its own
        raise ConfigError(f"OmegaConf cannot read it: {' '.join(str(error).split())[:500]}") from error


def _document(text: str, options: Sequence[str]) -> Document:
    from omegaconf import DictConfig, OmegaConf

    OmegaConf.clear_resolver("oc.coerce")  # imports what it is told; AffectGPT's OmegaConf has none
    loaded = OmegaConf.load(io.StringIO(text), max_yaml_expanded_nodes=_MOST_NODES)
    if not isinstance(loaded, DictConfig) or not {"inference", "datasets"} & set(loaded):
        found = ", ".join(map(str, loaded))[:200] or "nothing"
        raise ConfigError(f"not AffectGPT's configuration: expected a section inference or datasets, found {found}")
    effective = [option for option in options if _changes(loaded, option)]
    whole = cast("DictConfig", OmegaConf.merge(loaded, OmegaConf.from_dotlist(effective)))
    kept = OmegaConf.create({name: whole[name] for name in _SECTIONS if name in whole})
    texts = list(_texts(OmegaConf.to_container(whole, resolve=False)))
    if math.prod(max(text.count("${"), 1) for text in texts) > _MOST_PARTS:
        raise ConfigError("too many values with more than one ${...}, which together can grow without end")

    named = _section(kept, "datasets")
    sections = {str(name): _section(named, name, "datasets.") for name in named or ()}
    inference = _section(kept, "inference")
    return Document(
        inference=None if inference is None else _values(inference, "inference."),
        datasets={name: _values(each, f"datasets.{name}.") for name, each in sections.items() if each is not None},
        n_frms=_value(kept, "model.vis_processor.train.n_frms"),
        encoder=_value(kept, "model.visual_encoder"),
        absent=tuple(name for name in _SECTIONS if name not in whole),
        ignored=tuple(option for option in options if option not in effective),
    )


def _values(section: DictConfig, path: str) -> Section:
    return {key: _value(section, key, path) for key in KEYS if key in section.keys()}  # noqa: SIM118 - that resolves


def _section(parent: DictConfig | None, name: object, path: str = "") -> DictConfig | None:
    from omegaconf import DictConfig

    section = None if parent is None else parent.get(name)  # type: ignore[arg-type]
    if section is not None and not isinstance(section, DictConfig):
        raise ConfigError(f"{path}{name} is {reprlib.repr(section)}, expected a section")
    return section


def _changes(loaded: DictConfig, option: str) -> bool:
    """Whether an option changes a section that the file has: AffectGPT adds none, nor a dataset."""
    first, *rest = option.partition("=")[0].split(".")
    if first not in _SECTIONS or first not in loaded or not rest:
        return False
    return first != "datasets" or rest[0] in (loaded.datasets or ())


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)


def _value(section: DictConfig, key: str, path: str = "") -> Value:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        value: object = OmegaConf.select(section, key, throw_on_missing=True)
    except OmegaConfBaseException as error:
        # Not the lines in which OmegaConf names its own types.
        raise ConfigError(f"{path}{key} cannot be resolved: {str(error).splitlines()[0][:500]}") from error
    if value is None or (isinstance(value, str) and len(value) <= _LONGEST_TEXT):
        return value
    if isinstance(value, (int, float)) and abs(value) <= _LARGEST_NUMBER:  # bool is an int
        return value
    expected = f"a text of at most {_LONGEST_TEXT:,} characters, or a number to a billion"
    raise ConfigError(f"{path}{key} is of type {type(value).__name__}, expected {expected}")
