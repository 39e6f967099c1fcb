"""The records of shards made one: for each dataset one `run.json` and one manifest, and what they tell in short."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpupeak.config import ExtractConfig
from gpupeak.corpora.datasets import Corpus, list_samples, resolve
from gpupeak.encoders import EncoderSpec, encoder_spec
from gpupeak.errors import ConfigError, LabelError
from gpupeak.features.directory import FeatureDirectory, feature_directory, finished, read_manifest
from gpupeak.features.spool import Spool, mounted
from gpupeak.storage.remote import is_directory, shown, url_of
from gpupeak.types import Failed

__all__ = ["Merged", "merge"]


@dataclass(frozen=True, slots=True)
class Merged:
    """One dataset after `merge`: of its `listed` samples some are `saved`, and of the others some have `failed`.

    `parts` is how many shards' records were merged now. Where the dataset's list is not at hand, `listed` is None
    and the counts are of what the manifest tells.
    """

    dataset: str
    directory: Path | str
    parts: int
    listed: int | None
    saved: int
    failed: int

    @property
    def missing(self) -> int:
        """Listed samples that nobody has come to."""
        return 0 if self.listed is None else self.listed - self.saved - self.failed

    @property
    def complete(self) -> bool:
        return not self.failed and not self.missing

    def to_json(self) -> dict[str, Any]:
        """The counts as plain JSON values."""
        values = {**dataclasses.asdict(self), "directory": str(self.directory)}
        return {**values, "missing": self.missing, "complete": self.complete}


def merge(config: ExtractConfig, tell: Callable[[str], None] = lambda text: None) -> tuple[Merged, ...]:
    """Merge the records of the shards that `extract` was run in with the same settings; no features are touched.

    Lines come in the order of the dataset's list, or by name where that is not at hand, which `tell` is told.
    A merge that was cut off goes on from there, and one over merged records changes nothing.

    Raises:
        ConfigError: no dataset has features here, or the shards of one contradict each other.
        RunError: a run, or a shard, is writing there.
        WriteError: a record cannot be written.
    """
    with mounted(config) as settings:
        spec = encoder_spec(settings.encoder)
        corpora = resolve(settings, absent=True)
        places = [(corpus, _directory(settings, corpus, spec)) for corpus in corpora]
        there = [(corpus, path) for corpus, path in places if is_directory(path)]
        if not there:
            raise ConfigError(f"nothing to merge: no dataset has features in {settings.output_root} ({places[0][1]})")
        return tuple(_merge(corpus, path, spec, tell) for corpus, path in there)


def _merge(corpus: Corpus, path: Path, spec: EncoderSpec, tell: Callable[[str], None]) -> Merged:
    n, dim = corpus.rule.n, spec.dim
    try:
        listing = list_samples(corpus, path).samples
        names = [entry.sample.name if isinstance(entry, Failed) else entry.name for entry in listing]
        listed: int | None = len(names)
    except LabelError as error:
        names, listed = [], None
        tell(f"{corpus.name}: in the order of their names: {error}")
    spool = Spool(path)
    with FeatureDirectory(path, n, dim) as directory, spool:
        Spool.hold([spool])
        parts = directory.absorb(names)
        outcomes = {entry["sample"]: entry.get("outcome") for entry in read_manifest(path)}
        wanted = set(outcomes if listed is None else names)
        saved = finished(path, wanted, n, dim)
    failed = sum(outcomes.get(name) == "failed" for name in wanted - saved)
    where = path if url_of(path) is None else shown(path)
    return Merged(corpus.name, where, parts, listed, len(saved), failed)


def _directory(config: ExtractConfig, corpus: Corpus, spec: EncoderSpec) -> Path:
    rule, root = corpus.rule, config.path(config.output_root)
    return feature_directory(root, corpus.name, spec.directory, rule.method, rule.n, corpus.stream)
