"""Where is a sample's emotional peak? Action-unit files -> Peak, or why there is none."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpupeak.peaks.rows import Row, Unusable, strongest
from gpupeak.peaks.sources import PEAK_SOURCES, SOURCES, Source
from gpupeak.storage.files import bounded_lines, is_directory, open_bounded, read_bounded
from gpupeak.types import NoPeak, Peak

NO_DIRECTORY = "no AU directory"
NO_FILE = "no AU file"
UNREADABLE = "AU file unreadable"
NO_USABLE_PEAK = "no usable peak in the AU file"

_LARGEST_JSON = 64 << 20  # 10,000 frames with 6 KiB of text on each
_MOST_VALUES = 1_000_000  # of one; each takes up to 400 bytes, and four files of a sample are held at once
_LARGEST_CSV = 256 << 20
_MOST_ROWS = 1 << 18  # two hours of 30 frames a second
_LONGEST_CURVE = 1 << 20


def read_peak(name: str, au_dirs: Sequence[Path], source: str = "auto") -> Peak | NoPeak:
    """The emotional peak of the sample `name`, or a `NoPeak` that says of every file found what was wrong. A directory
    that comes first, the nearest to the dataset, wins over a better source in a later one."""
    if source not in ("auto", *PEAK_SOURCES):
        raise ValueError(f"source is {source!r}, expected auto or one of {', '.join(PEAK_SOURCES)}")
    faults: list[NoPeak] = []
    for each, file, rows in _candidates(name, au_dirs, source):
        found = _peak(each, file, rows)
        if isinstance(found, Peak):
            return found
        if found is not None:
            faults.append(found)
    if faults:
        return NoPeak(faults[0].reason, "; ".join(dict.fromkeys(fault.detail for fault in faults)))
    searched = ", ".join(map(str, au_dirs)) or "none was given"
    if not any(map(is_directory, au_dirs)):
        return NoPeak(NO_DIRECTORY, searched)
    return NoPeak(NO_FILE, f"nothing of this sample in {searched}")


def _peak(source: Source, file: Path, rows: Iterator[Row]) -> Peak | NoPeak | None:
    try:
        row = strongest(rows)
    except FileNotFoundError:
        return None
    except (Unusable, OSError, ValueError, RecursionError, csv.Error) as error:
        reason = NO_USABLE_PEAK if isinstance(error, Unusable) else UNREADABLE
        return NoPeak(reason, f"{file}: {' '.join((getattr(error, 'strerror', None) or str(error)).split())}")
    if row is None:
        return NoPeak(NO_USABLE_PEAK, f"{file}: no frame with a face and AU intensities")
    return Peak(row.frame - source.base, row.before, row.after, row.total, source.name, file)


def places(name: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(place.format(name) for source in SOURCES for place in source.places))


@dataclass(frozen=True, slots=True)
class Curve:
    """How strong action units are: `values[i]`, their sum, is that of frame `frames[i]`, 0-based and ascending."""

    frames: tuple[int, ...]
    values: tuple[float, ...]
    source: str
    file: Path


def read_curve(name: str, au_dirs: Sequence[Path]) -> Curve | None:
    """The action units of the sample `name`, from the first usable file that tells of every frame, None without one."""
    for each, file, rows in _candidates(name, au_dirs):
        try:
            read = ((row.frame - each.base, row.intensity) for row in rows)
            sums = {frame: sum_ for frame, sum_ in read if sum_ is not None and frame < _LONGEST_CURVE}
        except (Unusable, OSError, ValueError, RecursionError, csv.Error):
            continue
        if frames := sorted(sums):
            return Curve(tuple(frames), tuple(sums[frame] for frame in frames), each.name, file)
    return None


def _candidates(
    name: str, au_dirs: Sequence[Path], source: str = "auto"
) -> Iterator[tuple[Source, Path, Iterator[Row]]]:
    for directory in au_dirs:
        documents: dict[Path, object] = {}  # read once for all sources: what each holds, or what reading it raised
        for each in SOURCES:
            for place in each.places if source in ("auto", each.name) else ():
                file = directory / place.format(name)
                yield each, file, _rows(each, file, documents)


def _rows(source: Source, file: Path, documents: dict[Path, object]) -> Iterator[Row]:
    if file.suffix == ".csv":
        with io.TextIOWrapper(open_bounded(file, _LARGEST_CSV), "utf-8-sig", "replace", newline="") as text:
            yield from source.read(csv.reader(bounded_lines(text, _MOST_ROWS), skipinitialspace=True))
    else:
        yield from source.read(_document(file, documents))


def _document(file: Path, documents: dict[Path, object]) -> object:
    if file not in documents:
        try:
            data = read_bounded(file, _LARGEST_JSON)
            if len(data) > _MOST_VALUES and sum(map(data.count, b",[{")) > _MOST_VALUES:
                raise ValueError(f"more than {_MOST_VALUES:,} values")
            # The text around the numbers may be in any encoding; it does not matter here.
            documents[file] = json.loads(data.decode("utf-8-sig", "replace"))
        except (OSError, ValueError, RecursionError) as error:
            documents[file] = error
    document = documents[file]
    if isinstance(document, Exception):
        raise document
    return document
