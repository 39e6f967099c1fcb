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
from gpupeak.features.directory import FeatureDirectory
from gpupeak.features.records import read_manifest
from gpupeak.features.remote import copies_below
from gpupeak.run import feature_place
from gpupeak.storage.places import is_directory, place
from gpupeak.types import Failed, Place

__all__ = ["Merged", "merge"]


@dataclass(frozen=True, slots=True)
class Merged:
    """One dataset after `merge`: of its `listed` samples some are `saved`, and of the others some have `failed`.

    `parts` is how many shards' records were merged now. Where the dataset's list is not at hand, `listed` is None
    and the counts are of what the manifest tells.
    """

    dataset: str
    directory: Place
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
    with copies_below(place(config.output_root)) as copies:
        spec = encoder_spec(config.encoder)
        corpora = resolve(config, absent=True)
        places = [(corpus, feature_place(config, corpus, spec)) for corpus in corpora]
        there = [(corpus, path) for corpus, path in places if is_directory(path)]
        if not there:
            raise ConfigError(f"nothing to merge: no dataset has features in {config.output_root} ({places[0][1]})")
        return tuple(_merge(corpus, path, spec, copies, tell) for corpus, path in there)


def _merge(corpus: Corpus, path: Place, spec: EncoderSpec, copies: Path | None, tell: Callable[[str], None]) -> Merged:
    n, dim = corpus.rule.n, spec.dim
    try:
        listing = list_samples(corpus, path).samples
        names = [entry.sample.name if isinstance(entry, Failed) else entry.name for entry in listing]
        listed: int | None = len(names)
    except LabelError as error:
        names, listed = [], None
        tell(f"{corpus.name}: in the order of their names: {error}")
    with FeatureDirectory(path, n, dim, copies=copies) as directory:
        parts = directory.absorb(names)
        outcomes = {line.sample: line.outcome for line in read_manifest(directory.path)}
        wanted = set(outcomes if listed is None else names)
        saved = directory.done(wanted)
    failed = sum(outcomes.get(name) == "failed" for name in wanted - saved)
    return Merged(corpus.name, path, parts, listed, len(saved), failed)
