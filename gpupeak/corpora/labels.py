"""Which samples does a list name? .npz, .csv, .json or .txt -> list of names.

    .npz   the keys of a pickled dict (MER-UniBench's label files), or an array of strings
    .csv   the column `name` where there is one, else the first column of every row; cells end at , or ; or a tab
    .json  a list of names, a list of objects with a `name`, or an object whose keys are the names
    .txt   one name a line; blank lines and lines that begin with # say nothing

Label files are downloaded: what a pickle asks of NumPy is noted down and never called, all else is refused by name.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import math
import re
import reprlib
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from gpupeak.errors import LabelError
from gpupeak.storage.files import bounded_lines, read_bounded
from gpupeak.storage.pickles import LARGEST, Asked, noted

_LARGEST_FILE = 64 << 20
_LONGEST_NAME = 1 << 10  # characters
_HEADING = re.compile(r"((video|clip|sample|file|utterance|utt|segment)[_ ]?)?(id|name|path)s?")
_MOST_NAMES = 1_000_000
_MOST_VALUES = 4_000_000  # of a .json, which take up to 300 bytes each


def read_names(file: Path, key: str | None = None) -> list[str]:
    """Read the sample names that `file` lists, as they stand, repeats included.

    `key` is the array of an .npz (needed where it has several), the column of a .csv, the entry of a .json object.
    Raises LabelError if the file is missing, damaged or not of the form of its extension, or lacks the key.
    """
    reader = _READERS.get(file.suffix.lower())
    if reader is None:
        raise LabelError(f"{file}: expected a list that ends in {', '.join(_READERS)}")
    try:
        return reader(file, key)
    except OSError as error:
        raise LabelError(f"{file}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise LabelError(f"{file}: {' '.join(str(error).split())}") from error


def _from_txt(file: Path, key: str | None) -> list[str]:
    if key is not None:
        raise ValueError(f"a .txt list has no key {key!r}")
    lines = (line.strip() for line in io.StringIO(_text(file), newline=None))
    return _bounded(line for line in lines if line and not line.startswith("#"))


def _from_csv(file: Path, key: str | None) -> list[str]:
    text = _text(file)
    start = text.lstrip().partition("\n")[0]
    between = next((mark for mark in ",;\t" if mark in start), ",")
    lines = bounded_lines(io.StringIO(text, newline=""), _MOST_VALUES)
    rows = csv.reader(lines, skipinitialspace=True, delimiter=between)
    try:
        first = next(filter(None, rows), [""])
        header = [cell.strip().casefold() for cell in first]
        table: Iterable[list[str]] = itertools.chain([first], rows)
        column = 0
        if (wanted := (key or "name").casefold()) in header:
            column, table = header.index(wanted), rows
        elif key is not None or _HEADING.fullmatch(header[0]):
            way_out = "" if key else ": call the one with the videos' names so"
            raise ValueError(f"no column {key or 'name'!r}, only {_listed(header)}{way_out}")
        cells = (row[column].strip() for row in table if column < len(row))
        return _bounded(cell for cell in cells if cell)
    except csv.Error as error:
        raise ValueError(f"line {rows.line_num}: {error}") from error


def _from_json(file: Path, key: str | None) -> list[str]:
    document = json.loads(_text(file, _MOST_VALUES))
    if key is not None:
        if not isinstance(document, dict) or key not in document:
            raise ValueError(f"no key {key!r}, only {_listed(document if isinstance(document, dict) else ())}")
        document = document[key]
    if not isinstance(document, (dict, list)):
        raise ValueError(f"{reprlib.repr(document)} found where names belong")
    return _bounded(_strings(entry.get("name") if isinstance(entry, dict) else entry for entry in document))


def _from_npz(file: Path, key: str | None) -> list[str]:
    stream = io.BytesIO(read_bounded(file, _LARGEST_FILE))
    try:
        archive = zipfile.ZipFile(stream)
        members = {name.removesuffix(".npy"): name for name in archive.namelist() if name.endswith(".npy")}
        if key is None and len(members) == 1:
            (key,) = members
        if key is None or key not in members:
            missing = "several arrays and no key to say which" if key is None else f"no key {key!r}"
            raise ValueError(f"{missing}, there is {_listed(members)}")
        with archive.open(members[key]) as member:
            data = member.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise ValueError(f"{key} is larger than {LARGEST:,} bytes")
        return _bounded(_strings(_array(data)))
    except ValueError:
        raise
    except Exception as error:  # damage can raise anything, zlib.error, KeyError and RecursionError among it
        raise ValueError(f"damaged .npz: {type(error).__name__}: {error}") from error


def _array(data: bytes) -> Iterable[object]:
    stream = io.BytesIO(data)
    npy = np.lib.format
    read_header = npy.read_array_header_1_0 if npy.read_magic(stream) == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    body = data[stream.tell() :]
    if dtype.hasobject:
        return _contents(noted(io.BytesIO(body), _admitted))
    if dtype.kind not in "US":
        raise ValueError(f"an array of {dtype.str} found where names belong")
    if math.prod(shape) * dtype.itemsize != len(body):
        raise ValueError(f"{len(body):,} bytes for an array {dtype.str} of {reprlib.repr(shape)}")
    return np.frombuffer(body, dtype).tolist()  # type: ignore[no-any-return]


def _contents(pickled: object) -> Iterable[object]:
    """The entries of a pickled array, or of the one container in an array of no dimension."""
    match pickled:
        case Asked("array", _, (_, (), _, _, [(dict() | list() | tuple()) as held])):
            return held
        case Asked("array", _, (_, _, _, _, list() as held)):
            return held
    raise ValueError("the pickle holds neither a dict nor a list of names")


def _bounded(names: Iterable[str]) -> list[str]:
    taken = list(itertools.islice(names, _MOST_NAMES + 1))
    if len(longest := max(taken, key=len, default="")) > _LONGEST_NAME:
        raise ValueError(f"{reprlib.repr(longest)} of {len(longest):,} characters found where a name belongs")
    if len(taken) > _MOST_NAMES:
        raise ValueError(f"more than {_MOST_NAMES:,} names")
    return taken


def _strings(entries: Iterable[object]) -> Iterator[str]:
    for number, entry in enumerate(entries):
        match entry:
            case str():
                yield entry
            case bytes():
                yield entry.decode("utf-8")
            case Asked("scalar", (Asked("dtype", (str() as kind, *_), (_, str() as order, *_)), raw)) if (
                encoding := _ENCODINGS.get(order + kind[:1])
            ):
                match raw:
                    case Asked("bytes", (str() as text, *_)):
                        raw = text.encode("latin-1")
                if not isinstance(raw, bytes):
                    raise ValueError("a string of NumPy's without its characters")
                if len(raw) > 4 * _LONGEST_NAME:  # before it is decoded: it may be that of any number of entries
                    raise ValueError(f"a string of {len(raw):,} bytes found where a name belongs")
                yield raw.decode(encoding).rstrip("\0")
            case _:
                raise ValueError(f"entry {number} is {reprlib.repr(entry)}, expected a string")


_ENCODINGS = {"<U": "utf-32-le", ">U": "utf-32-be", "|S": "utf-8"}  # of NumPy's strings, padded with NULs
_ADMITTED = {
    "numpy.core.multiarray._reconstruct": "array",
    "numpy.core.multiarray.scalar": "scalar",
    "numpy.core.numeric._frombuffer": "buffer",
    "numpy.ndarray": "ndarray",
    "numpy.dtype": "dtype",
    "collections.OrderedDict": "dict",
    "builtins.set": "set",
    "builtins.frozenset": "set",
    "_codecs.encode": "bytes",  # protocol 2 has no bytes of its own
    "builtins.bytes": "bytes",
}


def _admitted(module: str, name: str) -> str:
    wanted = f"{module}.{name}"
    what = _ADMITTED.get(wanted.replace("numpy._core.", "numpy.core.").replace("__builtin__.", "builtins."))
    if what is None:
        raise ValueError(f"its pickle asks for {wanted[:200]!r}, which no list of names needs; nothing was run")
    return what


def _text(file: Path, values: int | None = None) -> str:
    data = read_bounded(file, _LARGEST_FILE, values)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        with contextlib.suppress(UnicodeDecodeError):
            return data.decode("gb18030")  # of Chinese spreadsheets
        raise ValueError(f"not UTF-8 at byte {error.start}, nor GB 18030: save it as UTF-8") from error


def _listed(keys: Iterable[object]) -> str:
    shown = [reprlib.repr(key) for key in keys]
    return ", ".join(shown[:20] + ["..."] * (len(shown) > 20)) or "none"


_READERS: dict[str, Callable[[Path, str | None], list[str]]] = {
    ".npz": _from_npz,
    ".csv": _from_csv,
    ".json": _from_json,
    ".txt": _from_txt,
}
