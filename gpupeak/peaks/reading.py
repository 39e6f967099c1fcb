"""Where is a sample's emotional peak? Action-unit files -> Peak, or why there is none."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import orjson

from gpupeak.peaks.rows import Row, Unusable, as_asked, strongest
from gpupeak.peaks.sources import PEAK_SOURCES, SOURCES, Source
from gpupeak.peaks.tables import Table
from gpupeak.storage.files import bounded_lines, is_directory, open_bounded, read_bounded
from gpupeak.types import NoPeak, Peak, SamplingRule

NO_DIRECTORY = "no AU directory"
NO_FILE = "no AU file"
UNREADABLE = "AU file unreadable"
NO_USABLE_PEAK = "no usable peak in the AU file"

_LARGEST_JSON = 64 << 20  # 10,000 frames with 6 KiB of text on each
_MOST_VALUES = 1_000_000  # of one; each takes up to 400 bytes, and four files of a sample are held at once
_LARGEST_CSV = 256 << 20
_MOST_ROWS = 1 << 18  # two hours of 30 frames a second
_LONGEST_CURVE = 1 << 20
_BAD = (Unusable, OSError, ValueError, RecursionError, csv.Error)
_PLAIN = SamplingRule()

Look: TypeAlias = Callable[[Path], frozenset[str] | None]


def listed(directory: Path | str) -> frozenset[str] | None:
    """The names in a directory, none if it is not there, None if it cannot be listed."""
    try:
        return frozenset(os.listdir(directory))  # noqa: PTH208 - names only
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()
    except OSError:
        return None


class Listed(dict[Path, frozenset[str] | None]):
    """What `listed` says of directories, each of which is listed once."""

    of = dict.__getitem__

    def __missing__(self, directory: Path) -> frozenset[str] | None:
        self[directory] = found = listed(directory)
        return found


def unlisted(directory: Path | str) -> None:
    """For few samples: files are tried one by one."""


def read_peak(name: str, au_dirs: Sequence[Path], rule: SamplingRule = _PLAIN, look: Look = unlisted) -> Peak | NoPeak:
    """The emotional peak of the sample `name`, or a `NoPeak` that says of every file found what was wrong. A directory
    that comes first, the nearest to the dataset, wins over a better source in a later one. `look` tells the names in
    such a directory, as `Listed().of` does."""
    if rule.peak_source not in ("auto", *PEAK_SOURCES):
        raise ValueError(f"peak_source is {rule.peak_source!r}, expected auto or one of {', '.join(PEAK_SOURCES)}")
    faults: list[NoPeak] = []
    for each, file, content in _candidates(name, au_dirs, rule.peak_source, look):
        try:
            told = _told(each, content)
            rows, face = as_asked(told, rule)
            if (row := strongest(rows)) is None:
                raise Unusable("no frame with a face and AU intensities")
        except _BAD as error:
            reason = NO_USABLE_PEAK if isinstance(error, Unusable) else UNREADABLE
            said = " ".join((getattr(error, "strerror", None) or str(error)).split())
            faults.append(NoPeak(reason, f"{file}: {said}"))
            continue
        counted = len({row.frame for row in told}) if isinstance(each.read, Table) else None
        return Peak(row.frame - each.base, row.before, row.after, row.total, each.name, file, counted, face)
    if faults:
        return NoPeak(faults[0].reason, "; ".join(dict.fromkeys(fault.detail for fault in faults)))
    searched = ", ".join(map(str, au_dirs)) or "none was given"
    if not any(look(each) or is_directory(each) for each in au_dirs):
        return NoPeak(NO_DIRECTORY, searched)
    return NoPeak(NO_FILE, f"nothing of this sample in {searched}")


def places(name: str) -> list[str]:
    different = dict.fromkeys(itertools.chain.from_iterable(source.places for source in SOURCES))
    return [place.format(name) for place in different]


def places_there(name: str, directory: Path, look: Look) -> list[str]:
    """Those of `places` at which there is something, as far as listing tells."""
    if (top := look(directory)) is None:
        return places(name)
    own = f"{name}/"
    inner = listed(f"{directory}/{name}") if name in top else ()
    return [
        place
        for place in places(name)
        if place in top or (place.startswith(own) and (inner is None or place[len(own) :] in inner))
    ]


@dataclass(frozen=True, slots=True)
class Curve:
    """How strong action units are: `values[i]`, their sum, is that of frame `frames[i]`, 0-based and ascending."""

    frames: tuple[int, ...]
    values: tuple[float, ...]
    source: str
    file: Path


def read_curve(name: str, au_dirs: Sequence[Path], rule: SamplingRule = _PLAIN) -> Curve | None:
    """The action units of the sample `name`, from the first usable file that tells of every frame, None without one."""
    for each, file, content in _candidates(name, au_dirs, "auto"):
        try:
            read = [(row.frame - each.base, row.intensity) for row in as_asked(_told(each, content), rule)[0]]
        except _BAD:
            continue
        sums = {frame: sum_ for frame, sum_ in read if sum_ is not None and 0 <= frame < _LONGEST_CURVE}
        if frames := sorted(sums):
            return Curve(tuple(frames), tuple(sums[frame] for frame in frames), each.name, file)
    return None


def _candidates(
    name: str, au_dirs: Sequence[Path], wanted: str, look: Look = unlisted
) -> Iterator[tuple[Source, Path, object]]:
    """The files that are there, each with a source that it may be of, and what it holds or what reading it raised."""
    sources = [each for each in SOURCES if wanted in ("auto", each.name)]
    for directory in au_dirs:
        there, contents = look(directory), dict[str, object]()  # by place: read once for all sources
        for source, place in ((each, place.format(name)) for each in sources for place in each.places):
            if there is not None and place.partition("/")[0] not in there:
                continue
            if place not in contents:
                contents[place] = _content(directory / place, sources)
            match contents[place]:
                case FileNotFoundError():
                    pass
                case (Source() as producer, _) if producer is not source:
                    pass
                case content:
                    yield source, directory / place, content


def _content(file: Path, sources: Iterable[Source]) -> object:
    try:
        return _table(file, sources) if file.suffix == ".csv" else _document(file)
    except _BAD as error:
        return error


def _document(file: Path) -> object:
    content = read_bounded(file, _LARGEST_JSON, _MOST_VALUES)
    try:
        return orjson.loads(content)
    except ValueError:  # NaN, a byte order mark; the text around the numbers may be in any encoding
        return json.loads(content.decode("utf-8-sig", "replace"))


def _table(file: Path, sources: Iterable[Source]) -> tuple[Source, Iterator[Row]]:
    """Which source a table is of, by its header, and its rows, which are not read yet."""
    lines = _lines(file)
    header = _cells(next(lines, ""))
    first = next(filter(str.strip, lines), "")
    row = dict(zip(header, _cells(first), strict=False))
    tables = [(each, each.read) for each in sources if isinstance(each.read, Table)]
    for source, table in tables:
        if table.knows(header, row):
            return source, table.rows(header, itertools.chain([first], lines))
    known = " or ".join(source.name for source, _ in tables)
    raise Unusable(f"columns {','.join(header)[:40]!r}..., expected those of {known}")


def _lines(file: Path) -> Iterator[str]:
    with io.TextIOWrapper(open_bounded(file, _LARGEST_CSV), "utf-8-sig", "replace") as text:
        yield from bounded_lines(text, _MOST_ROWS)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line], skipinitialspace=True), [])]


def _told(source: Source, content: Any) -> list[Row]:
    if isinstance(content, Exception):
        raise content
    if not isinstance(source.read, Table):
        return list(source.read(content))
    rows: list[Row] = list(content[1])
    if early := [row.frame for row in rows if row.frame < source.base]:
        raise Unusable(f"a frame {early[0]}, expected frames from {source.base}, as {source.name} counts them")
    return rows
