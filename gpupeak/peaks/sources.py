"""Which files can a peak be read from? The table of their producers, in the order in which they are tried.

A new producer is a module with a reader, and a row here. `--peak-source` then takes its name, and its files are found,
fetched and counted like those of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from gpupeak.peaks.mer_factory import au_info, merr_data, per_frame
from gpupeak.peaks.openface import openface
from gpupeak.peaks.rows import Row


@dataclass(frozen=True, slots=True)
class Source:
    """One kind of action-unit file.

    Args:
        name: what `--peak-source` and the records call it.
        places: where the file of the sample `{0}` lies in an action-unit directory, the first place first.
        base: the number of the first frame.
        read: the rows in what such a file holds: of a `.json` the parsed document, of a `.csv` an iterator of
            its rows of cells, header included. Raises `Unusable`.
    """

    name: str
    places: tuple[str, ...]
    base: int
    read: Callable[[Any], Iterator[Row]]


_ANALYSIS = ("{0}/{0}_au_analysis.json", "{0}_au_analysis.json")
_MERR_DATA = ("{0}/{0}_merr_data.json", "{0}_merr_data.json")

SOURCES = (
    Source("au_info", _ANALYSIS, 0, au_info),
    Source("per_frame", _ANALYSIS, 1, per_frame),
    Source("merr_data", _MERR_DATA, 1, merr_data),
    Source("openface", ("{0}.csv", "{0}/{0}.csv"), 1, openface),
)
PEAK_SOURCES = tuple(source.name for source in SOURCES)
"""Where a peak can come from."""
