"""Are the features there, whole, of one kind, and those of the right frames?

verify(config)                  every file is read once: form, values, twins, provenance; thousands a second
verify(config, against=DIR)     with another tree of features, made by AffectGPT's own script or on another GPU
verify(config, deep=K)          K samples of each dataset are decoded and encoded again, and written nowhere
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
import statistics
import sys
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from gpupeak.check.compare import Difference, Tolerance, compare
from gpupeak.check.repair import extract_aside
from gpupeak.config import ExtractConfig
from gpupeak.corpora.corpus import Corpus, resolve
from gpupeak.corpora.peaks import read_peaks, require_peaks
from gpupeak.corpora.samples import Listing, list_all
from gpupeak.encode.weights.identity import WeightsId, identify, meaningless
from gpupeak.encoders import EncoderSpec, encoder_spec
from gpupeak.errors import ConfigError, SampleError, counted, few, reading
from gpupeak.features.directory import FeatureDirectory
from gpupeak.features.fresh import find_stale
from gpupeak.features.layout import feature_directory
from gpupeak.features.npy import read_checked
from gpupeak.features.records import SAVED, ManifestLine, read_manifest
from gpupeak.features.remote import copied, copies_below
from gpupeak.run import feature_place, settings_of, uncollected
from gpupeak.storage.fetching import at_hand
from gpupeak.storage.files import open_bounded
from gpupeak.storage.overlap import overlapped
from gpupeak.storage.places import local, names, place
from gpupeak.tally import Watch, unwatched, warned_of
from gpupeak.types import Failed, Place, Sample, Url

MISSING, BROKEN, STALE, ALIKE, CHANGED, DIFFERENT = "missing", "broken", "stale", "alike", "changed", "different"
KINDS = (MISSING, BROKEN, STALE, ALIKE, CHANGED, DIFFERENT)
"""What can be wrong with a sample: no file; a file of another form, without sense or not as it was saved; one that
was made of another video, of other frames or with other settings than it would be now; the features of another sample;
not what is extracted now; not what the other tree holds."""

SAME_DECODER = Tolerance(0.9999, 5e-3)
"""Of features made and extracted again on a CPU: other versions round differently; a neighbouring frame of a face
that hardly moves is 7e-3 away, less the mean."""
OTHER_DECODER = Tolerance(0.99, 0.15)
"""For all others: NVDEC and libav round colours differently, by about 1 of 255, at worst a cosine of 0.996."""
MIN_COSINE = 0.9995
"""Less the mean, of a frame in two trees. AffectGPT's decord differs from libav by up to 0.4 of 255 on average, which
as noise is a cosine of 0.9997; of a neighbouring frame of a face that hardly moves it is 0.999 to 0.9999. Measured
with seeded random weights, ViT-S/32."""

_Compared: TypeAlias = "list[tuple[bool, Difference]]"  # and whether it is within the tolerance

_WORST = 5


@dataclass(frozen=True, slots=True)
class Fault:
    """One sample that is not right: `kind` is one of `KINDS`, `reason` one line without the sample's name.

    One is `mendable` if there is a video to extract again what is not only different.
    """

    sample: str
    kind: str
    reason: str
    mendable: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """Features held against others: those at `where`, a directory or a device.

    `median` is that of the samples' smallest cosines less the mean. `only_here` and `only_there` are samples that
    one side lacks.
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

    `faults` are those of single samples, `problems` the dataset's, `warnings` no faults by themselves. `duplicates`
    are samples with the same features because their videos are the same, byte for byte; `unknown` counts whole files
    that no run tells of; `devices` made the features; `against` and `deep` are None if not asked for.
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
    unknown: int = 0
    devices: tuple[str, ...] = ()
    against: Comparison | None = None
    deep: Comparison | None = None

    @property
    def ok(self) -> bool:
        """Nothing is wrong; there may be warnings."""
        return not self.faults and not self.problems

    @property
    def mendable(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(fault.sample for fault in self.faults if fault.mendable))

    @property
    def counts(self) -> dict[str, int]:
        kinds = Counter(fault.kind for fault in self.faults)
        return {kind: kinds[kind] for kind in KINDS}

    def to_json(self) -> dict[str, Any]:
        values = dataclasses.asdict(self)
        return {**values, "ok": self.ok, "directory": str(self.directory), "counts": self.counts}


def verify(
    config: ExtractConfig,
    *,
    deep: int = 0,
    against: Path | str | None = None,
    min_cosine: float = MIN_COSINE,
    tell: Callable[[str], None] = lambda text: None,
    watch: Watch = unwatched,
) -> tuple[Verification, ...]:
    """Check the features that `extract` makes, or has made, with the same settings.

    `deep` samples of each dataset, drawn from `config.seed`, suspects first, are extracted again, and the cosine and
    the relative L2 of every frame compared, less the dataset's mean; so are the files in `against`, another output
    root, of which no frame's cosine may be below `min_cosine`. Raises UsageError as for `extract`, or if `against` is
    not such a tree; RunError if a directory cannot be read.
    """
    if deep < 0:
        raise ConfigError(f"--deep is {deep}, expected a number of samples")
    if not -1 <= min_cosine <= 1:
        raise ConfigError(f"--min-cosine is {min_cosine}, expected a number from -1 to 1")
    other = None if against is None else place(against)
    if isinstance(other, Url):
        raise ConfigError(f"--against {against}: a local directory is expected")
    spec = encoder_spec(config.encoder)
    weights = identify(spec, config.weights)
    corpora = resolve(config, command="verify")
    others = [] if other is None else _others(other, corpora, config, spec)
    with copies_below(place(config.output_root)) as copies:
        paths = [copied(feature_place(config, corpus, spec), copies) for corpus in corpora]
        with uncollected():
            listed = list(zip(corpora, paths, list_all(corpora, paths), strict=True))
        looks = [_look(*each, config, spec, weights, watch) for each in listed]
        for look, directory in zip(looks, others, strict=False):
            _compare_with(look, directory, Tolerance(min_cosine), watch)
        if deep:
            _compare_again(looks, config, spec, deep, tell)
    for look in looks:
        if look.still:
            shown = f"{counted(len(look.still), 'sample')} ({few(sample.name for sample in look.still)})"
            told = f"the features of all frames are the same in {shown}: still pictures?"
            look.found.warnings.append(f"{look.corpus.name}: {told} --deep extracts them again")
    return tuple(look.found for look in looks)


@dataclass(slots=True)
class _Look:
    """One dataset as it was found: its `good` samples have a whole file, the `alike` and the `still` are suspects."""

    corpus: Corpus
    found: Verification
    lines: dict[str, ManifestLine]
    mean: npt.NDArray[np.float64]
    samples: list[Sample] = field(default_factory=list)
    good: list[Sample] = field(default_factory=list)
    alike: list[Sample] = field(default_factory=list)
    still: list[Sample] = field(default_factory=list)

    def blame(self, sample: Sample, kind: str, reason: str) -> None:
        # Where two trees differ, nobody knows yet which one is wrong.
        mendable = kind != DIFFERENT and sample.video is not None
        self.found.faults.append(Fault(sample.name, kind, reason, mendable))


@uncollected()
def _look(
    corpus: Corpus,
    path: Path,
    listing: Listing,
    config: ExtractConfig,
    spec: EncoderSpec,
    weights: WeightsId,
    watch: Watch,
) -> _Look:
    directory = feature_place(config, corpus, spec)
    found = Verification(corpus.name, directory, len(listing.samples), corpus.expected, warnings=list(listing.warnings))
    overwriting = _check_run(found, path, corpus, spec, weights)
    lines = {line.sample: line for line in read_manifest(path, without=("seconds",))}
    look = _Look(corpus, found, lines, np.zeros(spec.dim))
    with reading(path):
        there = names(path)
    saved = (entry for entry in listing.samples if isinstance(entry, Sample) and f"{entry.name}.npy" in there)
    stale = find_stale(corpus.name, saved, lines, partial(read_peaks, config=config), found.warnings)
    seen, alike, warned = dict[int, Sample](), dict[int, list[Sample]](), Counter[str]()

    def fault(entry: Sample | Failed) -> tuple[str, str] | None:
        if isinstance(entry, Failed):
            return MISSING, entry.reason
        line = lines.get(entry.name)
        if f"{entry.name}.npy" not in there:
            without = "no file" if entry.video is not None else "no file, and no video of this name"
            return MISSING, (line and line.failure) or without
        if overwriting and (line is None or line.outcome != SAVED):
            return STALE, "made before the --overwrite that was cut short"
        return (STALE, stale[entry.name]) if entry.name in stale else None

    entries = [(entry, fault(entry)) for entry in listing.samples]
    files = [str(local(entry.target)) for entry, wrong in entries if isinstance(entry, Sample) and wrong is None]
    facts = overlapped(partial(_read, corpus.rule.n, spec.dim), files, processes=True)
    each = iter(watch(facts, len(files), description=corpus.name))
    for entry, wrong in entries:
        sample = entry.sample if isinstance(entry, Failed) else entry
        if sample is entry:
            look.samples.append(sample)
        if wrong is not None:
            look.blame(sample, *wrong)
            continue
        if isinstance(read := next(each), str):
            look.blame(sample, BROKEN, read)
            continue
        (crc32, total, still), line = read, lines.get(sample.name)
        if line is not None and line.crc32 not in (None, crc32):
            look.blame(sample, BROKEN, f"not what was saved: its checksum is not the manifest's {line.crc32:08x}")
            continue
        look.good.append(sample)
        found.unknown += line is None or line.outcome != SAVED
        warned.update(() if line is None else line.warnings)
        look.mean += total
        same = hash((crc32, total.tobytes()))  # 64 bits, in a tenth of a digest's time
        if (first := seen.setdefault(same, sample)) is not sample:
            alike.setdefault(same, [first]).append(sample)
        if still and (line is None or len(set(line.indices)) != 1):
            look.still.append(sample)
    found.whole = len(look.good)
    look.mean /= max(found.whole * corpus.rule.n, 1)
    found.warnings += warned_of(corpus.name, warned)
    if found.unknown:
        told = f"{found.unknown} of {counted(found.whole, 'file')} of unknown origin: no run's manifest tells of them"
        found.warnings.append(f"{corpus.name}: {told}")
    for group in alike.values():
        _check_alike(look, group)
    return look


def _read(n: int, dim: int, file: str) -> tuple[int, npt.NDArray[np.float64], bool] | str:
    """The CRC-32 of a file's features, the sum of their rows, and whether all rows are the same; or what is wrong."""
    features = read_checked(file, n, dim)
    if isinstance(features, str):
        return features
    still = n > 1 and bool((features == features[0]).all())
    return zlib.crc32(features.data), features.sum(0, dtype=np.float64), still


def _check_run(found: Verification, path: Path, corpus: Corpus, spec: EncoderSpec, weights: WeightsId) -> bool:
    try:
        directory = FeatureDirectory(path, corpus.rule.n, spec.dim)
        directory.refuse_mixing(settings_of(corpus, spec, weights))
    except ConfigError as error:
        found.problems.append(str(error).replace(str(path), str(found.directory)))
        return False
    found.devices = directory.devices
    found.warnings += meaningless(weights.source)
    return directory.overwriting


def _check_alike(look: _Look, group: Sequence[Sample]) -> None:
    kinds: dict[object, list[Sample]] = defaultdict(list)
    for sample in group:
        kinds[_video_sha256(sample) or sample.name].append(sample)
    look.found.duplicates += [tuple(sample.name for sample in same) for same in kinds.values() if len(same) > 1]
    if len(kinds) > 1:
        first, second = list(kinds.values())[:2]
        of_first = {sample.name for sample in first}
        for sample in group:
            twin = second[0] if sample.name in of_first else first[0]
            look.blame(sample, ALIKE, f"the same features as {twin.name}, and another video")
        look.alike += group


def _video_sha256(sample: Sample) -> bytes | None:
    """None of a video that is not there or cannot be read: it is like no other."""
    digest = hashlib.sha256()
    try:
        with at_hand(sample, aus=False) as found, open_bounded(local(found.here.video or Path()), sys.maxsize) as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except (OSError, SampleError):
        return None
    return digest.digest()


def _others(against: Path, corpora: Sequence[Corpus], config: ExtractConfig, spec: EncoderSpec) -> list[Path]:
    others = []
    for corpus in corpora:
        rule, here = corpus.rule, feature_place(config, corpus, spec)
        other = feature_directory(against, corpus.name, spec.directory, rule.method, rule.n, corpus.stream)
        if isinstance(here, Path) and other.is_dir() and here.is_dir() and other.samefile(here):
            raise ConfigError(f"--against {against}: these are the features to be verified, compared with themselves")
        others.append(other)
    if not any(other.is_dir() for other in others):
        raise ConfigError(f"--against {against}: there is no {others[0]}")
    return others


def _compare_with(look: _Look, other: Path, tolerance: Tolerance, watch: Watch) -> None:
    found = look.found
    with reading(other):
        there = names(other)
    compared: _Compared = []
    only_here = [sample.name for sample in look.good if f"{sample.name}.npy" not in there]
    lacking = {sample.name for sample in look.samples} - {sample.name for sample in look.good}
    only_there = sorted(name for name in lacking if f"{name}.npy" in there)
    both = [sample for sample in look.good if f"{sample.name}.npy" in there]
    pairs = [(sample.name, str(local(sample.target)), f"{other}/{sample.name}.npy") for sample in both]
    differences = overlapped(partial(_difference, look.corpus.rule.n, look.mean), pairs, processes=True)
    shown = watch(differences, len(both), description="comparing")
    for sample, difference in zip(both, shown, strict=True):
        if (reason := _judged(difference, tolerance, compared)) is not None:
            look.blame(sample, DIFFERENT, reason)
    found.against = _comparison(str(other), compared, only_here, only_there)
    for missing, which in ((only_here, "not in"), (only_there, "only in")):
        if missing:
            found.warnings.append(f"{found.dataset}: {counted(len(missing), 'sample')} {which} {other}: {few(missing)}")
    if not compared:
        found.problems.append(f"no sample in common with {other}")


def _compare_again(
    looks: Sequence[_Look], config: ExtractConfig, spec: EncoderSpec, most: int, tell: Callable[[str], None]
) -> None:
    of = {look.corpus.name: look for look in looks}
    where = dict.fromkeys(of, "nothing, for want of a sample with features and a video")
    compared: dict[str, _Compared] = {name: [] for name in of}
    drawn: list[Sample] = []
    for look in looks:
        if samples := _drawn(look, most, config.seed):
            require_peaks(look.corpus, look.samples, config)
            drawn += samples
    for sample, outcome, device in extract_aside(config, spec, drawn, tell) if drawn else ():
        look, where[sample.dataset] = of[sample.dataset], device
        if isinstance(outcome, Failed):
            look.blame(sample, CHANGED, f"cannot be extracted again: {outcome.stage}: {outcome.reason}")
            continue
        line = look.lines.get(sample.name)
        recorded = line is not None and line.outcome == SAVED
        tolerance = SAME_DECODER if recorded and look.found.devices == (device,) == ("cpu",) else OTHER_DECODER
        pair = sample.name, str(local(sample.target)), str(local(outcome.sample.target))
        difference = _difference(look.corpus.rule.n, look.mean, pair)
        if (reason := _judged(difference, tolerance, compared[sample.dataset])) is not None:
            now, then = outcome.plan.indices, line.indices if line else ()
            frames = f"; frames {list(then)} then, {list(now)} now" if then not in ((), now) else ""
            look.blame(sample, CHANGED, f"{reason}{frames}")
        else:  # what looked like an accident came out the same again
            look.found.faults = [f for f in look.found.faults if (f.sample, f.kind) != (sample.name, ALIKE)]
            look.still = [each for each in look.still if each is not sample]
    for name, look in of.items():
        look.found.deep = _comparison(where[name], compared[name])


def _drawn(look: _Look, most: int, seed: int) -> list[Sample]:
    """Suspects first, then samples drawn from the seed and the dataset's name."""
    suspects = {sample.name: sample for sample in (*look.alike, *look.still) if sample.video is not None}
    others = [sample for sample in look.good if sample.video is not None and sample.name not in suspects]
    drawn = list(suspects.values())[:most]
    return drawn + random.Random(f"{seed} {look.found.dataset}").sample(others, min(most - len(drawn), len(others)))


def _difference(n: int, mean: npt.NDArray[np.float64], names: tuple[str, str, str]) -> Difference | str:
    """How far a sample's file is from another, or which of them is none."""
    sample, our, other = names
    ours, theirs = read_checked(our, n, len(mean)), read_checked(other, n, len(mean))
    if isinstance(ours, str):
        return ours
    if isinstance(theirs, str):
        return f"the other file: {theirs}"
    return compare(sample, ours, theirs, mean)


def _judged(difference: Difference | str, tolerance: Tolerance, compared: _Compared) -> str | None:
    """Count a difference in `compared`; None if it is within the tolerance, else what is wrong."""
    if isinstance(difference, str):
        return difference
    within = difference.within(tolerance)
    compared.append((within, difference))
    return None if within else str(difference)


def _comparison(where: str, compared: _Compared, here: Iterable[str] = (), there: Iterable[str] = ()) -> Comparison:
    cosines = [difference.centred_cosine for _, difference in compared]
    worst = sorted(compared, key=lambda each: (each[0], each[1].centred_cosine))[:_WORST]
    median, differing = statistics.median(cosines) if cosines else None, sum(not within for within, _ in compared)
    shown = tuple(difference for _, difference in worst)
    return Comparison(where, len(compared), differing, median, shown, tuple(here), tuple(there))
