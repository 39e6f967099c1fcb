"""What is extracted while faults happen: thousands of small clips with action units, links to a few that are made."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from clips import write_clip

from gpupeak.corpora.table import Entry, read_table
from gpupeak.demo.corpus import au_info

_KINDS = 12
"""Distinct clips. Each sample's peak is its own, too: two samples that are mixed up differ in most cases."""


@dataclass(frozen=True, slots=True)
class Scale:
    name: str
    clips: int  # of the part `kills`
    kills: int
    few: int  # clips where a run is made again for every fault
    rounds: int  # of each fault of `disk` and `signals`
    divisor: int  # of the numbers of samples that the datasets of `load` have
    listed: int  # samples planned
    minutes: float  # of the soak


SMALL = Scale("small", clips=40, kills=3, few=24, rounds=1, divisor=100, listed=5_000, minutes=0.25)
FULL = Scale("full", clips=2_000, kills=100, few=120, rounds=3, divisor=1, listed=200_000, minutes=30.0)


@dataclass(frozen=True, slots=True)
class Corpus:
    """A corpus of one's own: what `--videos` and `--aus` are given."""

    videos: Path
    aus: Path
    names: tuple[str, ...]


def make_corpus(directory: Path, count: int) -> Corpus:
    """`count` clips under names of their own, each with a MER-Factory file that names a peak."""
    videos, aus = directory / "videos", directory / "aus"
    pool = _Pool(directory / "pool", ".mp4")
    for place in (videos, aus):
        place.mkdir(parents=True)
    names = tuple(f"-clip {number:05d}" if number % 97 == 0 else f"clip_{number:05d}" for number in range(count))
    for number, name in enumerate(names):
        pool.put(number, videos, aus, name)
    return Corpus(videos, aus, names)


def make_benchmark(directory: Path, divisor: int) -> dict[str, int]:
    """The nine datasets of MER-UniBench in their own layout below `data` and `aus`; their numbers of samples."""
    table = read_table(None)
    pools = {suffix: _Pool(directory / f"pool{suffix}", suffix) for suffix in (".mp4", ".avi")}
    counts = {}
    for dataset in table.default:
        entry = table.entries[dataset]
        assert entry.expected and entry.videos and entry.consumer and entry.labels
        count = counts[dataset] = max(2, entry.expected // divisor)
        suffix = ".avi" if dataset == "iemocap" else ".mp4"
        names = [f"{entry.test_prefix or dataset}_{number:06d}" for number in range(count)]
        videos, aus = directory / "data" / entry.videos, directory / "aus" / entry.consumer
        for place in (videos, aus):
            place.mkdir(parents=True)
        _write_list(directory / "data" / entry.labels, entry, names)
        for number, name in enumerate(names):
            pools[suffix].put(number, videos, aus, name)
    return counts


def _write_list(path: Path, entry: Entry, names: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        path.write_text("\n".join([str(entry.key), *names]) + "\n")
        return
    others = ["Ses01F_impro01_F000"] if entry.test_prefix else []
    listed = np.array({name: {"emo": "happy", "val": -10} for name in [*others, *names]}, dtype=object)
    arrays: dict[str, Any] = {str(entry.key): listed}
    np.savez(path, **arrays)


class _Pool:
    def __init__(self, directory: Path, suffix: str) -> None:
        self._directory, self._suffix = directory, suffix
        directory.mkdir(parents=True)

    def put(self, number: int, videos: Path, aus: Path, name: str) -> None:
        kind = number % _KINDS
        frames = 12 + kind
        peak = number // _KINDS % frames
        clip, units = self._directory / f"{kind}{self._suffix}", self._directory / f"{frames} {peak}.json"
        if not clip.exists():
            codec = "mpeg4" if self._suffix == ".avi" or kind % 3 == 2 else "libx264"
            write_clip(clip, frames=frames, codec=codec, options={"g": "6"}, seed=kind)
        if not units.exists():
            units.write_text(json.dumps(au_info(frames, peak)))
        os.link(clip, videos / f"{name}{self._suffix}")
        (aus / name).mkdir()
        os.link(units, aus / name / f"{name}_au_analysis.json")
