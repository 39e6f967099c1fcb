"""What every reader of an action-unit file says: rows, one a frame. Numbers are whole and not negative: 34.0 is, "34"
is not."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeGuard, TypeVar

# 2**31 frames are 24 days at 1,000 frames a second.
_MOST_FRAMES = 2**31

_Kind = TypeVar("_Kind")


@dataclass(frozen=True, slots=True)
class Row:
    """What a file says of one frame, counted as the file counts; `intensity` is the sum of its action units."""

    frame: int
    intensity: float | None = None
    marked: bool = False
    before: int | None = None
    after: int | None = None
    total: int | None = None


class Unusable(Exception):
    """A file has no usable peak; says why."""


def strongest(rows: Iterable[Row]) -> Row | None:
    """The first row that is marked, else the first of those with the largest intensity."""
    best: tuple[float, Row] | None = None
    for row in rows:
        if row.marked:
            return row
        if row.intensity is not None and (best is None or row.intensity > best[0]):
            best = row.intensity, row
    return None if best is None else best[1]


def total_intensity(intensities: object) -> float | None:
    """The sum of a list's numbers, or of a dict's; None if something else is among them."""
    values = list(intensities.values()) if isinstance(intensities, dict) else intensities
    if not isinstance(values, list) or not all(_is_number(value) and abs(value) < 1e9 for value in values):
        return None
    # OpenFace prints hundredths: what differs by less than a millionth is a tie that rounding broke.
    return round(math.fsum(values), 6)


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


def as_whole(value: object, least: int = 0) -> int | None:
    return int(value) if _is_number(value) and least <= value < _MOST_FRAMES and value == int(value) else None


def as_float(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _found(container: object, key: str) -> str:
    if isinstance(container, dict) and key in container:
        return f"{key} is {reprlib.repr(container[key])}"
    return f"no {key}"
