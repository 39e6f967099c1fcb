"""What every reader of an action-unit file says: rows, one a frame. Numbers are whole and not negative: 34.0 is, "34"
is not."""

from __future__ import annotations

import math
import reprlib
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, TypeVar

from gpupeak.types import SamplingRule

# 2**31 frames are 24 days at 1,000 frames a second.
_MOST_FRAMES = 2**31

_Kind = TypeVar("_Kind")


@dataclass(frozen=True, slots=True)
class Row:
    """What a file says of one frame, counted as the file counts; `intensity` is the sum of its action units, None
    without a face, and `blink` what AU45 adds to it. `face` tells several people apart."""

    frame: int
    intensity: float | None = None
    marked: bool = False
    before: int | None = None
    after: int | None = None
    total: int | None = None
    blink: float = 0.0
    face: int | None = None
    confidence: float | None = None


class Unusable(Exception):
    """A file has no usable peak; says why."""


def strongest(rows: Sequence[Row]) -> Row | None:
    """The first row that is marked, else the first of those with the largest intensity."""
    marked = next((row for row in rows if row.marked), None)
    known = (row for row in rows if row.intensity is not None)
    return marked or max(known, key=lambda row: row.intensity or 0.0, default=None)


def one_face(rows: list[Row], face: int | None = None) -> tuple[list[Row], str | None]:
    """The rows of one person, and how it was chosen if there are several: `face`, else the one with the largest summed
    confidence, the first of equals; without numbers of faces, in each frame the row with the highest confidence.

    Raises Unusable if the file does not tell of `face`.
    """
    sums: dict[int, float] = {}
    for row in rows:
        if row.face is not None and row.intensity is not None:
            sums[row.face] = sums.get(row.face, 0.0) + (1.0 if row.confidence is None else row.confidence)
    if face is not None and face not in sums:
        raise Unusable(f"no face {face}, there are {', '.join(map(str, sorted(sums))) or 'no numbers of faces'}")
    if face is not None or len(sums) > 1:
        chosen = face if face is not None else max(sorted(sums), key=sums.__getitem__)
        told = "asked for" if face is not None else "largest summed confidence"
        return [row for row in rows if row.face == chosen], f"face {chosen} of {len(sums)}: {told}"
    best: dict[int, Row] = {}
    for row in rows:
        if (other := best.setdefault(row.frame, row)) is not row and (row.confidence or 0) > (other.confidence or 0):
            best[row.frame] = row
    if len(best) == len(rows) or sums:
        return rows, None
    return list(best.values()), "of several faces the one of highest confidence in each frame"


def as_asked(rows: list[Row], rule: SamplingRule) -> tuple[list[Row], str | None]:
    """The rows of one person, made as a rule with options asks for, and how the person was chosen. What a file marks as
    its peak counts no longer, then."""
    if rule.no_blinks or rule.smooth is not None or rule.min_confidence is not None:
        rows = [replace(row, marked=False) for row in rows]
    if rule.no_blinks:
        rows = [
            row if row.intensity is None else replace(row, intensity=round(row.intensity - row.blink, 6))
            for row in rows
        ]
    if rule.min_confidence is not None:
        rows = [row for row in rows if row.confidence is not None and row.confidence >= rule.min_confidence]
    rows, face = one_face(rows, rule.face)
    return rows if rule.smooth is None else smoothed(rows, rule.smooth), face


def smoothed(rows: list[Row], frames: int) -> list[Row]:
    """The rows that have an intensity, each with the lower median over the rows at most `frames` // 2 frames
    away: what stands out at either end has fewer beside it."""
    known = sorted((row for row in rows if row.intensity is not None), key=attrgetter("frame"))
    frame_numbers, values, reach = [row.frame for row in known], [row.intensity or 0.0 for row in known], frames // 2

    def near(row: Row) -> slice:
        return slice(bisect_left(frame_numbers, row.frame - reach), bisect_right(frame_numbers, row.frame + reach))

    return [replace(row, intensity=statistics.median_low(values[near(row)])) for row in known]


def total_intensity(intensities: object) -> float | None:
    """The sum of a list's numbers, or of a dict's; None if something else is among them."""
    values = list(intensities.values()) if isinstance(intensities, dict) else intensities
    if not isinstance(values, list) or not {int, float}.issuperset(map(type, values)):
        return None
    if values and not (min(values) > -1e9 and max(values) < 1e9):
        return None
    # OpenFace prints hundredths: what differs by less than a millionth is a tie that rounding broke.
    total = round(math.fsum(values), 6)
    return None if math.isnan(total) else total


def member(container: object, key: str, kind: type[_Kind]) -> _Kind:
    value = container.get(key) if isinstance(container, dict) else None
    if not isinstance(value, kind):
        raise Unusable(_found(container, key))
    return value


def whole(container: object, key: str, least: int = 0) -> int:
    number = as_whole(container.get(key), least) if isinstance(container, dict) else None
    if number is None:
        raise Unusable(f"{_found(container, key)}, expected a whole number from {least} to {_MOST_FRAMES - 1}")
    return number


def as_whole(value: Any, least: int = 0) -> int | None:
    is_number = type(value) in (int, float)  # no bool
    return int(value) if is_number and least <= value < _MOST_FRAMES and value == int(value) else None


def as_float(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _found(container: object, key: str) -> str:
    if isinstance(container, dict) and key in container:
        return f"{key} is {reprlib.repr(container[key])}"
    return f"no {key}"
