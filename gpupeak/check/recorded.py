"""With which settings were the features made that are there? For the commands that look at them without being told."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from gpupeak.config import OPTIONS, ExtractConfig
from gpupeak.corpora.table import read_table
from gpupeak.encoders import encoder_spec
from gpupeak.errors import GpupeakError, few, reading
from gpupeak.features.layout import is_feature_directory
from gpupeak.features.records import WHERE_ASKED, is_record, read_records
from gpupeak.features.remote import copied, copies_below
from gpupeak.storage.places import names, place
from gpupeak.types import Place

_CHOOSING = ("encoder", "sampling", "n_frms", "stream")  # a directory's name tells of them
_RECORDED = (*_CHOOSING, "weights", "fallback", "peak_source", "seed", *WHERE_ASKED)


def as_recorded(
    config: ExtractConfig, given: Collection[str], tell: Callable[[str], None], target: str = ""
) -> ExtractConfig:
    """`config` with the encoder, weights and sampling that the runs of its datasets recorded, less the fields `given`.

    Of a `target` DATASET/NAME only that dataset is asked. Where a dataset has several feature directories, or two were
    made differently, that is told, and what differs not taken; nothing is where it is the encoder.
    """
    table, root = read_table(config.config_file), place(config.output_root)
    datasets = [config.name] if config.name else [*map(table.canonical, config.datasets)] or table.default
    datasets = [own] if (own := table.find(target.rpartition("/")[0])) else datasets
    said = {field for field in _RECORDED if field in given or any(table.said(name, field) for name in datasets)}
    asked = {field: getattr(config, field) for field in _CHOOSING if field in given}
    if "encoder" in asked:
        asked["encoder"] = encoder_spec(config.encoder).name
    found: dict[Place, dict[str, Any]] = {}
    with copies_below(root) as copies:
        for home in [root if root.name == name else root / name for name in datasets]:
            with reading(home):
                there = sorted(filter(is_feature_directory, names(home)))
            for directory in (home / each for each in there):
                settings = _settings(directory, copies, tell)
                wanted = {field: asked.get(field) or table.said(home.name, field) for field in _CHOOSING}
                if settings and all(value in (None, settings[field]) for field, value in wanted.items()):
                    found[directory] = settings
    recorded = {field: [each[field] for each in found.values() if field in each] for field in _RECORDED}
    recorded = {field: values for field, values in recorded.items() if field not in said and values}
    differing = [field for field, values in recorded.items() if any(value != values[0] for value in values)]
    if differing:
        shown = few(str(directory).removeprefix(f"{root}/") for directory in found)
        flags = ", ".join(OPTIONS[field].flag for field in differing)
        tell(f"{root} holds {shown}: give {flags} to say which is meant")
        if "encoder" in differing:
            return config
    agreed = {field: values[0] for field, values in recorded.items() if field not in differing}
    taken = {field: value for field, value in agreed.items() if not _is_default(field, value)}
    if not taken or any(OPTIONS[field].expected(value) for field, value in taken.items()):
        return config
    tell(f"{', '.join(OPTIONS[field].flag for field in taken)} from {next(iter(found))}/run.json")
    return dataclasses.replace(config, **taken)


def _settings(directory: Place, copies: Path | None, tell: Callable[[str], None]) -> dict[str, Any]:
    """What was recorded of features, by the fields of `ExtractConfig`; nothing where that cannot be read: told."""
    here = directory
    try:
        here = copied(directory, copies, lambda name: name.startswith("run.") and is_record(name))
        settings = (read_records(here).run or {}).get("settings")
    except GpupeakError as error:
        tell(str(error).replace(str(here), str(directory)))
        return {}
    if not isinstance(settings, dict) or not {"encoder", "weights", "sampling", "n_frms"} <= settings.keys():
        return {}
    return {"stream": "frame", **dict.fromkeys(WHERE_ASKED), **settings}


def _is_default(field: str, value: Any) -> bool:
    """Also of weights that are not here any more: what is not given is looked for as ever."""
    gone = field == "weights" and os.path.isabs(str(value)) and not os.path.exists(value)  # noqa: PTH110, PTH117
    return gone or value is None or str(value) in (str(OPTIONS[field].default), OPTIONS[field].told.split(",")[0])
