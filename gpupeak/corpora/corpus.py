"""Which corpora does a run take? Settings -> Corpus.

What the command line says comes before a dataset's entry, and that before the rest of the settings file.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gpupeak.config import ExtractConfig
from gpupeak.corpora.table import Entry, Table, read_table
from gpupeak.errors import ConfigError, LabelError
from gpupeak.storage.files import name_fault
from gpupeak.storage.places import is_directory, is_there, place
from gpupeak.types import Place, SamplingRule

_FACES = "openface_face"  # beside the directory of the videos
_FORM = f"and {_FACES}/<sample>.npy has those of a video, uint8 [faces, height, width, 3]"


@dataclass(frozen=True, slots=True)
class Corpus:
    """One dataset of a run: what it is called, how it is sampled, where everything lies.

    `videos` is their directory, the only video, or the faces' directory; `au_dirs` come nearest first. With
    `fallback_given` one without any usable peak is no mistake. `expected` is None where nobody knows or only some were
    asked for. Without `labels`, of which `keys` are taken, every video is a sample. Where one list holds both splits,
    names of the test split begin with `test_prefix`. `samples` is a list of names to restrict it to.
    """

    name: str
    rule: SamplingRule
    videos: Place
    au_dirs: tuple[Place, ...]
    fallback_given: bool = False
    expected: int | None = None
    labels: Place | None = None
    keys: tuple[str | None, ...] = (None,)
    test_prefix: str | None = None
    split: str = "test"
    samples: Place | None = None
    limit: int | None = None
    stream: str = "frame"


def resolve(config: ExtractConfig, *, absent: bool = False, command: str = "extract") -> tuple[Corpus, ...]:
    """The datasets that `config` names, the corpus that its `videos` describes, or else the default ones of the table.

    With `absent`, lists and directories that are not there are no mistake: features may lie elsewhere. Raises
    ConfigError for wrong settings, LabelError where a list or the videos are not there, with the `command` for others.
    """
    if config.videos is None and config.aus is not None:
        raise ConfigError("--aus goes with --videos and --name; for the datasets, use --mer-factory-output")
    table = read_table(config.config_file)
    if config.videos is not None and config.name is not None:
        names, root = [config.name], place("")
        table = replace(table, entries={config.name: _own(config, config.name)})
    else:
        names = list(dict.fromkeys(map(table.canonical, config.datasets))) or table.default
        root = place(config.dataset_root or table.settings.get("dataset_root") or ".")
        if not is_directory(root):
            raise ConfigError(f"dataset root {root} is not a directory")
    corpora = tuple(_corpus(name, table, root, config) for name in names)
    if not absent:
        _refuse_missing(corpora, config, root, command)
    return corpora


def _own(config: ExtractConfig, name: str) -> Entry:
    if fault := name_fault(name):
        raise ConfigError(f"--name is {name!r}: {fault}")
    aus = place(config.aus) if config.aus else None
    if isinstance(aus, Path):
        aus = aus.absolute()  # not below mer_factory_output
    return Entry(videos=str(config.videos), aus=str(aus) if aus else None)


def _corpus(name: str, table: Table, root: Place, config: ExtractConfig) -> Corpus:
    entry, default = table.entries[name], SamplingRule()
    labels = root / place(entry.labels) if entry.labels else None
    listed = config.samples or (root / place(entry.samples) if entry.samples else table.settings.get("samples"))
    samples = None if listed is None else place(listed)
    if labels is None:
        labels, samples = samples, None
    if config.split == "train" and entry.train_key is None:
        raise ConfigError(f"{name} has no training split; name the datasets to take, or pass --split test")
    keys = {"test": [entry.key], "train": [entry.train_key], "all": [entry.key, entry.train_key]}[config.split]
    whole = config.split == "test" and samples is None and config.limit is None

    videos = root / place(entry.videos or ".")
    method = config.sampling or table.said(name, "sampling") or default.method
    if config.stream != "frame":  # AffectGPT samples faces uniformly, whatever is asked of the frames
        videos, method = videos.parent / _FACES, "uniform"
    fallback = config.fallback or table.said(name, "fallback")
    rule = SamplingRule(
        method=method,
        n=config.n_frms or table.said(name, "n_frms") or default.n,
        fallback=fallback or default.fallback,
        peak_source=config.peak_source,
        seed=config.seed,
        face=config.face,
        min_confidence=config.min_confidence or None,
        no_blinks=config.no_blinks,
        smooth=None if config.smooth == 1 else config.smooth,
    )
    aus = config.mer_factory_output or table.settings.get("mer_factory_output")
    return Corpus(
        name=name,
        rule=rule,
        videos=videos,
        au_dirs=_au_directories(name, entry, root, aus),
        fallback_given=fallback is not None,
        expected=entry.expected if whole else None,
        labels=labels,
        keys=tuple(dict.fromkeys(key for key in keys if key is not None)) or (None,),
        test_prefix=entry.test_prefix,
        split=config.split,
        samples=samples,
        limit=config.limit,
        stream=config.stream,
    )


def _au_directories(name: str, entry: Entry, root: Place, given: Path | str | None) -> tuple[Place, ...]:
    """MER-Factory may have put a dataset under AffectGPT's class name, its own name, or no name at all."""
    base = place(given) if given else None
    if entry.aus is not None:
        return ((base or root) / place(entry.aus),)
    if base is None:
        return ()
    return tuple(dict.fromkeys((base / (entry.consumer or name), base / name.lower(), base)))


def _refuse_missing(corpora: Sequence[Corpus], config: ExtractConfig, root: Place, command: str) -> None:
    needed = [(corpus.name, path) for corpus in corpora for path in (corpus.videos, corpus.labels)]
    missing = {name: path for name, path in needed if path is not None and not is_there(path)}
    if not missing:
        return
    names, first = ", ".join(missing), next(iter(missing.values()))
    there = [corpus.name for corpus in corpora if corpus.name not in missing]
    if there and not config.datasets:
        root = root.absolute() if isinstance(root, Path) else root
        others = shlex.join(replace(config, datasets=tuple(there), dataset_root=str(root)).words())
        raise LabelError(f"{names}: not there (the first lacks {first}); for the others: gpupeak {command} {others}")
    hint = "" if config.videos else "; --dataset-root says where the datasets are"
    if first.name == _FACES:
        hint = f"; OpenFace's FeatureExtraction cuts faces out, {_FORM}"
    raise LabelError(f"{names}: {first} is not there{hint}")
