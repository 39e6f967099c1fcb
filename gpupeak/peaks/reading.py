"""Where is a sample's emotional peak? Action-unit files -> Peak, or why there is none.

Four sources, in the order of `types.PEAK_SOURCES`:

    au_info     <sample>_au_analysis.json  au_info.peak_frames[0], 0-based         MER-Factory with au_info
    per_frame   the same file              per_frame_au_descriptions[], 1-based    MER-Factory with au_info
    merr_data   <sample>_merr_data.json    overall_peak_frame_info, 1-based        MER-Factory as published
    openface    <sample>.csv               largest sum of AU intensities, 1-based  OpenFace

An artefact lies in its directory as such or within a directory of the sample's name. The
directories are exhausted one by one: within a directory the source that comes first wins, and a
directory that comes first wins over a better source in a later one. Sample names repeat across
datasets, so a file nearer to the dataset is the safer one.

The files come from elsewhere, so a number is believed only if it can be one: a whole number, not
negative (34.0 counts, 34.5 and "34" do not). A source with a wrong number is left for the next one.
"""

from __future__ import annotations

import csv
import io
import json
import math
import reprlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, TypeAlias, TypeGuard, TypeVar

from gpupeak.storage.files import is_directory, open_bounded, read_bounded
from gpupeak.types import PEAK_SOURCES, NoPeak, Peak

__all__ = ["NO_DIRECTORY", "NO_FILE", "NO_USABLE_PEAK", "UNREADABLE", "Curve", "places", "read_curve", "read_peak"]

NO_DIRECTORY = "no AU directory"
NO_FILE = "no AU file"
UNREADABLE = "AU file unreadable"
NO_USABLE_PEAK = "no usable peak in the AU file"
"""The reasons a `NoPeak` can have."""

# Parsed JSON takes up to twenty times its size; 64 MiB is 10,000 frames with 6 KiB of text on each.
_LARGEST_JSON = 64 << 20
_LARGEST_CSV = 256 << 20
_LONGEST_CSV_LINE = 1 << 20
# 2**31 frames are 24 days at 1,000 frames a second.
_MOST_FRAMES = 2**31
_LONGEST_CURVE = 1 << 20

_OPENFACE_UNITS = tuple(f"AU{unit:02}_r" for unit in (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 45))

_Documents: TypeAlias = dict[Path, object]
"""One sample's JSON files: what each holds, or the exception that reading it gave."""
_Kind = TypeVar("_Kind")


def read_peak(name: str, au_dirs: Sequence[Path], source: str = "auto") -> Peak | NoPeak:
    """Find the emotional peak of the sample `name`.

    Args:
        name: the sample's name, which its files and directory are called by.
        au_dirs: directories to look in, the one that is nearest to the dataset first.
        source: one of `types.PEAK_SOURCES` to use only that one, or "auto" for all of them in order.

    Returns:
        The first usable peak, or a `NoPeak` whose detail says of every file found what was wrong.

    Raises:
        ValueError: `source` is not one of those.
    """
    if source not in ("auto", *PEAK_SOURCES):
        raise ValueError(f"source is {source!r}, expected auto or one of {', '.join(PEAK_SOURCES)}")
    faults: list[_Unusable] = []
    for directory in au_dirs:
        documents: _Documents = {}
        for kind in PEAK_SOURCES if source == "auto" else (source,):
            for pattern in _PLACES[kind]:
                file = directory / pattern.format(name)
                try:
                    return _READERS[kind](file, documents)
                except FileNotFoundError:
                    continue
                except _Unusable as fault:
                    faults.append(fault)
    if faults:
        return NoPeak(faults[0].reason, "; ".join(dict.fromkeys(fault.detail for fault in faults)))
    searched = ", ".join(map(str, au_dirs)) or "none was given"
    if not any(map(is_directory, au_dirs)):
        return NoPeak(NO_DIRECTORY, searched)
    return NoPeak(NO_FILE, f"nothing of this sample in {searched}")


def places(name: str) -> tuple[str, ...]:
    """Every place in an action-unit directory at which a file of the sample `name` is looked for."""
    return tuple(dict.fromkeys(pattern.format(name) for patterns in _PLACES.values() for pattern in patterns))


@dataclass(frozen=True, slots=True)
class Curve:
    """How strong a sample's action units are, frame by frame: `values[i]`, their sum, is that of frame `frames[i]`.

    `frames` are 0-based and ascending; those without a face are left out, and those past a million.
    """

    frames: tuple[int, ...]
    values: tuple[float, ...]
    source: str
    file: Path


def read_curve(name: str, au_dirs: Sequence[Path]) -> Curve | None:
    """The intensity of the action units of the sample `name`, from the first of its files that tells it of every frame.

    Those are `per_frame` and `openface`, whichever file its peak is read from; `au_dirs` as in
    `read_peak`. None if there is no such file, or nothing in it can be used.
    """
    for directory in au_dirs:
        documents: _Documents = {}
        for kind, read in (("per_frame", _described), ("openface", _tracked)):
            for pattern in _PLACES[kind]:
                file = directory / pattern.format(name)
                try:
                    rows = read(file, documents)
                    sums = {f - 1: total for f, total, _ in rows if total is not None and f <= _LONGEST_CURVE}
                except (FileNotFoundError, _Unusable):
                    continue
                if sums:
                    frames = sorted(sums)
                    return Curve(tuple(frames), tuple(sums[frame] for frame in frames), kind, file)
    return None


class _Unusable(Exception):
    """A file that is there yet gives no peak."""

    def __init__(self, reason: str, file: Path, what: str) -> None:
        super().__init__(what)
        self.reason = reason
        self.detail = f"{file}: {' '.join(what.split())}"


def _au_info(file: Path, documents: _Documents) -> Peak:
    info = _member(file, _document(file, documents), "au_info", dict)
    peaks = _member(file, info, "peak_frames", list)
    if not peaks:
        raise _Unusable(NO_USABLE_PEAK, file, "peak_frames is empty")
    return Peak(
        index=_whole(file, peaks[0], "peak_index"),
        before=_whole_if_there(file, peaks[0], "frames_before_peak"),
        after=_whole_if_there(file, peaks[0], "frames_after_peak"),
        total=_whole_if_there(file, info, "total_frames", least=1),
        source="au_info",
        file=file,
    )


_Row: TypeAlias = tuple[int, "float | None", bool]
"""A frame counted from 1, the sum of its action units (None where they are no numbers), if it is marked as the peak."""


def _per_frame(file: Path, documents: _Documents) -> Peak:
    best = _loudest(_described(file, documents))
    if best is None:
        raise _Unusable(NO_USABLE_PEAK, file, "per_frame_au_descriptions has no frame with AU intensities")
    return _numbered(best, "per_frame", file)


def _described(file: Path, documents: _Documents) -> Iterator[_Row]:
    for entry in _member(file, _document(file, documents), "per_frame_au_descriptions", list):
        if isinstance(entry, dict) and (frame := _as_whole(entry.get("frame"), least=1)) is not None:
            yield frame, _sum(entry.get("active_aus")), entry.get("is_peak_frame") == 1


def _merr_data(file: Path, documents: _Documents) -> Peak:
    info = _member(file, _document(file, documents), "overall_peak_frame_info", dict)
    return _numbered(_whole(file, info, "frame_number", least=1), "merr_data", file)


def _openface(file: Path, documents: _Documents) -> Peak:
    best = _loudest(_tracked(file, documents))
    if best is None:
        raise _Unusable(NO_USABLE_PEAK, file, "no row with a face")
    return _numbered(best, "openface", file)


def _tracked(file: Path, _: _Documents) -> Iterator[_Row]:
    try:
        with io.TextIOWrapper(open_bounded(file, _LARGEST_CSV), "utf-8-sig", "replace", newline="") as text:
            yield from _face_rows(file, csv.reader(_lines(text), skipinitialspace=True))
    except FileNotFoundError:
        raise
    except (OSError, csv.Error) as error:
        raise _unreadable(file, error) from error


def _face_rows(file: Path, rows: Iterator[list[str]]) -> Iterator[_Row]:
    header = [cell.strip() for cell in next(rows, [])]
    units = [header.index(unit) for unit in _OPENFACE_UNITS if unit in header]
    if "frame" not in header or not units:
        raise _Unusable(NO_USABLE_PEAK, file, "expected the columns frame and AU01_r to AU45_r of OpenFace")
    frame_column = header.index("frame")
    face_column = header.index("success") if "success" in header else None
    columns = max(frame_column, face_column or 0, *units) + 1
    for row in rows:
        if len(row) < columns or (face_column is not None and _as_float(row[face_column]) != 1):
            continue
        if (frame := _as_whole(_as_float(row[frame_column]), least=1)) is not None:
            yield frame, _sum([_as_float(row[unit]) for unit in units]), False


def _numbered(frame: int, source: str, file: Path) -> Peak:
    """The peak of a file that counts frames from 1 and says nothing of those around it."""
    return Peak(frame - 1, None, None, None, source, file)


def _loudest(rows: Iterable[_Row]) -> int | None:
    """The first frame that is marked, else the first of those with the largest sum."""
    best: tuple[float, int] | None = None
    for frame, total, marked in rows:
        if marked:
            return frame
        if total is not None and (best is None or total > best[0]):
            best = total, frame
    return None if best is None else best[1]


def _sum(intensities: object) -> float | None:
    values = list(intensities.values()) if isinstance(intensities, dict) else intensities
    if not isinstance(values, list) or not all(_is_number(value) and abs(value) < 1e9 for value in values):
        return None
    # OpenFace prints hundredths: what differs by less than a millionth is a tie that rounding broke.
    return round(math.fsum(values), 6)


def _document(file: Path, documents: _Documents) -> object:
    """The JSON in `file`, read once for all the sources that look at it."""
    if file not in documents:
        documents[file] = _parsed(file)
    document = documents[file]
    if isinstance(document, Exception):
        raise document
    return document


def _parsed(file: Path) -> object:
    try:
        # The text around the numbers may be in any encoding; it does not matter here.
        return json.loads(read_bounded(file, _LARGEST_JSON).decode("utf-8-sig", "replace"))
    except FileNotFoundError as error:
        return error
    except (OSError, ValueError, RecursionError) as error:
        return _unreadable(file, error)


def _unreadable(file: Path, error: Exception) -> _Unusable:
    return _Unusable(UNREADABLE, file, getattr(error, "strerror", None) or str(error))


def _member(file: Path, container: object, key: str, kind: type[_Kind]) -> _Kind:
    value = container.get(key) if isinstance(container, dict) else None
    if not isinstance(value, kind):
        raise _Unusable(NO_USABLE_PEAK, file, _found(container, key))
    return value


def _whole(file: Path, container: object, key: str, least: int = 0) -> int:
    number = _as_whole(container.get(key), least) if isinstance(container, dict) else None
    if number is None:
        expected = f"expected a whole number from {least} to {_MOST_FRAMES - 1}"
        raise _Unusable(NO_USABLE_PEAK, file, f"{_found(container, key)}, {expected}")
    return number


def _found(container: object, key: str) -> str:
    if isinstance(container, dict) and key in container:
        return f"{key} is {reprlib.repr(container[key])}"
    return f"no {key}" if isinstance(container, dict) else f"no {key} in {reprlib.repr(container)}"


def _whole_if_there(file: Path, container: dict[str, object], key: str, least: int = 0) -> int | None:
    return None if container.get(key) is None else _whole(file, container, key, least)


def _as_whole(value: object, least: int) -> int | None:
    return int(value) if _is_number(value) and least <= value < _MOST_FRAMES and value == int(value) else None


def _as_float(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _lines(text: TextIO) -> Iterator[str]:
    while line := text.readline(_LONGEST_CSV_LINE):
        if len(line) == _LONGEST_CSV_LINE:
            raise csv.Error(f"a line of more than {_LONGEST_CSV_LINE:,} characters")
        yield line


_READERS: dict[str, Callable[[Path, _Documents], Peak]] = {
    "au_info": _au_info,
    "per_frame": _per_frame,
    "merr_data": _merr_data,
    "openface": _openface,
}
_PLACES = {
    "au_info": ("{0}/{0}_au_analysis.json", "{0}_au_analysis.json"),
    "per_frame": ("{0}/{0}_au_analysis.json", "{0}_au_analysis.json"),
    "merr_data": ("{0}/{0}_merr_data.json", "{0}_merr_data.json"),
    "openface": ("{0}.csv", "{0}/{0}.csv"),
}
