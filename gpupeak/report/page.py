"""What do people see of an `overview`? One HTML file: it opens offline, and nothing that came from files can run in it.

Jinja escapes text; the rows of all samples are JSON, which the program shows as text. A policy in the page admits that
one program and that one style sheet by their hashes, pictures as data: URIs, and nothing else.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import io
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gpupeak._version import __version__
from gpupeak.errors import writing
from gpupeak.peaks.sources import PEAK_SOURCES
from gpupeak.report.contents import OUTCOMES, Overview
from gpupeak.report.sheets import Sheet, heights
from gpupeak.storage.atomic import replace_file

_HERE = Path(__file__).parent


def refuse_unwritable(file: Path) -> None:
    """Raise WriteError if a page cannot be written, before the work that goes into it."""
    with writing(file):
        if file.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=file.parent):
            pass


def write_page(found: Sequence[Overview], file: Path) -> int:
    """Render and write the page, whole or not at all; return its size in bytes. Raises WriteError, and as `render`."""
    # A name may hold what is no character.
    with writing(file):
        replace_file(file, (part.encode(errors="backslashreplace") for part in render(found)))
        return file.stat().st_size


def render(found: Sequence[Overview]) -> Iterator[str]:
    """The page as text, in parts. Raises ImportError if Jinja or Pillow is not installed."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": "{:,}".format, "data": _data_uri}
    style, program = (_HERE.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    total: Counter[str] = Counter()
    for each in found:
        total.update(each.counts(), whole=max(len(each.rows), each.expected or 0))
        total.update(peaks=each.sources.total(), fallbacks=each.fallbacks.total(), sheets=len(each.sheets))
    return environment.get_template("page.html.jinja").generate(
        datasets=found,
        total=total,
        made=datetime.now(timezone.utc).strftime("%d %B %Y, %H:%M UTC"),
        version=__version__,
        style=style,
        program=program,
        style_hash=_hash(style),
        program_hash=_hash(program),
        rows=_json(_rows(found)),
        outcomes=OUTCOMES,
        sources=PEAK_SOURCES,
        points=_points,
    )


def _rows(found: Sequence[Overview]) -> dict[str, Any]:
    """All rows as columns: what repeats is told once, in `words`."""
    words: dict[str, int] = {"": 0}

    def word(text: str) -> int:
        return words.setdefault(text, len(words))

    rows = [row for each in found for row in each.rows]
    columns = {
        "name": [row.sample.name for row in rows],
        "dataset": [place for place, each in enumerate(found) for _ in each.rows],
        "outcome": [OUTCOMES.index(row.outcome) for row in rows],
        "source": [word(row.source) for row in rows],
        "remarks": [[word(remark) for remark in row.remarks] for row in rows],
        "fallback": [int(row.fallback) for row in rows],
        "clamped": [int(bool(row.clamp)) for row in rows],
        "warned": [int(bool(row.warnings)) for row in rows],
        "unusual": [int(bool(row.unusual)) for row in rows],
        "indices": [row.indices for row in rows],
        "peak": [-1 if row.peak is None else row.peak for row in rows],
        "sheet": [number if number in each.sheets else -1 for each in found for number in range(len(each.rows))],
    }
    return {"datasets": [each.dataset for each in found], "outcomes": OUTCOMES, "words": list(words), "rows": columns}


def _json(value: object) -> str:
    """JSON that HTML reads as text wherever it stands: all but ASCII is escaped, and so is what markup is made of."""
    return json.dumps(value, separators=(",", ":")).translate({ord(c): f"\\u{ord(c):04x}" for c in "<>&'"})


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _data_uri(picture: npt.NDArray[np.uint8]) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=80, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _points(sheet: Sheet) -> list[str]:
    """The curve's lines, as the points of SVG polylines in a drawing of 1000 by 100."""
    lines = heights(sheet.curve, sheet.frames) if sheet.curve else []
    return [" ".join(f"{1000 * x:.1f},{100 - 94 * y:.1f}" for x, y in line) for line in lines]
