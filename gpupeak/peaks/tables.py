"""The tables of action units, one a producer: their columns, and their rows taken apart no further than is needed."""

from __future__ import annotations

import csv
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gpupeak.peaks.rows import Row, Unusable, as_float, as_whole

_TEXT = ("True", "False")
_LONGEST_LIST = 4096  # characters


@dataclass(frozen=True, slots=True)
class Table:
    """The columns of one producer. `unit` is the pattern of those that are summed, or names one that lists the units;
    `confidence` may be a list, too, of a box and its score. `success` is text or a number, and tells producers apart.
    """

    frame: str
    unit: str
    confidence: str = ""
    face: str = ""
    success_is_text: bool = False

    def knows(self, header: Sequence[str], first: Mapping[str, str]) -> bool:
        """Whether a table with this header and first row is of this producer. Where there is a confidence, a `success`
        in words is of OpenFace, and what has written its table again."""
        in_words = first.get("success", "").title() in _TEXT and "confidence" not in header
        fits = self.frame in header and in_words == self.success_is_text
        return fits and any(map(re.compile(self.unit).fullmatch, header))

    def rows(self, header: Sequence[str], lines: Iterable[str]) -> Iterator[Row]:
        """Every frame, those without a face too. Raises Unusable for a row that is not of the header's length."""
        place = {name: column for column, name in enumerate(header) if name}
        is_unit = re.compile(self.unit).fullmatch
        units = [column for column, name in enumerate(header) if is_unit(name)]
        others = [place.get(name) for name in (self.frame, "success", self.confidence, self.face, "AU45_r")]
        _, success, confidence, face, blink = others
        for row in cells(lines, len(header), [*units, *(column for column in others if column is not None)]):
            number = as_whole(as_float(row[place[self.frame]]))
            if number is None:
                continue
            there = success is None or row[success].strip().title() == "True" or as_float(row[success]) == 1
            yield Row(
                number,
                _sum([row[column] for column in units]) if there else None,
                blink=0.0 if blink is None else as_float(row[blink]) or 0.0,
                face=None if face is None else as_whole(as_float(row[face])),
                confidence=_score(row[confidence]) if confidence is not None and there else None,
            )


_OPENFACE = "AU(01|02|04|05|06|07|09|10|12|14|15|17|20|23|25|26|45)_r"
openface = Table("frame", _OPENFACE, "confidence", "face_id")
pyfaceau = Table("frame", _OPENFACE, success_is_text=True)
py_feat = Table("frame", r"AU\d\d", "FaceScore")
libreface = Table("frame_idx", r"au_\d+_intensity")
openface3 = Table("frame_index", "action_units", "face_detection", "face_id")


def cells(lines: Iterable[str], columns: int, wanted: Sequence[int]) -> Iterator[list[str]]:
    """The rows of a table; of one without quotes only the cells `wanted`, and "" for those far from both ends.

    There may be spaces around what they hold."""
    middle = columns // 2
    front = max((column + 1 for column in wanted if column < middle), default=0)
    back = columns - min((column for column in wanted if column >= middle), default=columns)
    between = (columns - front - back) * [""]
    lines = iter(lines)
    for number, line in enumerate(lines, 2):
        if '"' in line:
            quoted = csv.reader(itertools.chain([line], lines), skipinitialspace=True)
            for row in quoted:
                if row:
                    _check(len(row), columns, number - 1 + quoted.line_num)
                    yield row
            return
        if line := line.strip():
            _check(line.count(",") + 1, columns, number)
            head, tail = line.split(",", front), line.rsplit(",", back)
            yield [*head[:front], *between, *tail[len(tail) - back :]]


def _check(found: int, columns: int, line: int) -> None:
    if found != columns:
        why = "are its decimals written with commas?" if found > columns else "is it cut short?"
        raise Unusable(f"line {line} has {found} cells, the header {columns}: {why}")


def _sum(cells: list[str]) -> float | None:
    """Of the numbers in cells, or of those that the one cell lists; None if one of them is none."""
    numbers = cells if len(cells) > 1 else _listed(cells[0])
    try:
        total = math.fsum(map(float, numbers))
    except (ValueError, OverflowError):
        if wrong := [number for number in numbers if "," in number and not number.startswith("[")]:
            raise Unusable(f"a number is {wrong[0][:20]!r}: are decimals written with commas?") from None
        return None
    return round(total, 6) if abs(total) < 1e9 else None


def _score(cell: str) -> float:
    """A confidence from 0 to 1; of a box, what comes after its four corners."""
    numbers = _listed(cell)
    score = as_float(numbers[4 if len(numbers) > 4 else 0])
    return score if score is not None and 0 <= score <= 1 else 0.0


def _listed(cell: str) -> list[str]:
    return cell.strip("[]").split(",") if cell.startswith("[") and len(cell) < _LONGEST_LIST else [cell]
