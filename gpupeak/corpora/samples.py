"""Which samples has a corpus, and where do their videos lie? Corpus -> Samples."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpupeak.corpora.corpus import Corpus
from gpupeak.corpora.labels import read_names
from gpupeak.errors import LabelError, counted, few
from gpupeak.peaks.reading import places
from gpupeak.storage.fetching import local_file
from gpupeak.storage.files import name_fault
from gpupeak.storage.places import is_directory, is_there, names, scan
from gpupeak.storage.remote import Entry, listing, tree
from gpupeak.types import Failed, Place, RemoteFile, Sample, Url

VIDEO_EXTENSIONS = (
    *(".mp4", ".avi", ".mkv", ".mov"),  # AffectGPT's, in its order
    *(".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".flv", ".wmv", ".3gp", ".ogv"),
)
"""What a video's name ends in, the extension that wins first; each also in capitals, after all of these."""

_RANKS = {extension: rank for rank, extension in enumerate(VIDEO_EXTENSIONS)}


@dataclass(frozen=True, slots=True)
class Listing:
    """The samples of a corpus in its own order, those that cannot be as `Failed`, and what was odd."""

    samples: list[Sample | Failed]
    warnings: list[str]


def list_samples(corpus: Corpus, target: Place) -> Listing:
    """List the samples of `corpus`, whose features go to `target`; LabelError if there are none.

    Names come in the order of their list, or sorted where there is none, each once. One that ends in a video's
    extension means that file; else the first of `VIDEO_EXTENSIONS` there is, or None. Faces are `<name>.npy` or
    `<name>/<name>.npy`. A name that cannot be a file's becomes a `Failed` with `target` as its target.
    """
    warnings: list[str] = []
    if corpus.labels is None:
        files, left_out = _files(corpus, None)
        named: dict[str, str | None] = dict.fromkeys(sorted(files))
        if not named:
            what = "video" if corpus.stream == "frame" else ".npy of faces"
            raise LabelError(f"{corpus.videos}: no {what} here{_one_directory_down(corpus.videos)}")
        if left_out:
            warnings.append(f"{counted(len(left_out), 'file')} left out, another has the same name: {few(left_out)}")
    else:
        named = _named(corpus, corpus.labels, warnings)
        files, _ = _files(corpus, named)
    if corpus.expected not in (None, len(named)):
        warnings.append(f"{counted(len(named), 'sample')} listed, expected {corpus.expected}")
    if len(files) < len(named) and (hint := _misspelt(corpus, named.keys() - files.keys())):
        warnings.append(f"names in {corpus.labels} and in {corpus.videos} are not the same{hint}")

    directory = corpus.videos if is_directory(corpus.videos) else corpus.videos.parent
    there = tuple(filter(is_directory, corpus.au_dirs))
    au_dirs = there or corpus.au_dirs
    stored = _stored(corpus, (directory, *there), named)
    samples: list[Sample | Failed] = []
    for name in itertools.islice(named, corpus.limit):
        if fault := name_fault(name):
            samples.append(Failed(Sample(corpus.name, name, None, (), corpus.rule, target), "find", fault))
            continue
        video = directory / files[name] if name in files else None
        needed = (video, *(au_dir / each for au_dir in there for each in places(name))) if stored else ()
        remote = tuple(stored[each] for each in needed if each and each in stored)
        file = target / f"{name}.npy"
        samples.append(Sample(corpus.name, name, video, au_dirs, corpus.rule, file, corpus.stream, remote))
    return Listing(samples, [f"{corpus.name}: {warning}" for warning in warnings])


def _named(corpus: Corpus, labels: Place, warnings: list[str]) -> dict[str, str | None]:
    wanted = dict(_names(corpus.samples)) if corpus.samples else None
    prefix, of_test = corpus.test_prefix if corpus.split != "all" else None, corpus.split == "test"
    listed = [pair for key in corpus.keys for pair in _names(labels, key)]
    of_split = [(name, file) for name, file in listed if prefix is None or name.startswith(prefix) == of_test]
    taken = [(name, file) for name, file in of_split if wanted is None or name in wanted]
    named: dict[str, str | None] = {}
    repeated = []
    for name, file in taken:
        if name in named:
            repeated.append(name)
        else:
            named[name] = file or (wanted or {}).get(name)
    if repeated:
        told = f"{counted(len(repeated), 'name')} listed again in {labels.name} and taken once"
        warnings.append(f"{told}: {few(repeated)}")
    if unknown := [name for name in wanted or () if name not in named]:
        told = f"{counted(len(unknown), 'name')} of {corpus.samples} not in {labels.name}: {few(unknown)}"
        warnings.append(f"{told}{_written_otherwise(unknown, dict(listed))}")
    if not named and wanted is None:
        raise LabelError(f"{labels}: names no sample")
    return named


def _written_otherwise(lacking: Collection[str], there: Iterable[str]) -> str:
    """What to write instead, as the end of a message, where a name that is lacking is there, but written otherwise."""
    folded = {name.casefold(): name for name in there}
    near = [(name, folded[name.casefold()]) for name in lacking if folded.get(name.casefold(), name) != name]
    if near:
        return f"; {min(near)[0]!r} differs from {min(near)[1]!r} by capitals alone: write one as the other"
    firsts = {name: re.split("[;,\t]", name)[0].strip() for name in lacking}
    rows = [name for name, first in firsts.items() if first != name and _split(first)[0].casefold() in folded]
    return f"; {min(rows)!r} is a row of cells: write one name a line, or call the list .csv" if rows else ""


def _misspelt(corpus: Corpus, lacking: Collection[str]) -> str:
    files = map(_split, names(corpus.videos))
    stems = [stem for stem, extension in files if extension == ".npy" or extension.lower() in _RANKS]
    return _written_otherwise(lacking, stems)


def _one_directory_down(videos: Place) -> str:
    """What to do where the videos lie in directories of their own: `Raw/<video>/<clip>.mp4`."""
    for within in sorted(names(videos))[:20]:
        for name in sorted(names(videos / within)):
            if _split(name)[1].lower() in _RANKS:
                told = f"but one directory down, such as {within}/{name}: link them all into one directory"
                return f", {told}, each by a name of its own ({within}_{name})"
    return ""


def _names(file: Place, key: str | None = None) -> Iterator[tuple[str, str | None]]:
    """Each name in a list, and the file name where the list has that instead."""
    with local_file(file) as path:
        try:
            names = read_names(path, key)
        except LabelError as error:
            raise LabelError(str(error).replace(str(path), str(file))) from error
    for name in names:
        stem, extension = _split(name)
        yield (stem, name) if extension.lower() in _RANKS else (name, None)


def list_all(corpora: Sequence[Corpus], targets: Sequence[Place]) -> list[Listing]:
    """`list_samples` of each; LabelError, too, if the list of samples that restricts them names none of theirs."""
    listings = list(map(list_samples, corpora, targets))
    if not any(listing.samples for listing in listings):
        told = next((f" ({listing.warnings[0]})" for listing in listings if listing.warnings), "")
        raise LabelError(f"{corpora[0].samples}: names no sample of {few(corpus.name for corpus in corpora)}{told}")
    return listings


def require_videos(corpus: Corpus, listing: Listing) -> None:
    """Raise LabelError if no sample of `corpus` has a video."""
    lacking = {entry.sample.name if isinstance(entry, Failed) else entry.name: entry for entry in listing.samples}
    if not lacking or any(isinstance(entry, Sample) and entry.video is not None for entry in listing.samples):
        return
    what = "a video" if corpus.stream == "frame" else "a file of faces"
    told = f"none of {counted(len(lacking), 'sample')} of {corpus.labels} has {what} in {corpus.videos}"
    hint = _misspelt(corpus, lacking) or _one_directory_down(corpus.videos)
    why = next((f": {entry.reason}" for entry in lacking.values() if isinstance(entry, Failed)), "")
    raise LabelError(f"{corpus.name}: {told} ({few(lacking)}{why}){hint}")


def _files(corpus: Corpus, named: Mapping[str, str | None] | None) -> tuple[dict[str, str], list[str]]:
    """The file of each name that has one, and the files that lost to another of the same name.

    `named` are the names to look for, each with its own choice of file if it has one; None finds every file.
    """
    best: dict[str, tuple[int, str]] = {}
    left_out = []
    try:
        for stem, file in (_videos if corpus.stream == "frame" else _faces)(corpus.videos, named):
            if stem in best:
                left_out.append(max(file, best[stem])[1])
            best[stem] = min(file, best.get(stem, file))
    except OSError as error:
        raise LabelError(f"{corpus.videos}: {error.strerror or error}") from error
    return {stem: name for stem, (_, name) in best.items()}, sorted(left_out)


def _videos(videos: Place, named: Mapping[str, str | None] | None) -> Iterator[tuple[str, tuple[int, str]]]:
    """Each name's files with their ranks, of which the smallest wins."""
    if not is_directory(videos):
        if named is None and not is_there(videos):
            raise LabelError(f"{videos}: no such directory or video")
        yield videos.stem, (0, videos.name)
        return
    with scan(videos) as entries:
        for entry in entries:
            stem, extension = _split(entry.name)
            looked_for = not stem.startswith(".") if named is None else stem in named
            if looked_for and extension.lower() in _RANKS and _is_file(entry):
                rank = _RANKS.get(extension, _RANKS[extension.lower()] + len(_RANKS))
                yield stem, (-1 if named is not None and named[stem] == entry.name else rank, entry.name)


def _faces(faces: Place, named: Mapping[str, str | None] | None) -> Iterator[tuple[str, tuple[int, str]]]:
    for path in tree(faces, named) if isinstance(faces, Url) else _local_tree(faces, named):
        stem, _ = _split(path.rpartition("/")[2])
        if (named is None or stem in named) and path in (f"{stem}.npy", f"{stem}/{stem}.npy"):
            yield stem, (path.count("/"), path)


def _local_tree(faces: Path, named: Mapping[str, str | None] | None) -> Iterator[str]:
    with os.scandir(faces) as entries:
        for entry in entries:
            nested = f"{entry.name}/{entry.name}.npy"
            if entry.name.endswith(".npy") and _is_file(entry):
                yield entry.name
            elif (named is None or entry.name in named) and (faces / nested).is_file():
                yield nested


def _stored(corpus: Corpus, directories: Iterable[Place], named: Collection[str]) -> dict[Place, RemoteFile]:
    """What lies in a store of the samples' files, from one listing of each directory."""
    found: dict[Place, RemoteFile] = {}
    for number, place in enumerate(directories):
        if isinstance(place, Url):
            flat = number == 0 and corpus.stream == "frame"  # there may be much else below a directory of videos
            for name, entry in ((listing(place) or {}) if flat else tree(place, named)).items():
                found[place.child(name)] = RemoteFile(place.child(name), entry.size or 0, entry.version)
    return found


def _split(name: str) -> tuple[str, str]:
    """A file name's stem and its extension with the dot; a hidden file's name is all stem."""
    stem, dot, extension = name.rpartition(".")
    return (stem, dot + extension) if stem else (name, "")


def _is_file(entry: os.DirEntry[str] | Entry) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link that leads back to itself
        return False
