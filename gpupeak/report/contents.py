"""What came of a run, sample by sample? Its lists, manifests and features, read once more for `page` to lay out.

Nothing is refused for being incomplete: a dataset without videos, manifest or features is told as it is. Only the
contact sheets decode anything, and not in this process.
"""

from __future__ import annotations

import math
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gpupeak.config import ExtractConfig
from gpupeak.corpora.corpus import Corpus, resolve
from gpupeak.corpora.samples import list_samples
from gpupeak.decode.resources import fitted
from gpupeak.encode.weights.identity import meaningless
from gpupeak.encoders import EncoderSpec, encoder_spec
from gpupeak.errors import ConfigError, LabelError, RunError, counted, reading
from gpupeak.features.layout import feature_directory
from gpupeak.features.npy import read_checked
from gpupeak.features.records import ManifestLine, read_manifest, read_records
from gpupeak.features.remote import copied, copies_below
from gpupeak.report.sheets import Sheet, SheetTask, read_sheets
from gpupeak.storage.overlap import overlapped
from gpupeak.storage.places import is_directory, local, names, place
from gpupeak.tally import Watch, unwatched
from gpupeak.types import Failed, Place, Sample

SAVED, FAILED, MISSING, BROKEN = "saved", "failed", "missing", "broken"
OUTCOMES = (SAVED, FAILED, MISSING, BROKEN)
"""What can be said of a listed sample: its features are there; they are not, and a run said why; they are not, and
nobody knows why; there is a file that cannot be features."""

_UNUSUAL = 6.0  # robust standard deviations; of 12,799 samples none is that far by chance
_ENOUGH = 20  # samples, for a median absolute deviation to mean something
_SIDE = 240  # pixels of a picture in the page


@dataclass(slots=True)
class Row:
    """One listed sample; a text is "" where there is nothing to tell.

    `why` is the reason of a failure, a broken file or a fallback; `source` one of `PEAK_SOURCES`; `indices` of `frames`
    were chosen, () and 0 where no manifest tells; `warnings` are the manifest's; `unusual` is why its features stand
    out of the dataset's, `oddness` how far, in robust standard deviations.
    """

    sample: Sample
    outcome: str = MISSING
    why: str = ""
    source: str = ""
    peak: int | None = None
    fallback: bool = False
    clamp: str = ""
    warnings: tuple[str, ...] = ()
    indices: tuple[int, ...] = ()
    frames: int = 0
    unusual: str = ""
    oddness: float = 0.0

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is to be known besides its frames."""
        reason = f"fell back: {self.why}" if self.fallback else self.why
        clamp = f"clamped: {self.clamp}" if self.clamp else ""
        return tuple(filter(None, (reason, clamp, *self.warnings, self.unusual)))


@dataclass(slots=True)
class Overview:
    """One dataset: its rows in the order of its list, counts of them, and the contact sheets of some.

    `run` is `run.json`; `marks` are what the page says above all; `stage_seconds` adds up what the manifest tells of
    `timed` samples. `sheets` are by the number of the row; one that could not be read has a `fault` and no pictures.
    """

    dataset: str
    directory: Place
    expected: int | None
    rows: list[Row]
    run: dict[str, Any]
    remarks: list[str]
    marks: list[str] = field(default_factory=list)
    stage_seconds: Counter[str] = field(default_factory=Counter)
    timed: int = 0
    sheets: dict[int, Sheet] = field(default_factory=dict)

    @property
    def saved(self) -> list[Row]:
        return [row for row in self.rows if row.outcome == SAVED]

    @property
    def sources(self) -> Counter[str]:
        return Counter(row.source for row in self.saved if row.source)

    @property
    def fallbacks(self) -> Counter[str]:
        return Counter(row.why for row in self.saved if row.fallback)

    @property
    def warned(self) -> Counter[str]:
        return Counter(warning for row in self.saved for warning in row.warnings)

    @property
    def failures(self) -> Counter[str]:
        return Counter(row.why for row in self.rows if row.outcome in (FAILED, BROKEN))

    @property
    def shown(self) -> int:
        """Contact sheets that have pictures."""
        return sum(not sheet.fault for sheet in self.sheets.values())

    def counts(self) -> Counter[str]:
        """Samples by outcome, and how many are listed, clamped, warned of and unusual."""
        outcomes = Counter(dict.fromkeys(OUTCOMES, 0))
        outcomes.update(row.outcome for row in self.rows)
        outcomes["listed"] = len(self.rows)
        outcomes["clamped"] = sum(bool(row.clamp) for row in self.saved)
        outcomes["warned"] = sum(bool(row.warnings) for row in self.saved)
        outcomes["unusual"] = sum(bool(row.unusual) for row in self.rows)
        return outcomes

    def to_json(self) -> dict[str, Any]:
        """The counts as plain JSON values."""
        return {
            "dataset": self.dataset,
            "directory": str(self.directory),
            "expected": self.expected,
            **self.counts(),
            "peaks": dict(self.sources),
            "fallbacks": dict(self.fallbacks),
            "warnings": dict(self.warned),
            "failures": dict(self.failures),
            "stage_seconds": {stage: round(seconds, 6) for stage, seconds in self.stage_seconds.items()},
            "sheets": self.shown,
            "remarks": [*self.marks, *self.remarks],
        }


def overview(
    config: ExtractConfig,
    show: int = 8,
    show_unusual: int = 4,
    show_samples: Collection[str] = (),
    tell: Callable[[str], None] = lambda text: None,
    watch: Watch = unwatched,
) -> tuple[Overview, ...]:
    """Read what lies in the output root for the datasets of `config`; where none is named, for those that are there.

    Contact sheets are made of `show` samples a dataset, drawn by `config.seed`, of `show_unusual` that stand out most,
    and of those named (`NAME` or `DATASET/NAME`); `tell` is told of videos that cannot be shown. Raises UsageError for
    unknown datasets or samples, or nothing to report on; RunError if the processes that decode cannot be started.
    """
    spec, root = encoder_spec(config.encoder), place(config.output_root)
    corpora = resolve(config, absent=True)
    with copies_below(root) as copies:
        found = []
        for corpus in corpora:
            method, n = corpus.rule.method, corpus.rule.n
            where = feature_directory(root, corpus.name, spec.directory, method, n, corpus.stream)
            if config.datasets or config.videos or is_directory(where):
                found.append(_read(corpus, where, copied(where, copies), spec, watch))
        if not any(each.rows for each in found):
            raise ConfigError(f"nothing to report on: no dataset has features in {root} (such as {where})")
        known = (name for each in found for row in each.rows for name in (row.sample.name, str(row.sample)))
        if unknown := set(show_samples).difference(known):
            raise ConfigError(f"there is no sample {min(unknown)!r} in {', '.join(each.dataset for each in found)}")
        for each in found:
            draw = random.Random(f"{config.seed} {each.dataset}")
            for number in _chosen(each, draw, show, show_unusual, show_samples):
                row = each.rows[number]
                each.sheets[number] = Sheet(str(row.sample), row.frames, row.indices, remarks=row.remarks)
        _draw_sheets(found, config, tell, watch)
    return tuple(found)


def _read(corpus: Corpus, where: Place, directory: Path, spec: EncoderSpec, watch: Watch) -> Overview:
    """What is known of a dataset whose features belong `where`, and can be read in `directory`."""
    remarks: list[str] = []
    every = Overview(corpus.name, where, corpus.expected, [], {}, remarks)
    try:
        records = read_records(directory)
        every.run, every.marks = records.run or {}, meaningless(records.weights)
        if not every.run:
            of_whom = "there is no run.json: features of unknown origin"
            remarks.append(of_whom if directory.is_dir() else f"nothing was extracted: there is no {where}")
    except (ConfigError, RunError) as error:
        remarks.append(str(error))
    if every.run.get("overwriting"):
        remarks.append("a run with --overwrite was cut short: some files are still those from before it")
    with reading(where):
        there = {name[:-4] for name in names(directory) if name.endswith(".npy")}
    rows: dict[str, Row] = {}
    for listed in _listed(corpus, directory, there, remarks):
        if isinstance(listed, Failed):
            rows[listed.sample.name] = Row(listed.sample, FAILED, f"{listed.stage}: {listed.reason}")
        else:
            rows[listed.name] = Row(listed, SAVED if listed.name in there else MISSING)
    told, seconds = dict(rows), dict[str, Mapping[str, float]]()
    try:
        for line in read_manifest(directory, without=("files", "rule")):  # all of them together would take the most
            row = rows.get(line.sample)
            if row is not None and row.outcome != FAILED:
                told[line.sample], seconds[line.sample] = _row(row.sample, line, row.outcome == SAVED), line.seconds
        every.rows = [*told.values()]
    except RunError as error:
        remarks.append(str(error))
        every.rows = [*rows.values()]
    for row in every.saved:
        if taken := seconds.get(row.sample.name):
            every.stage_seconds.update(taken)
            every.timed += 1
    if strays := there - rows.keys():
        remarks.append(f"{counted(len(strays), 'file')} of no sample of the list")
    remarks[:] = [remark.replace(str(directory), str(where)) for remark in remarks]
    del there, rows, told, seconds  # for what is measured next
    _measure(every, spec.dim, watch)
    return every


def _listed(corpus: Corpus, directory: Path, there: set[str], remarks: list[str]) -> list[Sample | Failed]:
    """The samples of a corpus, or where its list is not at hand, those that its features and its manifest name."""
    try:
        listing = list_samples(corpus, directory)
    except LabelError as error:
        remarks.append(f"told from the features and the manifest alone: {error}")
        with suppress(RunError):  # told when it is read again
            there = there | {line.sample for line in read_manifest(directory)}
        known = sorted(there)[: corpus.limit]
        return [Sample(corpus.name, n, None, (), corpus.rule, directory / f"{n}.npy", corpus.stream) for n in known]
    remarks += [warning.removeprefix(f"{corpus.name}: ") for warning in listing.warnings]
    if not any(isinstance(entry, Sample) and entry.video is not None for entry in listing.samples):
        remarks.append(f"no video is at hand in {corpus.videos}")
    return listing.samples


def _row(sample: Sample, line: ManifestLine, there: bool) -> Row:
    """What a manifest's line and the presence of a file say of a sample."""
    row = Row(sample, SAVED if there else MISSING)
    if not there and line.failure is not None:
        row.outcome, row.why = FAILED, line.failure
    if len(line.indices) != sample.rule.n or line.frames is None:
        return row
    row.indices, row.frames, row.clamp, row.warnings = line.indices, line.frames, line.clamp or "", line.warnings
    if line.peak is not None:
        row.peak, row.source = line.peak.index, line.peak.source
    if line.fallback is not None and row.outcome != FAILED:
        row.fallback, row.why = True, line.fallback.reason
    return row


def _measure(found: Overview, dim: int, watch: Watch) -> None:
    """Read the features of saved rows: which are none, and which stand out of the dataset.

    Two things are measured of a sample: how far its mean is from the dataset's, and how much its frames differ. The
    means of all lie in a file meanwhile: of 130,000 samples they are 400 MB.
    """
    rows, measured, spreads, total = found.saved, [], [], np.zeros(dim)
    files = [(str(local(row.sample.target)), row.sample.rule.n) for row in rows]
    read = overlapped(partial(_mean_and_spread, dim), files, processes=True)
    with tempfile.TemporaryFile() as means:
        for row, told in zip(rows, watch(read, len(rows), description=found.dataset), strict=True):
            if isinstance(told, str):
                row.outcome, row.why, row.fallback = BROKEN, told, False
                continue
            mean, spread = told
            measured.append(row)
            means.write(mean.tobytes())
            total += mean
            spreads.append(math.nan if len(set(row.indices)) == 1 else spread)  # one frame, repeated on purpose
        if len(measured) < _ENOUGH:
            return
        means.seek(0)
        middle = (total / len(measured)).astype(np.float32)
        parts = iter(lambda: means.read(4 * dim * 1024), b"")
        away = [np.linalg.norm(np.frombuffer(part, np.float32).reshape(-1, dim) - middle, axis=1) for part in parts]
    distances = np.concatenate(away).astype(np.float64)
    for row, far, apart in zip(measured, _deviations(distances), _deviations(np.array(spreads)), strict=True):
        row.oddness = max(far, abs(apart))
        if far > max(_UNUSUAL, abs(apart)):
            row.unusual = "far from the rest of the dataset"
        elif abs(apart) > _UNUSUAL:
            row.unusual = f"its frames differ far {'more' if apart > 0 else 'less'} than in the rest of the dataset"


def _mean_and_spread(dim: int, file: tuple[str, int]) -> tuple[npt.NDArray[np.float32], float] | str:
    """The mean of the frames of a file, and how far they are from it, as a share of their length; or what is wrong."""
    path, n = file
    if isinstance(features := read_checked(path, n, dim), str):
        return features
    exact = features.astype(np.float64)
    mean = exact.mean(0)
    spread = float(np.linalg.norm(exact - mean)) / max(float(np.linalg.norm(exact)), 1e-12)
    return mean.astype(np.float32), spread


def _deviations(values: npt.NDArray[np.float64]) -> list[float]:
    """How far each is from the median, by ratio, in robust standard deviations; 0 of what is not a number."""
    if np.isnan(values).all():
        return [0.0] * len(values)
    logs = np.log(np.maximum(values, 1e-12))
    away = logs - np.nanmedian(logs)
    # What varies by less than a hundredth is one value, printed: nothing stands out of it for being 1 % off.
    deviation = max(1.4826 * float(np.nanmedian(np.abs(away))), 0.01)
    return [float(value) for value in np.nan_to_num(away / deviation)]


def _draw_sheets(found: Sequence[Overview], config: ExtractConfig, tell: Callable[[str], None], watch: Watch) -> None:
    """Read the contact sheets, each kept where it is to be shown; of a video that fails, what is there stays."""
    places = {each.rows[number].sample.target: (each, number) for each in found for number in each.sheets}
    if not places:
        return
    rows = [each.rows[number] for each, number in places.values()]
    tasks = [SheetTask(row.sample, row.indices, row.peak, _SIDE, row.remarks) for row in rows]
    workers = fitted(config, max(row.sample.rule.n for row in rows), _SIDE, len(tasks), tell).workers or 1
    sheets = read_sheets(tasks, workers, config.time_limit)
    for sample, sheet in watch(sheets, len(tasks), description="contact sheets"):
        each, number = places[sample.target]
        if isinstance(sheet, Failed):
            fault = f"{sheet.stage}: {sheet.reason}"
            tell(f"{sample}: not shown: {fault}")
            sheet = replace(each.sheets[number], fault=fault)
        each.sheets[number] = sheet


def _chosen(found: Overview, draw: random.Random, count: int, unusual: int, names: Collection[str]) -> list[int]:
    """The numbers of the rows to be shown: those named, those that stand out most, and some drawn by lot."""
    rows = found.rows
    named = [i for i, row in enumerate(rows) if row.sample.name in names or str(row.sample) in names]
    there = [i for i, row in enumerate(rows) if row.outcome == SAVED and row.sample.video is not None]
    odd = sorted((i for i in there if i not in named), key=lambda i: -rows[i].oddness)[:unusual]
    rest = sorted(set(there) - {*named, *odd})
    return [*named, *odd, *sorted(draw.sample(rest, min(count, len(rest))))]
