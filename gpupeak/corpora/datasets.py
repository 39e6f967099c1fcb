"""Which samples are there, and where do their videos and action-unit files lie? Settings -> Corpus -> Samples.

The datasets of MER-UniBench are data, in `datasets.toml`. A TOML or YAML file of the user's adds to
them, overrides them entry by entry, and sets what the command line leaves open:

    dataset_root = "/data/MER"            # also: mer_factory_output, sampling, n_frms, fallback

    [datasets.mer2024]                    # one of the table: what is named here replaces what it says
    sampling = "uniform"

    [datasets.mycorpus]                   # one of one's own
    videos = "mycorpus/clips"
    labels = "mycorpus/list.txt"          # without it: every video there is
    aus = "/data/openface/mycorpus"

Relative paths in an entry start at the dataset root, `aus` at `mer_factory_output` where that is set.
What the command line says comes before a dataset's entry, and that before the rest of the file.
"""

from __future__ import annotations

import difflib
import itertools
import os
import reprlib
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from gpupeak.config import ExtractConfig
from gpupeak.corpora.labels import read_names
from gpupeak.errors import AuError, ConfigError, LabelError
from gpupeak.peaks.reading import UNREADABLE, places, read_peak
from gpupeak.storage.fetching import fetched, local_file
from gpupeak.storage.files import expanded, name_fault, read_bounded
from gpupeak.storage.places import is_directory, is_there, local, place, scan
from gpupeak.storage.remote import Entry, listing, tree
from gpupeak.types import FALLBACKS, SAMPLINGS, Failed, NoPeak, Peak, Place, RemoteFile, Sample, SamplingRule, Url

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

VIDEO_EXTENSIONS = (
    *(".mp4", ".avi", ".mkv", ".mov"),  # AffectGPT's, in its order
    *(".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".flv", ".wmv", ".3gp", ".ogv"),
)
"""What a video's name ends in, the extension that wins first; each also in capitals, after all of these."""

_TABLE = Path(__file__).with_name("datasets.toml")
_FACES = "openface_face"  # beside the directory of the videos
_LARGEST_CONFIG = 1 << 20
_LONGEST_NUMBER = 64  # bits
_MOST_VALUES = 1 << 20
_LONGEST_PATH = 4096


@dataclass(frozen=True, slots=True)
class Corpus:
    """One dataset of a run: what it is called, how it is sampled, where everything lies.

    Args:
        name: the directory its features go to.
        rule: how its frames are chosen.
        videos: the directory of its videos, or its only video.
        au_dirs: directories that may hold its action-unit files, the nearest to the dataset first.
        fallback_given: the user named the fallback; one without any usable peak is then no mistake.
        expected: samples there should be; None where nobody knows or only some were asked for.
        labels, keys: the list of its samples and the parts of it to take; without a list, every video.
        test_prefix: where one list holds both splits, what names of the test split begin with.
        split: `test`, `train` or `all`.
        samples: a list of names to restrict it to.
        limit: at most so many samples.
        stream: one of `types.STREAMS`; of faces, `videos` is the directory of their files.
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


@dataclass(frozen=True, slots=True)
class Listing:
    """The samples of a corpus in its own order, those that cannot be as `Failed`, and what was odd."""

    samples: list[Sample | Failed]
    warnings: list[str] = field(default_factory=list)


def resolve(config: ExtractConfig, *, absent: bool = False) -> tuple[Corpus, ...]:
    """The datasets that `config` asks for.

    Those it names (by AffectGPT's class names, too; capitals do not matter), the corpus that
    `videos` describes, or the nine of MER-UniBench and whatever the configuration file adds. With
    `absent`, lists and directories that are not there are no mistake: features may lie elsewhere.

    Raises:
        ConfigError: an unknown dataset, a configuration file that is not of the documented form, a
            dataset without the split asked for, a directory that is not there.
        LabelError: the list of a dataset's samples is not there.
    """
    if config.videos is None and config.aus is not None:
        raise ConfigError("--aus goes with --videos and --name; for the datasets, use --mer-factory-output")
    settings, table, default = _table(config.config_file)
    if config.videos is not None and config.name is not None:
        own = place(config.aus) if config.aus else None
        aus = str(own.absolute() if isinstance(own, Path) else own) if own else None
        entries = {config.name: _Entry(videos=str(config.videos), aus=aus)}
        root: Place = Path()
        if fault := name_fault(config.name):
            raise ConfigError(f"name is {config.name!r}: {fault}")
    else:
        entries = {name: table[name] for name in [_canonical(name, table) for name in config.datasets] or default}
        root = place(config.dataset_root or settings.dataset_root or ".")
        if not is_directory(root):
            raise ConfigError(f"dataset root {root} is not a directory")

    corpora = tuple(_corpus(name, entry, root, config, settings) for name, entry in entries.items())
    if not absent:
        _refuse_missing(corpora, config)
    return corpora


def default_datasets(config_file: Path | None = None) -> tuple[str, ...]:
    """The datasets that are taken when none is named: MER-UniBench's nine, and those the file adds.

    Raises:
        ConfigError: a configuration file that is not of the documented form.
    """
    return tuple(_table(config_file)[2])


def expected_samples() -> dict[str, int | None]:
    """The datasets of the table, and how many samples AffectGPT counts in their test splits; None where it does not."""
    return {name: entry.expected for name, entry in _table(None)[1].items()}


def list_samples(corpus: Corpus, target: Place) -> Listing:
    """List the samples of `corpus`, whose features go to `target`.

    Names come in the order of their list, or sorted where there is none, each once. One that ends
    in a video's extension means that file. Videos are found in one pass over their directory, under
    the sample's name and the first of `VIDEO_EXTENSIONS` there is; `Sample.video` is None where none
    is. Faces are `<name>.npy` or `<name>/<name>.npy`. A name that cannot be a file's becomes a `Failed`
    whose sample has `target` as its target.

    Raises:
        LabelError: a list is not of a documented form or names no sample; or there is no list and no video.
    """
    warnings: list[str] = []
    find = _video_files if corpus.stream == "frame" else _face_files
    if corpus.labels is None:
        files, left_out = find(corpus.videos, None)
        named: dict[str, str | None] = dict.fromkeys(sorted(files))
        if not named:
            what = f"video here ({', '.join(VIDEO_EXTENSIONS)})" if corpus.stream == "frame" else ".npy of faces here"
            raise LabelError(f"{corpus.videos}: no {what}")
        if left_out:
            warnings.append(f"{len(left_out)} files left out, another has the same name: {_few(left_out)}")
    else:
        named = _named(corpus, corpus.labels, warnings)
        files, _ = find(corpus.videos, named)
    if corpus.expected not in (None, len(named)):
        warnings.append(f"{len(named)} samples listed, expected {corpus.expected}")

    directory = corpus.videos if is_directory(corpus.videos) else corpus.videos.parent
    there = tuple(filter(is_directory, corpus.au_dirs))
    au_dirs = there or corpus.au_dirs
    stored = _Stored(corpus, directory, there, named)
    samples: list[Sample | Failed] = []
    for name in itertools.islice(named, corpus.limit):
        if fault := name_fault(name):
            samples.append(Failed(Sample(corpus.name, name, None, (), corpus.rule, target), "find", fault))
            continue
        video = directory / files[name] if name in files else None
        remote = stored.files_of(name, files.get(name))
        file = target / f"{name}.npy"
        samples.append(Sample(corpus.name, name, video, au_dirs, corpus.rule, file, corpus.stream, remote))
    return Listing(samples, [f"{corpus.name}: {warning}" for warning in warnings])


def require_peaks(corpus: Corpus, samples: Iterable[Sample | Failed], config: ExtractConfig) -> None:
    """Refuse a corpus in which no peak will be found: the sign of a mistyped action-unit directory.

    Does nothing where peaks are not asked for or the user named the fallback. Reads files only up
    to the first usable peak.

    Raises:
        AuError: there is no action-unit directory, or none of the samples has a usable peak; names
            the directories that were searched and the commonest reasons.
    """
    if corpus.rule.method != "emotion_peak" or corpus.fallback_given:
        return
    way_out = "--mer-factory-output (or --aus) says where they are, --fallback uniform goes without"
    searched = ", ".join(map(str, corpus.au_dirs))
    if not any(map(is_directory, corpus.au_dirs)):
        missing = f"no action-unit directory at {searched}" if searched else "emotion_peak needs action-unit files"
        raise AuError(f"{corpus.name}: {missing}; {way_out}")
    reasons: Counter[str] = Counter()
    example = ""
    for sample, peak in _peaks(samples, config):
        if isinstance(peak, Peak):
            return
        reasons[peak.reason] += 1
        example = example or f"{sample.name}: {peak.detail}"
    if reasons:
        counted = ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common(3))
        raise AuError(
            f"{corpus.name}: no usable peak in any of {reasons.total()} samples, searched {searched} "
            f"({counted}; first {example}); {way_out}"
        )


def count_peaks(samples: Iterable[Sample | Failed], config: ExtractConfig) -> Counter[str]:
    """How many samples have their peak from each source, and how many have none for which reason."""
    return Counter(peak.source if isinstance(peak, Peak) else peak.reason for _, peak in _peaks(samples, config))


def _peaks(samples: Iterable[Sample | Failed], config: ExtractConfig) -> Iterator[tuple[Sample, Peak | NoPeak]]:
    """Each sample's peak, or why it has none; in any order, where files have to be fetched."""
    listed = (sample for sample in samples if isinstance(sample, Sample))
    for found in fetched(listed, config.cache_directory, config.cache_size, video=False):
        sample = found.sample
        if found.error is not None:
            yield sample, NoPeak(UNREADABLE, found.error.reason)
            continue
        peak = read_peak(sample.name, [local(each) for each in found.here.au_dirs], sample.rule.peak_source)
        yield sample, peak if isinstance(peak, Peak) else NoPeak(peak.reason, found.told(peak.detail))


def au_directories(name: str, consumer_name: str, mer_factory_output: Place) -> tuple[Place, ...]:
    """Where MER-Factory may have put a dataset: under AffectGPT's class name, its own name, or no name at all."""
    places = (mer_factory_output / consumer_name, mer_factory_output / name.lower(), mer_factory_output)
    return tuple(dict.fromkeys(places))


# From settings to a corpus


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    """What a configuration file may say for every dataset."""

    dataset_root: str | None = None
    mer_factory_output: str | None = None
    sampling: str | None = None
    n_frms: int | None = None
    fallback: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """What `datasets.toml` and a configuration file may say of one dataset."""

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


_WHOLE_NUMBERS = ("expected", "n_frms")
_CHOICES = {"sampling": SAMPLINGS, "fallback": FALLBACKS}
_Section = TypeVar("_Section", _Settings, _Entry)


def _corpus(name: str, entry: _Entry, root: Place, config: ExtractConfig, settings: _Settings) -> Corpus:
    au_root = config.mer_factory_output or settings.mer_factory_output
    au_dirs: tuple[Place, ...] = ()
    if entry.aus is not None:
        au_dirs = ((place(au_root) if au_root else root) / place(entry.aus),)
    elif au_root is not None:
        au_dirs = au_directories(name, entry.consumer or name, place(au_root))

    labels = root / place(entry.labels) if entry.labels else None
    samples = root / place(entry.samples) if entry.samples else None
    if config.samples is not None:
        samples = place(config.samples)
    if labels is None:
        labels, samples = samples, None
    if config.split == "train" and entry.train_key is None:
        raise ConfigError(f"{name} has no training split; name the datasets to take, or pass --split test")
    keys = {"test": [entry.key], "train": [entry.train_key], "all": [entry.key, entry.train_key]}[config.split]
    whole = config.split == "test" and samples is None and config.limit is None

    videos, default = root / place(entry.videos or "."), SamplingRule()
    if config.stream != "frame":  # AffectGPT samples faces uniformly, whatever is asked of the frames
        videos, default = videos.parent / _FACES, SamplingRule("uniform")
        entry, settings = replace(entry, sampling=None), replace(settings, sampling=None)
    fallback = config.fallback or entry.fallback or settings.fallback
    rule = SamplingRule(
        method=config.sampling or entry.sampling or settings.sampling or default.method,
        n=config.n_frms or entry.n_frms or settings.n_frms or default.n,
        fallback=fallback or default.fallback,
        peak_source=config.peak_source,
        seed=config.seed,
    )
    return Corpus(
        name=name,
        rule=rule,
        videos=videos,
        au_dirs=au_dirs,
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


def _refuse_missing(corpora: Iterable[Corpus], config: ExtractConfig) -> None:
    missing: dict[str, Place] = {}
    there = []
    for corpus in corpora:
        lacking = [path for path in (corpus.labels, corpus.videos) if path is not None and not is_there(path)]
        if lacking:
            missing[corpus.name] = lacking[0]
        else:
            there.append(corpus.name)
    if not missing:
        return
    names, first = ", ".join(missing), next(iter(missing.values()))
    if there and not config.datasets:
        raise LabelError(
            f"{names}: not there (the first lacks {first}); for the others: gpupeak extract {' '.join(there)}"
        )
    hint = "" if config.videos else "; --dataset-root says where the datasets are"
    raise LabelError(f"{names}: {first} is not there{hint}")


def _canonical(name: str, table: Mapping[str, _Entry]) -> str:
    own = _aliases(table).get(name.casefold())
    if own is None:
        raise ConfigError(f"unknown dataset {name!r}{_guess(name, table)}; there are {', '.join(table)}")
    return own


def _aliases(table: Mapping[str, _Entry]) -> dict[str, str]:
    return {alias.casefold(): name for name, entry in table.items() for alias in (entry.consumer or name, name)}


# From files to tables


def _table(file: Path | None) -> tuple[_Settings, dict[str, _Entry], list[str]]:
    """The user's settings, every dataset there is, and those that are taken when none is named."""
    shipped = tomllib.loads(_TABLE.read_text(encoding="utf-8"))
    table = {name: _section(_Entry, entry, name) for name, entry in shipped["datasets"].items()}
    default: list[str] = shipped["benchmark"]
    if file is None:
        return _Settings(), table, default

    content = _content(expanded(file))
    entries = content.pop("datasets", {})
    if not isinstance(entries, dict):
        raise ConfigError(f"{file}: datasets is {reprlib.repr(entries)}, expected a section for each dataset")
    settings = _section(_Settings, content, str(file), also=("datasets",))
    aliases = _aliases(table)
    for given_name, given in entries.items():
        where = f"{file}, datasets.{given_name}"
        name = aliases.get(str(given_name).casefold(), str(given_name))
        own = _section(_Entry, given, where)
        if name in table:
            table[name] = _overridden(table[name], own)
            continue
        if fault := name_fault(name):
            raise ConfigError(f"{where}: {fault}")
        if own.videos is None:
            raise ConfigError(f"{where}: no such dataset{_guess(name, table)}; one of your own needs videos")
        table[name] = own
        default.append(name)
    return settings, table, default


def _overridden(entry: _Entry, own: _Entry) -> _Entry:
    given = {f.name: value for f in fields(own) if (value := getattr(own, f.name)) is not None}
    if "labels" in given:
        # Another list has other keys, and nobody knows how many samples.
        entry = replace(entry, key=None, train_key=None, test_prefix=None, expected=None)
    return replace(entry, **given)


def _content(file: Path) -> dict[str, Any]:
    try:
        text = read_bounded(file, _LARGEST_CONFIG).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: {getattr(error, 'strerror', None) or error}") from error
    suffix = file.suffix.lower()
    if suffix not in (".toml", ".yaml", ".yml"):
        raise ConfigError(f"{file}: expected a .toml, .yaml or .yml file")
    try:
        content = tomllib.loads(text) if suffix == ".toml" else _yaml(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: {' '.join(str(error).split())}") from error
    _refuse_large_numbers(file, content)
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: expected settings and a datasets section, found {type(content).__name__}")
    return content


def _refuse_large_numbers(file: Path, content: object) -> None:
    """Python refuses to print an integer of more than 4,300 digits, of which hexadecimal takes no time to read."""
    left = [content]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += [*value, *value.values()]
        elif isinstance(value, (list, tuple, set)):
            left += value
        elif isinstance(value, int) and value.bit_length() > _LONGEST_NUMBER:
            raise ConfigError(f"{file}: a number of {value.bit_length():,} bits, expected at most {_LONGEST_NUMBER}")


def _yaml(text: str) -> object:
    import yaml  # on demand: most runs have no YAML to read

    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if _written_out(node, {}) > _MOST_VALUES:
            raise ValueError(f"holds more than {_MOST_VALUES:,} values once its aliases are written out")
        _refuse_repeated_keys(node)
        return loader.construct_document(node) or {} if node else {}
    except (ValueError, RecursionError):
        raise
    except Exception as error:  # YAMLError, and what PyYAML's constructors trip over: !!bool x is a KeyError
        raise ValueError(error if isinstance(error, yaml.YAMLError) else f"{type(error).__name__}: {error}") from error


def _written_out(node: Any, known: dict[int, int]) -> int:
    """How many values a YAML node has once its aliases are written out: a few lines can have billions."""
    if id(node) not in known:
        known[id(node)] = _MOST_VALUES + 1  # what refers to itself has no end
        inside = node.value if node is not None and not isinstance(node.value, str) else ()
        parts = itertools.chain.from_iterable(part if isinstance(part, tuple) else (part,) for part in inside)
        known[id(node)] = 1 + sum(_written_out(part, known) for part in parts)
    return known[id(node)]


def _refuse_repeated_keys(node: Any) -> None:
    """PyYAML takes the last of two; YAML, as TOML, admits none."""
    left, seen = [node], set()
    while left:
        node = left.pop()
        if node is None or isinstance(node.value, str) or id(node) in seen:
            continue
        seen.add(id(node))
        if node.id == "mapping":
            keys = set()
            for key, value in node.value:
                if isinstance(key.value, str) and (key.tag, key.value) in keys:
                    raise ValueError(f"line {key.start_mark.line + 1}: {reprlib.repr(key.value)} is given twice")
                keys.add((key.tag, key.value if isinstance(key.value, str) else id(key)))
                left += [key, value]
        else:
            left += node.value


def _section(kind: type[_Section], given: object, where: str, also: tuple[str, ...] = ()) -> _Section:
    """`given` as a `kind`, every key and value checked."""
    if not isinstance(given, dict):
        raise ConfigError(f"{where}: {reprlib.repr(given)} found where settings belong")
    keys: list[str] = [f.name for f in fields(kind)]
    for key, value in given.items():
        if key not in keys:
            allowed = [*keys, *also]
            raise ConfigError(
                f"{where}: unknown key {reprlib.repr(key)}{_guess(key, allowed)}; allowed: {', '.join(allowed)}"
            )
        if key in _WHOLE_NUMBERS:
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"{where}: {key} is {reprlib.repr(value)}, expected a whole number of at least 1")
        elif not isinstance(value, str) or not value or "\0" in value:
            raise ConfigError(f"{where}: {key} is {reprlib.repr(value)}, expected text")
        elif len(value) > _LONGEST_PATH:
            raise ConfigError(f"{where}: {key} takes {len(value):,} characters, expected at most {_LONGEST_PATH:,}")
        elif key in _CHOICES and value not in _CHOICES[key]:
            raise ConfigError(f"{where}: {key} is {value!r}, expected one of {', '.join(_CHOICES[key])}")
    return kind(**given)


def _guess(word: object, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(word).lower(), list(known), n=3)
    return f", did you mean {' or '.join(near)}?" if near else ""


# From lists to names, from names to videos


def _named(corpus: Corpus, labels: Place, warnings: list[str]) -> dict[str, str | None]:
    """The names of a corpus in the order of its list, each with the very file it means, if it says."""
    named: dict[str, str | None] = {}
    repeated = []
    wanted = dict(_meant(_names(corpus, corpus.samples))) if corpus.samples else None
    unknown = dict.fromkeys(wanted or ())
    for key in corpus.keys:
        for name, file in _meant(_names(corpus, labels, key)):
            if not _in_split(name, corpus):
                continue
            if name in named:
                repeated.append(name)
            elif wanted is None or name in wanted:
                named[name] = file or (wanted or {}).get(name)
                unknown.pop(name, None)
    if repeated:
        warnings.append(f"{len(repeated)} names listed again in {labels.name} and taken once: {_few(repeated)}")
    if unknown:
        warnings.append(f"{len(unknown)} names of {corpus.samples} are not in {labels.name}: {_few(unknown)}")
    if not named and wanted is None:
        raise LabelError(f"{labels}: names no sample")
    return named


def _names(corpus: Corpus, file: Place, key: str | None = None) -> list[str]:
    with local_file(file) as path:
        try:
            return read_names(path, key)
        except LabelError as error:
            raise LabelError(str(error).replace(str(path), str(file))) from error


def _in_split(name: str, corpus: Corpus) -> bool:
    if corpus.test_prefix is None or corpus.split == "all":
        return True
    return name.startswith(corpus.test_prefix) == (corpus.split == "test")


def _meant(names: Iterable[str]) -> Iterator[tuple[str, str | None]]:
    """Each sample's name, and the file name where the list has that instead."""
    for name in names:
        stem, extension = _split(name)
        yield (stem, name) if extension.lower() in _RANKS else (name, None)


def _split(name: str) -> tuple[str, str]:
    """A file name's stem and its extension with the dot; a hidden file's name is all stem."""
    stem, dot, extension = name.rpartition(".")
    return (stem, dot + extension) if stem else (name, "")


def _video_files(videos: Place, named: Mapping[str, str | None] | None) -> tuple[dict[str, str], list[str]]:
    """The video file of each name that has one, and the files that lost to another of the same name.

    `named` are the names to look for, each with its own choice of file if it has one; None finds
    every video that is not hidden. Only what is looked for is kept: the directory may hold far more.
    """
    if not is_directory(videos):
        if named is None and not is_there(videos):
            raise LabelError(f"{videos}: no such directory or video")
        return {videos.stem: videos.name}, []
    best: dict[str, tuple[int, str]] = {}
    left_out = []
    try:
        with scan(videos) as entries:
            for entry in entries:
                stem, extension = _split(entry.name)
                looked_for = not stem.startswith(".") if named is None else stem in named
                if not looked_for or extension.lower() not in _RANKS or not _is_file(entry):
                    continue
                rank = _RANKS.get(extension, _RANKS[extension.lower()] + len(_RANKS))
                if named is not None and named[stem] == entry.name:
                    rank = -1
                candidate = (rank, entry.name)
                if stem in best:
                    left_out.append(max(candidate, best[stem])[1])
                best[stem] = min(candidate, best.get(stem, candidate))
    except OSError as error:
        raise LabelError(f"{videos}: {error.strerror or error}") from error
    return {stem: name for stem, (_, name) in best.items()}, sorted(left_out)


def _face_files(faces: Place, named: Mapping[str, str | None] | None) -> tuple[dict[str, str], list[str]]:
    """As `_video_files`, for the files of faces: one in a directory of its own comes after one that is not."""
    found: dict[str, str] = {}
    if isinstance(faces, Url):
        for place in sorted(tree(faces, named), key=lambda place: "/" in place):
            stem, extension = _split(place.rpartition("/")[2])
            if named is not None and stem not in named:
                continue
            if extension == ".npy" and place in (f"{stem}.npy", f"{stem}/{stem}.npy"):
                found.setdefault(stem, place)
        return found, []
    try:
        with os.scandir(faces) as entries:
            for entry in entries:
                stem, extension = _split(entry.name)
                if extension == ".npy" and (named is None or stem in named) and _is_file(entry):
                    found[stem] = entry.name
                elif named is None or entry.name in named:
                    nested = f"{entry.name}/{entry.name}.npy"
                    if (faces / nested).is_file():
                        found.setdefault(entry.name, nested)
    except OSError as error:
        raise LabelError(f"{faces}: {error.strerror or error}") from error
    return found, []


class _Stored:
    """Which files of each sample of a corpus lie in stores, from one listing of each directory."""

    def __init__(self, corpus: Corpus, videos: Place, au_dirs: Iterable[Place], named: Collection[str]) -> None:
        self._videos, self._listed = videos, dict[str, Entry]()
        if isinstance(videos, Url):
            self._listed = dict((listing(videos) or {}) if corpus.stream == "frame" else tree(videos, named))
        self._aus = [(directory, tree(directory, named)) for directory in au_dirs if isinstance(directory, Url)]

    def files_of(self, name: str, video: str | None) -> tuple[RemoteFile, ...]:
        """What has to be fetched for a sample whose video's file is `video`."""
        found = [(self._videos / video, self._listed.get(video))] if video is not None else []
        for directory, listed in self._aus:
            found += [(directory / place, listed.get(place)) for place in places(name)]
        return tuple(
            RemoteFile(url, entry.size or 0) for url, entry in found if isinstance(url, Url) and entry is not None
        )


_RANKS = {extension: rank for rank, extension in enumerate(VIDEO_EXTENSIONS)}


def _is_file(entry: os.DirEntry[str] | Entry) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link that leads back to itself
        return False


def _few(names: Iterable[str]) -> str:
    shown = [repr(name[:80]) for name in itertools.islice(names, 4)]
    return ", ".join(shown[:3]) + (", ..." if len(shown) > 3 else "")
