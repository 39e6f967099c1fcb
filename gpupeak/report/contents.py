"""What came of a run, sample by sample? Its lists, manifests and features, read once more for `page` to lay out.

Nothing here is refused for being incomplete: a dataset without videos, without a manifest or without features is
told as it is. Only the contact sheets decode anything, and not in this process.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gpupeak.child import cores
from gpupeak.config import ExtractConfig
from gpupeak.corpora.datasets import Corpus, list_samples, resolve
from gpupeak.encoders import EncoderSpec, encoder_spec
from gpupeak.errors import ConfigError, LabelError, RunError
from gpupeak.features.directory import FeatureDirectory
from gpupeak.features.layout import feature_directory
from gpupeak.features.npy import read_features
from gpupeak.features.records import ManifestLine, read_manifest
from gpupeak.features.remote import copied, copies_below
from gpupeak.report.sheets import Sheet, SheetTask, read_sheets
from gpupeak.storage.places import is_directory, place
from gpupeak.types import Failed, Place, Sample

SAVED, FAILED, MISSING, BROKEN = "saved", "failed", "missing", "broken"
OUTCOMES = (SAVED, FAILED, MISSING, BROKEN)
"""What can be said of a listed sample: its features are there; they are not, and a run said why; they are not, and
nobody knows why; there is a file that cannot be features."""
POSITIONS = 20
"""Into how many parts of a clip the peaks are counted."""

_PEAK, _INDEX = "the peak lay outside of the clip", "an index lay past the end"
_MOST_COMPARED = 16  # frames of a sample: 120 pairs
_LEVELS = "0123456789abcdef"
_UNUSUAL = 6.0  # robust standard deviations; of 12,799 samples none is that far by chance
_ENOUGH = 20  # samples, for a median absolute deviation to mean something
_SIDE = 240  # pixels of a picture in the page


@dataclass(slots=True)
class Row:
    """One listed sample.

    Args:
        sample: with its video and its directories, as far as they are at hand.
        outcome: one of `OUTCOMES`.
        why: of a failure or a broken file the reason, with its stage; of a fallback its reason; else "".
        source: where its peak is from, one of `PEAK_SOURCES`; "" if it has none.
        peak: the frame of the peak, as the file names it; None if there is none.
        fallback: whether it has its rule's fallback for want of a peak.
        clamp: what was clamped into the video, "" if nothing.
        indices, frames, codec: the frames chosen, of how many, from what; (), 0 and "" where no manifest tells.
        known: whether a manifest line of a run tells of it.
        alike: how alike the features of each pair of its frames are, less the dataset's mean, the first with the
            second and third ... first: a hexadecimal digit each, f for the same direction, 0 for a right angle or
            more, with the square root of the angle between them. "" without features.
        cosine: the smallest plain cosine of two neighbours among its frames; None without features.
        unusual: why its features stand out of the dataset's, "" if they do not.
        oddness: how far they stand out, in robust standard deviations.
    """

    sample: Sample
    outcome: str = MISSING
    why: str = ""
    source: str = ""
    peak: int | None = None
    fallback: bool = False
    clamp: str = ""
    indices: tuple[int, ...] = ()
    frames: int = 0
    codec: str = ""
    known: bool = False
    alike: str = ""
    cosine: float | None = None
    unusual: str = ""
    oddness: float = 0.0

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a contact sheet says besides its frames, a line each."""
        peak = f"peak {self.peak}, by {self.source}" if self.source else ""
        fallback = f"fell back: {self.why}" if self.fallback else ""
        clamp = f"clamped: {self.clamp}" if self.clamp else ""
        return tuple(filter(None, (peak, fallback, clamp, self.unusual)))


@dataclass(slots=True)
class Overview:
    """One dataset: its rows in the order of its list, counts of them, and the contact sheets of some.

    `clamps`, `failures` and `fallbacks` count by reason; `positions` counts the peaks in `POSITIONS` equal parts of
    their clips; `stage_seconds` adds up what the manifest tells; `run` is `run.json`, if it can be read.
    """

    dataset: str
    directory: Place
    expected: int | None
    rows: list[Row]
    run: dict[str, Any]
    remarks: list[str]
    stage_seconds: Counter[str] = field(default_factory=Counter)
    timed: int = 0
    sheets: dict[int, Sheet] = field(default_factory=dict)
    """By the number of the row; one that could not be read has a `fault` and no pictures."""

    @property
    def outcomes(self) -> Counter[str]:
        return Counter(row.outcome for row in self.rows)

    @property
    def sources(self) -> Counter[str]:
        return Counter(row.source for row in self.rows if row.source and row.outcome == SAVED)

    @property
    def fallbacks(self) -> Counter[str]:
        return Counter(row.why for row in self.rows if row.fallback and row.outcome == SAVED)

    @property
    def clamps(self) -> Counter[str]:
        kinds: Counter[str] = Counter()
        for row in self.rows:
            if row.clamp and row.outcome == SAVED:
                kinds.update(_PEAK if part.startswith("peak ") else _INDEX for part in row.clamp.split("; "))
        return kinds

    @property
    def clamped(self) -> int:
        return sum(bool(row.clamp) and row.outcome == SAVED for row in self.rows)

    @property
    def failures(self) -> Counter[str]:
        return Counter(row.why for row in self.rows if row.outcome in (FAILED, BROKEN))

    @property
    def shown(self) -> int:
        """Contact sheets that have pictures."""
        return sum(not sheet.fault for sheet in self.sheets.values())

    @property
    def positions(self) -> list[int]:
        counts = [0] * POSITIONS
        for row in self.rows:
            if row.peak is not None and row.frames and row.outcome == SAVED:
                counts[min(row.peak * POSITIONS // row.frames, POSITIONS - 1)] += 1
        return counts

    def to_json(self) -> dict[str, Any]:
        """The counts as plain JSON values."""
        return {
            "dataset": self.dataset,
            "directory": str(self.directory),
            "listed": len(self.rows),
            "expected": self.expected,
            **{outcome: self.outcomes[outcome] for outcome in OUTCOMES},
            "clamped": self.clamped,
            "unusual": sum(bool(row.unusual) for row in self.rows),
            "peaks": dict(self.sources),
            "fallbacks": dict(self.fallbacks),
            "failures": dict(self.failures),
            "stage_seconds": {stage: round(seconds, 6) for stage, seconds in self.stage_seconds.items()},
            "sheets": self.shown,
            "remarks": list(self.remarks),
        }


def overview(
    config: ExtractConfig,
    show: int = 8,
    show_unusual: int = 4,
    show_samples: Collection[str] = (),
    tell: Callable[[str], None] = lambda text: None,
) -> tuple[Overview, ...]:
    """Read what lies in the output root for the datasets of `config`; where none is named, for those that are there.

    Args:
        config: as for `extract`.
        show: contact sheets a dataset of samples drawn at random, by `config.seed`.
        show_unusual: as many more, of those that stand out most.
        show_samples: names of samples (`NAME` or `DATASET/NAME`) whose contact sheets are made besides.
        tell: is told, a line each, of videos that cannot be shown.

    Raises:
        UsageError: unknown datasets or samples, or nothing to report on.
        RunError: the processes that decode cannot be started.
    """
    with copies_below(place(config.output_root)) as copies:
        return _overview(config, copies, show, show_unusual, show_samples, tell)


def _overview(
    config: ExtractConfig,
    copies: Path | None,
    show: int,
    show_unusual: int,
    show_samples: Collection[str],
    tell: Callable[[str], None],
) -> tuple[Overview, ...]:
    spec = encoder_spec(config.encoder)
    corpora = resolve(config, absent=True)
    named = bool(config.datasets or config.videos)
    found = [each for corpus in corpora if (each := _read(corpus, config, spec, copies, needed=named)) is not None]
    if not any(each.rows for each in found):
        directory = _directory(corpora[0], config, spec)
        raise ConfigError(
            f"nothing to report on: no dataset has features in {config.output_root} (such as {directory})"
        )
    _refuse_unknown(found, show_samples)
    _draw_sheets(found, config, show, show_unusual, show_samples, tell)
    return tuple(found)


# What is there


def _directory(corpus: Corpus, config: ExtractConfig, spec: EncoderSpec) -> Place:
    root = place(config.output_root)
    return feature_directory(root, corpus.name, spec.directory, corpus.rule.method, corpus.rule.n, corpus.stream)


def _read(
    corpus: Corpus, config: ExtractConfig, spec: EncoderSpec, copies: Path | None, *, needed: bool
) -> Overview | None:
    where = _directory(corpus, config, spec)
    if not needed and not is_directory(where):
        return None
    directory = copied(where, copies)
    remarks: list[str] = []
    run: dict[str, Any] = {}
    try:
        run = FeatureDirectory(directory, corpus.rule.n, spec.dim).run or {}
        if not run and directory.is_dir():
            remarks.append("there is no run.json: features of unknown origin")
    except ConfigError as error:
        remarks.append(str(error).replace(str(directory), str(where)))
    if run.get("overwriting"):
        remarks.append("a run with --overwrite was cut short: some files are still those from before it")
    there = {path.stem for path in directory.glob("*.npy")}
    lines: dict[str, ManifestLine] = {}
    try:
        lines = {line.sample: line for line in read_manifest(directory)}
    except RunError as error:
        remarks.append(str(error).replace(str(directory), str(where)))
    samples = _listed(corpus, directory, there | lines.keys(), remarks)
    every = Overview(corpus.name, where, corpus.expected, [], run, remarks)
    for listed in samples:
        sample = listed.sample if isinstance(listed, Failed) else listed
        line = lines.get(sample.name)
        row = _row(sample, line, sample.name in there)
        if isinstance(listed, Failed):
            row.outcome, row.why = FAILED, f"{listed.stage}: {listed.reason}"
        every.rows.append(row)
        if row.outcome == SAVED and line is not None and line.seconds:
            every.stage_seconds.update(line.seconds)
            every.timed += 1
    if strays := there - {row.sample.name for row in every.rows}:
        remarks.append(f"{len(strays)} files belong to no sample of the list")
    _measure(every.rows, corpus.rule.n, spec.dim)
    return every


def _listed(corpus: Corpus, directory: Path, named: Collection[str], remarks: list[str]) -> list[Sample | Failed]:
    """The samples of a corpus, or where its list is not at hand, those that its features and its manifest name."""
    try:
        listing = list_samples(corpus, directory)
    except LabelError as error:
        remarks.append(f"told from the features and the manifest alone: {error}")
        names = sorted(named)[: corpus.limit]
        return [Sample(corpus.name, n, None, (), corpus.rule, directory / f"{n}.npy", corpus.stream) for n in names]
    remarks += [warning.removeprefix(f"{corpus.name}: ") for warning in listing.warnings]
    if not any(isinstance(entry, Sample) and entry.video is not None for entry in listing.samples):
        remarks.append(f"no video is at hand in {corpus.videos}")
    return listing.samples


def _row(sample: Sample, line: ManifestLine | None, there: bool) -> Row:
    """What a manifest's line and the presence of a file say of a sample."""
    row = Row(sample, SAVED if there else MISSING)
    if line is None:
        return row
    if not there and line.failure is not None:
        row.outcome, row.why = FAILED, line.failure
    if len(line.indices) != sample.rule.n or line.frames is None:
        return row
    row.known = True
    row.indices, row.frames, row.codec = line.indices, line.frames, line.codec or ""
    if line.peak is not None:
        row.peak, row.source = line.peak.index, line.peak.source
    if line.fallback is not None and row.outcome != FAILED:
        row.fallback, row.why = True, line.fallback.reason
    row.clamp = line.clamp or ""
    return row


# What the features are like


def _measure(rows: Sequence[Row], n: int, dim: int) -> None:
    """Read every file twice, once for the mean and once against it: memory for all of them is not asked for."""
    total, count = np.zeros(dim), 0
    for row, features in _features(rows, n, dim):
        if isinstance(features, str):
            row.outcome, row.why, row.fallback = BROKEN, features, False
        else:
            total += features.mean(0, dtype=np.float64)
            count += 1
    if not count:
        return
    mean = total / count
    chosen = np.linspace(0, n - 1, min(n, _MOST_COMPARED)).astype(int)
    upper = np.triu_indices(len(chosen), 1)
    measured: list[Row] = []
    far, spread = [], []
    for row, features in _features(rows, n, dim):
        if isinstance(features, str):
            continue
        exact = features.astype(np.float64)
        cosine = _cosines(exact)
        row.cosine = float(cosine.diagonal(1).min()) if n > 1 else 1.0
        row.alike = _alike(_cosines(exact[chosen] - mean)[upper])
        middle = exact.mean(0)
        far.append(float(np.linalg.norm(middle - mean)))
        spread.append(float(np.linalg.norm(exact - middle) / np.linalg.norm(exact)) if exact.any() else 0.0)
        measured.append(row)
        if spread[-1] < 1e-7 and n > 1 and len(set(row.indices)) != 1:
            row.unusual, row.oddness = "all its frames have the same features", 1e3
    for row, away, apart in zip(measured, _deviations(far), _deviations(spread), strict=True):
        row.oddness = max(row.oddness, away, abs(apart))
        if row.unusual or row.oddness <= _UNUSUAL:
            continue
        if away >= abs(apart):
            row.unusual = "far from the rest of the dataset"
        else:
            row.unusual = f"its frames differ far {'more' if apart > 0 else 'less'} than in the rest of the dataset"


def _features(rows: Sequence[Row], n: int, dim: int) -> Iterator[tuple[Row, npt.NDArray[np.float32] | str]]:
    """The features of each sample that has a file, or what is wrong with it."""
    for row in rows:
        if row.outcome != SAVED:
            continue
        try:
            features = read_features(row.sample.target, n)
        except OSError as error:
            yield row, f"cannot be read: {error.strerror or error}"
        except ValueError as error:
            yield row, str(error).removeprefix(f"{row.sample.target}: ")
        else:
            if features.shape[1] != dim:
                yield row, f"is {list(features.shape)}, expected {[n, dim]}"
            elif not np.isfinite(features).all():
                yield row, "holds numbers that are not finite"
            else:
                yield row, features


def _cosines(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Of every pair of rows; of rows without a direction, 1 with each other and 0 with the rest."""
    length = np.linalg.norm(rows, axis=1)
    none = length == 0
    unit = rows / np.where(none, 1.0, length)[:, None]
    return np.clip(unit @ unit.T + np.outer(none, none), -1, 1)


def _alike(cosines: npt.NDArray[np.float64]) -> str:
    """As in `Row.alike`. The root spreads what is much alike, as the frames of a clip are: identical ones stand out."""
    angles = np.minimum(np.degrees(np.arccos(cosines)), 90)
    levels = np.rint(15 * (1 - np.sqrt(angles / 90))).astype(int)
    return "".join(map(_LEVELS.__getitem__, levels.tolist()))


def _deviations(values: Sequence[float]) -> list[float]:
    """How far each is from the middle, by ratio, in robust standard deviations; 0 where there are too few to say."""
    logs = np.log(np.maximum(values, 1e-12))
    away = logs - np.median(logs) if len(logs) else logs
    deviation = 1.4826 * float(np.median(np.abs(away))) if len(logs) >= _ENOUGH else math.inf
    # What varies by less than a hundredth is one value, printed: nothing stands out of it for being 1 % off.
    return [float(value) for value in away / max(deviation, 0.01)]


# What is shown


def _refuse_unknown(found: Sequence[Overview], names: Collection[str]) -> None:
    known = {name for each in found for row in each.rows for name in (row.sample.name, str(row.sample))}
    for name in names:
        if name not in known:
            raise ConfigError(f"there is no sample {name!r} in {', '.join(each.dataset for each in found)}")


def _shown(found: Overview, draw: random.Random, count: int, unusual: int, names: Collection[str]) -> list[int]:
    rows = found.rows
    named = [i for i, row in enumerate(rows) if row.sample.name in names or str(row.sample) in names]
    there = [i for i, row in enumerate(rows) if row.outcome == SAVED and row.sample.video is not None]
    odd = sorted((i for i in there if i not in set(named)), key=lambda i: -rows[i].oddness)[:unusual]
    rest = sorted(set(there) - {*named, *odd})
    return [*named, *odd, *sorted(draw.sample(rest, min(count, len(rest))))]


def _draw_sheets(
    found: Sequence[Overview],
    config: ExtractConfig,
    show: int,
    unusual: int,
    names: Collection[str],
    tell: Callable[[str], None],
) -> None:
    """Read the contact sheets of what is to be shown, kept in this order; of a video that fails, a placeholder."""
    tasks: list[SheetTask] = []
    places: dict[Place, tuple[Overview, int]] = {}
    for each in found:
        draw = random.Random(f"{config.seed} {each.dataset}")
        for number in _shown(each, draw, show, unusual, names):
            row = each.rows[number]
            each.sheets[number] = _placeholder(row, "")
            places[row.sample.target] = each, number
            tasks.append(SheetTask(row.sample, row.indices, row.peak, _SIDE, row.remarks))
    if not tasks:
        return
    for sample, sheet in read_sheets(tasks, config.workers or cores(), config.time_limit):
        each, number = places[sample.target]
        if isinstance(sheet, Failed):
            reason = f"{sheet.stage}: {sheet.reason}"
            tell(f"{sample}: not shown: {reason}")
            sheet = _placeholder(each.rows[number], reason)
        each.sheets[number] = sheet


def _placeholder(row: Row, fault: str) -> Sheet:
    return Sheet(str(row.sample), row.frames, row.indices, (), (), None, None, row.remarks, fault)
