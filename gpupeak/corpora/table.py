"""Which datasets are known? Those of MER-UniBench, in `datasets.csv`, and what a user's TOML file says of them."""

from __future__ import annotations

import csv
import difflib
import os
import reprlib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from gpupeak.config import A_TEXT, OPTIONS, is_text, keys_of, refused
from gpupeak.errors import ConfigError
from gpupeak.storage.files import expanded, name_fault, read_bounded
from gpupeak.storage.places import is_url

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_TABLE = Path(__file__).with_name("datasets.csv")
_LARGEST_FILE = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What `datasets.csv`, as AffectGPT's guide lays the datasets out, and a settings file may say of one dataset.

    `consumer` is AffectGPT's class name, which MER-Factory's output directory goes by; `expected` counts the test
    split. `labels` is the list of samples, and `key` the array of an .npz or the column of a .csv that is the test
    split; `train_key` is the training split, where the same file has one. Where one list holds both, names that begin
    with `test_prefix` are the test split. Relative paths start at the dataset root, `aus` at `mer_factory_output` where
    that is set.
    """

    consumer: str | None = None
    expected: int | None = None
    labels: str | None = None
    key: str | None = None
    train_key: str | None = None
    test_prefix: str | None = None
    videos: str | None = None
    aus: str | None = None
    samples: str | None = None
    sampling: str | None = None
    n_frms: int | None = None
    fallback: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """What a settings file says of all datasets, by the fields of `ExtractConfig`; each dataset there is; and the names
    of those that are taken when none is named."""

    settings: Mapping[str, Any]
    entries: dict[str, Entry]
    default: list[str]

    def said(self, name: str, field: str) -> Any:
        """What the settings file says of a dataset: in its section, else of all; None for nothing."""
        return getattr(self.entries.get(self.find(name) or name), field, None) or self.settings.get(field)

    def find(self, name: str) -> str | None:
        """The dataset called `name`, or so by AffectGPT's class; capitals do not matter."""
        for own, entry in self.entries.items():
            if name.casefold() in (own.casefold(), (entry.consumer or own).casefold()):
                return own
        return None

    def canonical(self, name: str) -> str:
        """As `find`. Raises ConfigError if there is no such dataset."""
        if (own := self.find(name)) is None:
            known = ", ".join(self.entries)
            raise ConfigError(f"unknown dataset {name!r}{guess(name, self.entries)}; there are {known}")
        return own


def read_table(file: Path | None) -> Table:
    """The table, with what the settings file says. Raises ConfigError if that is not of the documented form."""
    table = Table({}, {}, [])
    for row in csv.DictReader(_TABLE.read_text(encoding="utf-8").splitlines()):
        name, benchmark, expected = (row.pop(column) for column in ("dataset", "benchmark", "expected"))
        given: dict[str, Any] = {column: cell for column, cell in row.items() if cell}
        table.entries[name] = Entry(**given, expected=int(expected) if expected else None)
        table.default.extend([name] if benchmark else [])
    return table if file is None else _extended(table, expanded(file))


def default_datasets(file: Path | None = None) -> tuple[str, ...]:
    """The datasets that are taken when none is named: MER-UniBench's nine, and those the settings file adds."""
    return tuple(read_table(file).default)


def expected_samples() -> dict[str, int | None]:
    """The datasets of the table, and how many samples AffectGPT counts in their test splits."""
    return {name: entry.expected for name, entry in read_table(None).entries.items()}


def _extended(table: Table, file: Path) -> Table:
    content = _content(file)
    sections = content.pop("datasets", {})
    if isinstance(sections, list):
        content, sections = {**content, "dataset": sections}, {}
    if not isinstance(sections, dict):
        raise ConfigError(
            f"{file}: datasets is {reprlib.repr(sections)}, expected a list, or a section for each dataset"
        )
    keys = {key: field for field in OPTIONS if field != "config_file" for key in keys_of(field)}
    settings = {field: _placed(field, value, file) for field, value in _checked(content, keys, str(file)).items()}
    entries, default = dict(table.entries), list(table.default)
    seen: dict[str, str] = {}
    for given_name, given in sections.items():
        where = f"{file}, datasets.{given_name}"
        if (other := seen.setdefault((table.find(given_name) or given_name).casefold(), given_name)) != given_name:
            raise ConfigError(f"{where}: the same dataset as datasets.{other}; capitals do not tell names apart")
        own = Entry(**_checked(given, {f.name: f.name for f in fields(Entry)}, where))
        if name := table.find(given_name):
            entries[name] = _overridden(table.entries[name], own)
            continue
        if fault := name_fault(given_name):
            raise ConfigError(f"{where}: {fault}")
        if own.videos is None:
            raise ConfigError(f"{where}: no such dataset{guess(given_name, entries)}; one of your own needs videos")
        entries[given_name] = own
        default.append(given_name)
    return Table(settings, entries, default)


def _overridden(entry: Entry, own: Entry) -> Entry:
    given = {f.name: value for f in fields(own) if (value := getattr(own, f.name)) is not None}
    if "labels" in given:
        # Another list has other keys, and nobody knows how many samples.
        entry = replace(entry, key=None, train_key=None, test_prefix=None, expected=None)
    return replace(entry, **given)


def _content(file: Path) -> dict[str, Any]:
    if file.suffix.lower() != ".toml" and file.exists():
        example = 'dataset_root = "/data/MER" and, below [datasets.mycorpus], videos = "mycorpus/clips"'
        raise ConfigError(f"{file}: settings are TOML; write {example} into a .toml file")
    try:
        return tomllib.loads(read_bounded(file, _LARGEST_FILE).decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        told = getattr(error, "strerror", None) or " ".join(str(error).split())
        hint = "; beside sections, the list of names is called dataset" if "declare ('datasets'" in told else ""
        raise ConfigError(f"{file}: {told}{hint}") from error


def _checked(given: object, fields: Mapping[str, str], where: str) -> dict[str, Any]:
    """What was given, by `fields`, those that each key stands for; `-` and `_` are the same in a key."""
    if not isinstance(given, dict):
        raise ConfigError(f"{where}: {reprlib.repr(given)} found where settings belong")
    checked = {}
    for key, value in given.items():
        field = fields.get(key.replace("-", "_"))
        if field is None:
            told = f"unknown key {reprlib.repr(key)}{guess(key, fields)}; allowed: {', '.join(fields)}"
            raise ConfigError(f"{where}: {told}")
        if isinstance(value, int) and field in OPTIONS and OPTIONS[field].types[0] is str:
            value = str(value)  # actors = 4, name = 2023
        if field == "cache_size" and isinstance(value, str):
            value = OPTIONS[field].parsed(value)
        expected = None if is_text(value) else A_TEXT
        if field == "expected":
            fine = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= sys.maxsize
            expected = None if fine else "a whole number of at least 1"
        elif field in OPTIONS:
            expected = OPTIONS[field].expected(value)
        if expected is not None:
            raise refused(f"{where}: {key}", value, expected)
        if field in checked:
            raise ConfigError(f"{where}: {key} is given twice, the other time spelt otherwise")
        checked[field] = value
    return checked


def _placed(field: str, value: Any, file: Path) -> Any:
    """A path starts at the directory of its file; so do weights that are there."""
    kind, home = OPTIONS[field], file.parent
    if isinstance(value, list):
        return tuple(value)
    if Path in kind.types and not is_url(value):
        return home / expanded(value)
    if field == "weights" and os.path.exists(path := home / expanded(value)):  # noqa: PTH110 - never raises
        return str(path)
    if field == "encoder" and value.startswith("hf:"):
        return f"hf:{home / expanded(value.removeprefix('hf:'))}"
    return value


def guess(word: str, known: Iterable[str]) -> str:
    """What may be meant, as the end of a message."""
    near = difflib.get_close_matches(word.lower(), list(known), n=3)
    return f", did you mean {' or '.join(near)}?" if near else ""
