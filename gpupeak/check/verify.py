"""Are the features there, whole, of one kind, and those of the right frames? Checked, and mended where they are not.

Three looks, each deeper than the one before:

    verify(config)                  every file is read once: form, values, twins, provenance; thousands a second
    verify(config, against=DIR)     with another tree of features, made by AffectGPT's own script or on another GPU
    verify(config, deep=K)          K samples of each dataset are decoded and encoded again

Nothing is written: features that are made again for a comparison go to a temporary directory. A run that
writes at the same time does no harm, since a file is there whole or not at all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import random
import statistics
import sys
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gpupeak.check.compare import Difference, Tolerance, compare
from gpupeak.config import ExtractConfig
from gpupeak.corpora.datasets import Corpus, list_samples, require_peaks, resolve
from gpupeak.encode.weights.identity import WeightsId, identify
from gpupeak.encoders import EncoderSpec, encoder_spec
from gpupeak.errors import ConfigError, RunError, SampleError, UsageError
from gpupeak.features.directory import FeatureDirectory
from gpupeak.features.layout import feature_directory
from gpupeak.features.npy import npy_header, read_header
from gpupeak.features.records import SAVED, ManifestLine, is_record, read_manifest, read_records
from gpupeak.features.remote import copied, copies_below
from gpupeak.run import extract, feature_place, settings_of
from gpupeak.storage.atomic import TEMPORARY
from gpupeak.storage.fetching import at_hand, video_bytes
from gpupeak.storage.files import open_bounded
from gpupeak.storage.places import local, place
from gpupeak.tally import FALLBACK_WARNING, Observer, RunReport
from gpupeak.types import Failed, Place, Sample, Url

MISSING, BROKEN, STALE, ALIKE, CHANGED, DIFFERENT = "missing", "broken", "stale", "alike", "changed", "different"
KINDS = (MISSING, BROKEN, STALE, ALIKE, CHANGED, DIFFERENT)
"""What can be wrong with a sample: no file; a file of another form or without sense; one from before an overwrite
that was cut short; the features of another sample; not what is extracted now; not what the other tree holds."""
MENDABLE = KINDS[:-1]
"""What `repair` extracts again. Where two trees differ, nobody knows yet which one is wrong."""

SAME_DECODER = Tolerance(0.9999, 5e-3)
"""Of features made on a CPU and extracted again on one: the same program is exact to the bit, other versions of
PyTorch or libav round differently. A neighbouring frame of a face that hardly moves is 7e-3 away, less the mean."""
OTHER_DECODER = Tolerance(0.99, 0.15)
"""Where a GPU made the features or makes them again, or nobody knows what made them: NVDEC and libav round colours
differently, by about 1 of 255, which at worst, the same way in every pixel, is a cosine of 0.996 less the mean."""
MIN_COSINE = 0.9995
"""Less the mean, of a frame in two trees. AffectGPT's decord differs from libav by up to 0.4 of 255 on average, which
as noise is a cosine of 0.9997 (0.99998 was measured of decord itself, on drawn faces). Of a neighbouring frame of a
face that hardly moves it is 0.999 to 0.9999, which only the order of the rows tells from noise; of any other frame,
less. All with seeded random weights, ViT-S/32."""

_WORST = 5
_NAMED = 5
_LONGEST_HEADER = 1 << 16
_LARGEST = (
    65504.0  # float16's largest, and towers run in float16: beyond it is a flipped bit, and it would drown the mean
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One sample that is not right: `kind` is one of `KINDS`, `reason` one line without the sample's name."""

    sample: str
    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Features held against others: those at `where`, a directory or a device.

    `median` is the middle one of the samples' smallest cosines less the mean, None if none was compared;
    `worst` come first. `only_here` and `only_there` are names of listed samples that one side lacks.
    """

    where: str
    compared: int
    differing: int
    median: float | None
    worst: tuple[Difference, ...]
    only_here: tuple[str, ...] = ()
    only_there: tuple[str, ...] = ()


@dataclass(slots=True)
class Verification:
    """What is right and wrong with the features of one dataset.

    Args:
        dataset: its name.
        directory: where its features are.
        listed: samples in the list, after `limit`.
        expected: samples that the consumer asserts, None where no number is known.
        whole: samples whose file is of the right form and whose values can be features.
        faults: what is wrong with single samples.
        problems: what is wrong with the dataset as a whole.
        warnings: what should be looked at and is no fault by itself.
        duplicates: names of samples with the same features, because their videos are the same, byte for byte.
        strays: files that belong to no sample of the dataset.
        temporaries: files that a killed run left behind: harmless, the next run removes them.
        unknown: whole files that no run of gpupeak tells of.
        fallbacks: whole files for whose sample no peak was usable, by reason, as the manifest says.
        devices: which ones made the features, as far as `run.json` tells.
        against, deep: how they compare with another tree, and with features extracted again; None if not asked for.
    """

    dataset: str
    directory: Place
    listed: int
    expected: int | None
    whole: int = 0
    faults: list[Fault] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    duplicates: list[tuple[str, ...]] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    temporaries: list[str] = field(default_factory=list)
    unknown: int = 0
    fallbacks: Counter[str] = field(default_factory=Counter)
    devices: tuple[str, ...] = ()
    against: Comparison | None = None
    deep: Comparison | None = None

    @property
    def ok(self) -> bool:
        """Nothing is wrong; there may be warnings."""
        return not self.faults and not self.problems

    @property
    def mendable(self) -> tuple[str, ...]:
        """The samples that `repair` extracts again."""
        return tuple(dict.fromkeys(fault.sample for fault in self.faults if fault.kind in MENDABLE))

    @property
    def counts(self) -> dict[str, int]:
        """How many faults there are of each of `KINDS`."""
        kinds = Counter(fault.kind for fault in self.faults)
        return {kind: kinds[kind] for kind in KINDS}

    def to_json(self) -> dict[str, Any]:
        """The verification as plain JSON values."""
        values = {name.name: getattr(self, name.name) for name in dataclasses.fields(self)}
        return {
            **values,
            "ok": self.ok,
            "directory": str(self.directory),
            "counts": self.counts,
            "faults": [dataclasses.asdict(fault) for fault in self.faults],
            "against": self.against and dataclasses.asdict(self.against),
            "deep": self.deep and dataclasses.asdict(self.deep),
        }


def verify(
    config: ExtractConfig,
    *,
    deep: int = 0,
    against: Path | str | None = None,
    min_cosine: float = MIN_COSINE,
    tell: Callable[[str], None] = lambda text: None,
) -> tuple[Verification, ...]:
    """Check the features that `extract` makes, or has made, with the same settings.

    Every listed sample needs a file of float32 `[n, D]` in C order, whole, its values finite, no larger
    than float16 holds, and not one and the same throughout. No two samples may have the same features,
    unless their videos are the same, byte for byte. `run.json` must not tell of other settings than
    those asked for.

    Args:
        deep: extract so many samples of each dataset again, drawn from `config.seed`, on the device and
            by the decoder that `config` names, and compare. What is suspicious comes first: features
            that two samples share, and those of eight frames that are all the same. Compared are the
            cosine and the relative L2 of every frame, as they are and less the dataset's mean, by
            `SAME_DECODER` or, where colours may have been rounded differently, `OTHER_DECODER`; and no
            row may be nearer to another row's frame. Features of such a suspect that come out the same
            again are no fault.
        against: another output root, whose files are compared with these. What only one of the two has
            is a warning.
        min_cosine: in that comparison, the smallest cosine of a frame less the dataset's mean.
        tell: told what is chosen and done, a line each.

    Returns:
        One for each dataset, in order. Memory is bounded by the number of samples, not of features.

    Raises:
        UsageError: the settings or the input lists are wrong, as for `extract`; `against` is not such a
            tree, or the same one.
        RunError: a directory cannot be read; with `deep`, a device is not there.
    """
    if deep < 0:
        raise ConfigError(f"deep is {deep}, expected a number of samples")
    if not -1 <= min_cosine <= 1:
        raise ConfigError(f"min-cosine is {min_cosine}, expected a number from -1 to 1")
    other = None if against is None else place(against)
    if isinstance(other, Url):
        raise ConfigError(f"against {against}: a local directory is expected")
    with copies_below(place(config.output_root)) as copies:
        return _verify(config, copies, deep, other, min_cosine, tell)


def _verify(
    config: ExtractConfig,
    copies: Path | None,
    deep: int,
    against: Path | None,
    min_cosine: float,
    tell: Callable[[str], None],
) -> tuple[Verification, ...]:
    spec = encoder_spec(config.encoder)
    weights = identify(spec, config.weights)
    corpora = resolve(config)
    others = None if against is None else _others(against, corpora, config, spec)
    looked = [_look(corpus, config, spec, weights, copies) for corpus in corpora]
    if others is not None:
        for look, other in zip(looked, others, strict=True):
            _compare_with(look, other, spec, Tolerance(min_cosine, plain=False))
    if deep:
        _compare_again(looked, config, spec, deep, tell)
    for look in looked:
        _check_still(look)
    return tuple(look.found for look in looked)


def repair(
    config: ExtractConfig,
    found: Iterable[Verification],
    observer: Observer | None = None,
    stop: threading.Event | None = None,
) -> RunReport:
    """Extract again what `found` says is missing or broken, by the same settings, and nothing else.

    Files are replaced one by one, each whole; those of all other samples are not touched. Another run
    that is writing into a directory is not disturbed: this one is refused.

    Raises:
        UsageError, RunError: as `extract`; features of other settings are not replaced one by one.
    """
    again = {f"{each.directory}/{name}.npy" for each in found for name in each.mendable}
    return extract(dataclasses.replace(config, overwrite=False), observer, stop, again=again)


# Looking: one pass over the files


class _Line(NamedTuple):
    """What is kept of a sample's line in the manifest. `still`: all of its frames are the same one."""

    outcome: str
    failure: str | None
    fallback: str | None
    still: bool

    @classmethod
    def of(cls, line: ManifestLine) -> _Line:
        """One of many: what is the same in many lines is held once."""
        still = len(line.indices) > 1 and len(set(line.indices)) == 1
        fallback = None if line.fallback is None else sys.intern(line.fallback.reason)
        return cls(sys.intern(line.outcome), line.failure, fallback, still)


@dataclass(slots=True)
class _Look:
    """One dataset as it was found.

    `good` samples have a whole file. Of these the `alike` share their features with another video's, and
    the `still` have the same in all frames; extracting them again tells whether that is right.
    """

    corpus: Corpus
    path: Path
    found: Verification
    lines: dict[str, _Line]
    samples: list[Sample]
    mean: npt.NDArray[np.float64]
    good: list[Sample] = field(default_factory=list)
    alike: list[Sample] = field(default_factory=list)
    still: list[Sample] = field(default_factory=list)


def _look(corpus: Corpus, config: ExtractConfig, spec: EncoderSpec, weights: WeightsId, copies: Path | None) -> _Look:
    directory = feature_place(config, corpus, spec)
    path = copied(directory, copies)
    listing = list_samples(corpus, path)
    found = Verification(corpus.name, directory, len(listing.samples), corpus.expected, warnings=list(listing.warnings))
    there = _entries(path)
    found.temporaries = sorted(there.temporaries)
    overwriting = _check_run(found, path, corpus, spec, weights)
    lines = {line.sample: _Line.of(line) for line in read_manifest(path)}
    samples = [entry for entry in listing.samples if isinstance(entry, Sample)]
    look = _Look(corpus, path, found, lines, samples, np.zeros(spec.dim))
    rows, firsts, alike = 0, dict[bytes, Sample](), dict[bytes, list[Sample]]()
    for entry in listing.samples:
        if isinstance(entry, Failed):
            found.faults.append(Fault(entry.sample.name, MISSING, entry.reason))
            continue
        line = lines.get(entry.name)
        if entry.name not in there.samples:
            found.faults.append(Fault(entry.name, MISSING, _why_missing(entry, line)))
        elif overwriting and (line is None or line.outcome != SAVED):
            found.faults.append(Fault(entry.name, STALE, "made before the --overwrite that was cut short"))
        elif isinstance(features := read_checked(path / f"{entry.name}.npy", corpus.rule.n, spec.dim), str):
            found.faults.append(Fault(entry.name, BROKEN, features))
        else:
            look.good.append(entry)
            look.mean += features.sum(0, dtype=np.float64)
            rows += len(features)
            digest = hashlib.blake2b(features.data, digest_size=16).digest()
            first = firsts.setdefault(digest, entry)
            if first is not entry:
                alike.setdefault(digest, [first]).append(entry)
            if len(features) > 1 and (features == features[0]).all() and not (line and line.still):
                look.still.append(entry)
    look.mean /= max(rows, 1)
    found.whole = len(look.good)
    for group in alike.values():
        _check_alike(look, group)
    _check_manifest(look)
    _check_strays(look, there, config)
    return look


class _Entries(NamedTuple):
    """What lies in a directory: names of samples with a file, other files, temporaries."""

    samples: set[str]
    others: list[str]
    temporaries: list[str]


def _entries(path: Path) -> _Entries:
    there = _Entries(set(), [], [])
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.endswith(".npy"):
                    there.samples.add(entry.name[:-4])
                elif TEMPORARY.match(entry.name):
                    there.temporaries.append(entry.name)
                elif not is_record(entry.name):
                    there.others.append(entry.name)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror or error}") from error
    return there


def read_checked(path: Path, n: int, dim: int) -> npt.NDArray[np.float32] | str:
    """The features in a file, float32 `[n, dim]`, finite and not constant; or what is wrong with it, in a line."""
    size = 4 * n * dim
    try:
        with open_bounded(path, size + _LONGEST_HEADER) as file:
            data = file.read()
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    usual, offset = npy_header((n, dim)), len(data) - size
    if offset != len(usual) or not data.startswith(usual):
        header = read_header(data)
        if header is None:
            return f"no .npy file ({len(data)} bytes)"
        if (header.shape, header.dtype) != ((n, dim), np.dtype("<f4")) or header.fortran_order:
            order = ", Fortran order" if header.fortran_order else ""
            return f"{header.dtype.str[1:]} {list(header.shape)}{order}, expected float32 [{n}, {dim}]"
        if offset != header.offset:
            return f"{len(data)} bytes, expected {header.offset + size}"
    features = np.frombuffer(data, np.float32, offset=offset).reshape(n, dim)
    if not np.isfinite(features).all():
        return f"{int((~np.isfinite(features)).sum())} of {features.size} values are not finite"
    if (largest := float(np.abs(features).max())) > _LARGEST:
        return f"a value of {largest:.3g}, expected at most {_LARGEST:g}"
    if features.size > 1 and (features == features[0, 0]).all():
        return f"every value is {features[0, 0]:g}"
    return features


def _why_missing(sample: Sample, line: _Line | None) -> str:
    if line is not None and line.failure is not None:
        return line.failure
    return "no file" if sample.video is not None else "no file, and no video of this name"


# What is true of a dataset as a whole


def _check_run(found: Verification, path: Path, corpus: Corpus, spec: EncoderSpec, weights: WeightsId) -> bool:
    """Hold `run.json` against what is asked for; return whether an overwrite was cut short."""
    try:
        directory = FeatureDirectory(path, corpus.rule.n, spec.dim)
        directory.refuse_mixing(settings_of(corpus, spec, weights))
    except ConfigError as error:
        found.problems.append(str(error).replace(str(path), str(found.directory)))
        return False
    run = directory.run or {}
    devices = run.get("devices")
    names = devices if isinstance(devices, list) else [run.get("device")]
    found.devices = tuple(str(name) for name in names if name is not None)
    return bool(run.get("overwriting"))


def _check_manifest(look: _Look) -> None:
    """Count what the manifest says of the files that are whole."""
    found = look.found
    for sample in look.good:
        line = look.lines.get(sample.name)
        if line is None or line.outcome != SAVED:
            found.unknown += 1
        elif line.fallback is not None:
            found.fallbacks[line.fallback] += 1
    if found.unknown:
        run = read_records(look.path, strict=False).run
        why = "there is no run.json" if run is None else "manifest.jsonl does not tell of them"
        found.warnings.append(f"{found.dataset}: {found.unknown} of {found.whole} files are of unknown origin: {why}")
    fell_back = found.fallbacks.total()
    if fell_back > FALLBACK_WARNING * (found.whole - found.unknown):
        reason, count = found.fallbacks.most_common(1)[0]
        found.warnings.append(
            f"{found.dataset}: {fell_back} of {found.whole} samples fell back to another sampling "
            f"(most often: {reason}, {count}); are the action-unit files complete?"
        )


def _check_still(look: _Look) -> None:
    if look.still:
        look.found.warnings.append(
            f"{look.found.dataset}: the features of all frames are the same in {len(look.still)} samples "
            f"({_few(sample.name for sample in look.still)}): still pictures? --deep extracts them again"
        )


def _check_strays(look: _Look, there: _Entries, config: ExtractConfig) -> None:
    """Name the files of no sample: of none at all, whatever part of the dataset is asked for."""
    found = look.found
    unlisted = there.samples - {sample.name for sample in look.samples}
    if unlisted and (config.limit or config.samples or config.split != "all"):
        all_of_it = dataclasses.replace(
            config, datasets=() if config.videos else (found.dataset,), samples=None, limit=None, split="all"
        )
        with contextlib.suppress(UsageError):  # a label file that holds the part asked for and no other
            for corpus in resolve(all_of_it):
                unlisted -= {e.name for e in list_samples(corpus, Path()).samples if isinstance(e, Sample)}
    found.strays = sorted([*(f"{name}.npy" for name in unlisted), *there.others])
    if found.strays:
        found.warnings.append(f"{found.dataset}: {len(found.strays)} files belong to no sample: {_few(found.strays)}")


def _check_alike(look: _Look, group: Sequence[Sample]) -> None:
    """Of samples with the same features, tell the same videos from an accident."""
    kinds: dict[object, list[Sample]] = defaultdict(list)
    for key, sample in zip(_videos(group), group, strict=True):
        kinds[key].append(sample)
    look.found.duplicates += [tuple(sample.name for sample in same) for same in kinds.values() if len(same) > 1]
    if len(kinds) > 1:
        first, second = (same[0] for same in list(kinds.values())[:2])
        for same in kinds.values():
            reason = f"the same features as {(second if same[0] is first else first).name}, and another video"
            look.found.faults += [Fault(sample.name, ALIKE, reason) for sample in same]
        look.alike += group


def _videos(samples: Sequence[Sample]) -> Iterator[object]:
    """What is the same for samples whose videos are, byte for byte. A video whose size is its own is not read."""
    sizes = [video_bytes(sample) for sample in samples]
    count = Counter(sizes)
    for sample, size in zip(samples, sizes, strict=True):
        if size is None or sample.video is None:
            yield sample.name  # not there: like no other
        elif count[size] == 1:
            yield size
        else:
            yield size, _sha256(sample) or sample.name


def _sha256(sample: Sample) -> bytes | None:
    digest = hashlib.sha256()
    try:
        with at_hand(sample, aus=False) as found, open_bounded(local(found.here.video or Path()), sys.maxsize) as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except (OSError, SampleError):
        return None
    return digest.digest()


# Comparing


class _Compared:
    """Comparisons of one dataset, counted; only the worst are kept."""

    def __init__(self) -> None:
        self._cosines: list[float] = []
        self._worst: list[tuple[bool, float, Difference]] = []
        self._differing = 0

    def add(self, difference: Difference, tolerance: Tolerance) -> bool:
        """Count one; return whether it is within `tolerance`."""
        within = difference.within(tolerance)
        self._differing += not within
        self._cosines.append(difference.centred_cosine)
        self._worst.append((within, difference.centred_cosine, difference))
        self._worst = sorted(self._worst, key=lambda each: each[:2])[:_WORST]
        return within

    def done(self, where: str, only_here: Collection[str] = (), only_there: Collection[str] = ()) -> Comparison:
        median = statistics.median(self._cosines) if self._cosines else None
        worst = tuple(difference for *_, difference in self._worst)
        return Comparison(
            where, len(self._cosines), self._differing, median, worst, tuple(only_here), tuple(sorted(only_there))
        )


def _others(against: Path, corpora: Sequence[Corpus], config: ExtractConfig, spec: EncoderSpec) -> list[Path]:
    """The directories of another tree that these are compared with; those that are not there are found empty."""
    others = []
    for corpus in corpora:
        rule = corpus.rule
        others.append(feature_directory(against, corpus.name, spec.directory, rule.method, rule.n, corpus.stream))
    if not any(other.is_dir() for other in others):
        raise ConfigError(f"against {against}: there is no {others[0]}")
    for corpus, other in zip(corpora, others, strict=True):
        here = feature_place(config, corpus, spec)
        if isinstance(here, Path) and other.is_dir() and here.is_dir() and other.samefile(here):
            raise ConfigError(f"against {against}: these are the features to be verified, compared with themselves")
    return others


def _compare_with(look: _Look, other: Path, spec: EncoderSpec, tolerance: Tolerance) -> None:
    found, n = look.found, look.corpus.rule.n
    there = _entries(other).samples
    compared = _Compared()
    for sample in look.good:
        if sample.name not in there:
            continue
        ours = read_checked(local(sample.target), n, spec.dim)
        theirs = read_checked(other / f"{sample.name}.npy", n, spec.dim)
        if isinstance(ours, str):
            found.faults.append(Fault(sample.name, BROKEN, ours))
        elif isinstance(theirs, str):
            found.faults.append(Fault(sample.name, DIFFERENT, f"the other file: {theirs}"))
        else:
            difference = compare(sample.name, ours, theirs, look.mean)
            if not compared.add(difference, tolerance):
                found.faults.append(Fault(sample.name, DIFFERENT, str(difference)))
    here = [sample.name for sample in look.good]
    only_here = [name for name in here if name not in there]
    only_there = there.intersection(sample.name for sample in look.samples).difference(here)
    found.against = compared.done(str(other), only_here, only_there)
    for names, which in ((found.against.only_here, "not in"), (found.against.only_there, "only in")):
        if names:
            found.warnings.append(f"{found.dataset}: {len(names)} samples are {which} {other}: {_few(names)}")
    if not found.against.compared:
        found.problems.append(f"no sample in common with {other}")


def _compare_again(
    looked: Sequence[_Look], config: ExtractConfig, spec: EncoderSpec, most: int, tell: Callable[[str], None]
) -> None:
    """Extract some samples again, into a temporary directory, and compare."""
    drawn: list[tuple[_Look, Sample]] = []
    for look in looked:
        if samples := _drawn(look, most, config.seed):
            require_peaks(look.corpus, look.samples, config)
            drawn += [(look, sample) for sample in samples]
        else:
            look.found.deep = _Compared().done("nothing, for want of a sample with features and a video")
    if not drawn:
        return
    from gpupeak.lines.build import build  # torch is imported here, where there is work for it

    compared = {look.found.dataset: _Compared() for look in looked}
    with (
        tempfile.TemporaryDirectory(prefix="gpupeak-verify-") as directory,
        contextlib.closing(build(config, spec, max(look.corpus.rule.n for look in looked), tell)) as line,
    ):
        tell(f"extracting {len(drawn)} samples again")
        of: dict[Place, tuple[_Look, Sample]] = {Path(directory) / f"{i}.npy": pair for i, pair in enumerate(drawn)}
        for outcome in line.run(dataclasses.replace(sample, target=target) for target, (_, sample) in of.items()):
            look, sample = of[outcome.sample.target]
            if isinstance(outcome, Failed):
                reason = f"cannot be extracted again: {outcome.stage}: {outcome.reason}"
                look.found.faults.append(Fault(sample.name, CHANGED, reason))
                continue
            n = look.corpus.rule.n
            again = local(outcome.sample.target)
            ours, fresh = read_checked(local(sample.target), n, spec.dim), read_checked(again, n, spec.dim)
            again.unlink()
            if isinstance(ours, str) or isinstance(fresh, str):
                wrong = ours if isinstance(ours, str) else f"extracted again: {fresh}"
                look.found.faults.append(Fault(sample.name, CHANGED, wrong))
                continue
            difference = compare(sample.name, ours, fresh, look.mean)
            if compared[look.found.dataset].add(difference, _tolerance(look, sample, line.device)):
                _acquit(look, sample)
            else:
                frames = _frames(look, sample, outcome.plan.indices)
                look.found.faults.append(Fault(sample.name, CHANGED, f"{difference}{frames}"))
        for look in looked:
            if look.found.deep is None:
                look.found.deep = compared[look.found.dataset].done(line.device)


def _drawn(look: _Look, most: int, seed: int) -> list[Sample]:
    """Suspects first, then samples drawn from the seed and the dataset's name."""
    suspects = {sample.name: sample for sample in (*look.alike, *look.still) if sample.video is not None}
    others = [sample for sample in look.good if sample.video is not None and sample.name not in suspects]
    drawn = list(suspects.values())[:most]
    return drawn + random.Random(f"{seed} {look.found.dataset}").sample(others, min(most - len(drawn), len(others)))


def _tolerance(look: _Look, sample: Sample, device: str) -> Tolerance:
    line = look.lines.get(sample.name)
    recorded = line is not None and line.outcome == SAVED
    return SAME_DECODER if recorded and look.found.devices == (device,) == ("cpu",) else OTHER_DECODER


def _acquit(look: _Look, sample: Sample) -> None:
    """What looked like an accident came out the same again."""
    look.found.faults = [f for f in look.found.faults if (f.sample, f.kind) != (sample.name, ALIKE)]
    look.still = [each for each in look.still if each is not sample]


def _frames(look: _Look, sample: Sample, indices: tuple[int, ...]) -> str:
    """Which other frames the features were made of, where the manifest tells."""
    then = next((line.indices for line in read_manifest(look.path) if line.sample == sample.name), ())
    return f"; frames {list(then)} then, {list(indices)} now" if then not in ((), indices) else ""


def _few(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join([*names[:_NAMED], *["..."] * (len(names) > _NAMED)])
