"""The producers of files that tell of a peak, in the order in which they are tried. A new one is a reader and a row
here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from gpupeak.peaks.mer_factory import au_info, merr_data, per_frame
from gpupeak.peaks.rows import Row
from gpupeak.peaks.tables import Table, libreface, openface, openface3, py_feat, pyfaceau


@dataclass(frozen=True, slots=True)
class Source:
    """One kind of action-unit file.

    `places` are where the file of the sample `{0}` may lie in an action-unit directory; `base` is the number of the
    first frame. `read` gives the rows of a parsed `.json`, and raises `Unusable`; of a `.csv` it is the `Table`.
    """

    name: str
    places: tuple[str, ...]
    base: int
    read: Callable[[Any], Iterator[Row]] | Table


_ANALYSIS = ("{0}/{0}_au_analysis.json", "{0}_au_analysis.json")
_MERR_DATA = ("{0}/{0}_merr_data.json", "{0}_merr_data.json")
_CSV = ("{0}.csv", "{0}/{0}.csv", "face_analysis_{0}.csv", "{0}/face_analysis_{0}.csv")

SOURCES = (
    Source("au_info", _ANALYSIS, 0, au_info),
    Source("per_frame", _ANALYSIS, 1, per_frame),
    Source("merr_data", _MERR_DATA, 1, merr_data),
    Source("openface", _CSV, 1, openface),
    Source("pyfaceau", _CSV, 0, pyfaceau),
    Source("py_feat", _CSV, 0, py_feat),
    Source("libreface", _CSV, 0, libreface),
    Source("openface3", _CSV, 0, openface3),
)
PEAK_SOURCES = tuple(source.name for source in SOURCES)
