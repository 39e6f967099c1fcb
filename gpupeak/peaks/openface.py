"""The table of OpenFace 2: one row a frame, counted from 1, with the intensities of 17 action units."""

from __future__ import annotations

from collections.abc import Iterator

from gpupeak.peaks.rows import Row, Unusable, as_float, as_whole, total_intensity

_UNITS = tuple(f"AU{unit:02}_r" for unit in (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 45))


def openface(table: Iterator[list[str]]) -> Iterator[Row]:
    """Every frame with a face. Its header has a space after every comma."""
    header = [cell.strip() for cell in next(table, [])]
    units = [header.index(unit) for unit in _UNITS if unit in header]
    if "frame" not in header or not units:
        raise Unusable("expected the columns frame and AU01_r to AU45_r of OpenFace")
    frame_column = header.index("frame")
    face_column = header.index("success") if "success" in header else None
    columns = max(frame_column, face_column or 0, *units) + 1
    for row in table:
        if len(row) < columns or (face_column is not None and as_float(row[face_column]) != 1):
            continue
        if (frame := as_whole(as_float(row[frame_column]), least=1)) is not None:
            yield Row(frame, total_intensity([as_float(row[unit]) for unit in units]))
