"""Which samples does a list name? .npz, .csv, .json or .txt -> list of names.

    .npz   the keys of a pickled dict (MER-UniBench's label files), or an array of strings
    .csv   the column `name` where there is one, else the first column of every row
    .json  a list of names, a list of objects with a `name`, or an object whose keys are the names
    .txt   one name a line; blank lines and lines that begin with # say nothing

Text is UTF-8. Names are returned as they stand, repeats included; whether one can be a file's name
is for the caller to judge.

Label files are downloaded, and unpickling one the usual way would run whatever it says. Here a
pickle is interpreted without building anything: what it asks of NumPy is noted down and never
called, and anything else it asks for is refused by name. Nothing is imported, no object of a
foreign class is made, and no length that a file claims is allocated.
"""

from __future__ import annotations

import ast
import csv
import io
import itertools
import json
import math
import pickletools
import re
import reprlib
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from gpupeak.errors import LabelError
from gpupeak.storage.files import open_bounded, read_bounded

__all__ = ["read_names"]

_LARGEST_TEXT = 256 << 20
# A pickled dict of a million names with their labels takes 60 MB and ten seconds.
_LARGEST_ARRAY = 64 << 20
_LONGEST_STRING = 64 << 10
# An .npz may hold other arrays beside the names; they are not read.
_LARGEST_ARCHIVE = 16 << 30
_LARGEST_DIRECTORY = 1 << 20
_MOST_NAMES = 10_000_000
_MOST_VALUES = 2 * _MOST_NAMES  # of a .json
_LONGEST_LINE = 1 << 20  # of a .csv


def read_names(file: Path, key: str | None = None) -> list[str]:
    """Read the sample names that `file` lists.

    Args:
        file: a list in one of the forms above, told apart by its extension.
        key: where in the file the names are: the array of an .npz (needed where it has several),
            the column of a .csv, the entry of a .json object. A .txt has no keys.

    Raises:
        LabelError: the file is missing, unreadable, damaged, not of that form, lacks the key (the
            error names those it has), or asks for something that a list of names does not need.
    """
    reader = _READERS.get(file.suffix.lower())
    if reader is None:
        raise LabelError(f"{file}: expected a list that ends in {', '.join(_READERS)}")
    try:
        return reader(file, key)
    except FileNotFoundError as error:
        raise LabelError(f"{file}: no such file") from error
    except OSError as error:
        raise LabelError(f"{file}: {error.strerror or error}") from error
    except _Unlike as error:
        raise LabelError(f"{file}: {' '.join(str(error).split())}") from error


class _Unlike(Exception):
    """A file is not of the documented form; says how."""


def _from_txt(file: Path, key: str | None) -> list[str]:
    if key is not None:
        raise _Unlike(f"a .txt list has no key {key!r}")
    lines = (line.strip() for line in io.StringIO(_text(file), newline=None))
    return _bounded(line for line in lines if line and not line.startswith("#"))


def _from_csv(file: Path, key: str | None) -> list[str]:
    rows = csv.reader(_lines(_text(file)), skipinitialspace=True)
    try:
        first = next((row for row in rows if row), [])
        header = [cell.strip().casefold() for cell in first]
        wanted = (key or "name").casefold()
        table: Iterable[list[str]] = rows
        if wanted in header:
            column = header.index(wanted)
        elif key is None:
            column, table = 0, itertools.chain([first], rows)
        else:
            raise _Unlike(f"no column {key!r}, only {_listed(header)}")
        cells = (row[column].strip() for row in table if column < len(row))
        return _bounded(cell for cell in cells if cell)
    except csv.Error as error:
        raise _Unlike(f"line {rows.line_num}: {error}") from error


def _from_json(file: Path, key: str | None) -> list[str]:
    text = _text(file)
    if sum(map(text.count, ",[{")) > _MOST_VALUES:  # read, the shortest takes thirty times its size
        raise _Unlike(f"more than {_MOST_VALUES:,} values")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _Unlike(str(error)) from error
    if key is not None:
        if not isinstance(document, dict) or key not in document:
            raise _Unlike(f"no key {key!r}, only {_listed(document if isinstance(document, dict) else ())}")
        document = document[key]
    if not isinstance(document, (dict, list)):
        raise _Unlike(f"{reprlib.repr(document)} found where names belong")
    return _strings(entry.get("name") if isinstance(entry, dict) else entry for entry in document)


def _from_npz(file: Path, key: str | None) -> list[str]:
    with open_bounded(file, _LARGEST_ARCHIVE) as stream:
        try:
            bounded = _Bounded(stream)
            archive = zipfile.ZipFile(bounded)
            bounded.most = None
            members = {name.removesuffix(".npy"): name for name in archive.namelist() if name.endswith(".npy")}
            if key is None and len(members) == 1:
                (key,) = members
            if key is None or key not in members:
                missing = "several arrays and no key to say which" if key is None else f"no key {key!r}"
                raise _Unlike(f"{missing}, there is {_listed(members)}")
            with archive.open(members[key]) as member:
                data = member.read(_LARGEST_ARRAY + 1)
            if len(data) > _LARGEST_ARRAY:
                raise _Unlike(f"{key} is larger than {_LARGEST_ARRAY:,} bytes")
            return _strings(_array(data))
        except (_Unlike, OSError):
            raise
        except Exception as error:  # damage can raise anything, zlib.error, KeyError and RecursionError among it
            raise _Unlike(f"damaged .npz: {type(error).__name__}: {error}") from error


class _Bounded:
    """A file of which no more than `most` bytes are read at once: a .zip says itself how long its directory is."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.most: int | None = _LARGEST_DIRECTORY
        self._stream = stream
        self.seek, self.tell, self.seekable = stream.seek, stream.tell, stream.seekable

    def read(self, size: int = -1) -> bytes:
        if self.most is not None and size > self.most:
            raise _Unlike(f"a directory of {size:,} bytes, expected at most {self.most:,}")
        return self._stream.read(size)


def _array(data: bytes) -> Iterable[object]:
    """What a .npy file holds: strings, or the entries of a pickled container."""
    start, width = (12, "<I") if data[6] > 1 else (10, "<H")
    (length,) = struct.unpack_from(width, data, 8)
    if not data.startswith(b"\x93NUMPY") or length > 10_000:
        raise ValueError("no .npy header")
    header = ast.literal_eval(data[start : start + length].decode("utf-8"))
    dtype, body = str(header["descr"]), data[start + length :]
    if dtype == "|O":
        return _contents(_interpreted(body))
    if not re.fullmatch(r"[<>|][US][1-9]\d{0,8}", dtype):
        raise _Unlike(f"an array of {dtype[:40]} found where names belong")
    size = int(dtype[2:]) * (4 if dtype[1] == "U" else 1)
    if math.prod(header["shape"]) * size != len(body):
        raise ValueError(f"{len(body):,} bytes for an array {dtype} of {reprlib.repr(header['shape'])}")
    return (_decoded(dtype, body[i : i + size]) for i in range(0, len(body), size))


def _contents(pickled: object) -> Iterable[object]:
    """The entries of a pickled array, or of the one container in an array of no dimension."""
    match pickled:
        case _Asked("array", _, (_, (), _, _, [(dict() | list() | tuple()) as held])):
            return held
        case _Asked("array", _, (_, _, _, _, list() as held)):
            return held
    raise _Unlike("the pickle holds neither a dict nor a list of names")


def _bounded(names: Iterable[str]) -> list[str]:
    taken = list(itertools.islice(names, _MOST_NAMES + 1))
    if len(taken) > _MOST_NAMES:
        raise _Unlike(f"more than {_MOST_NAMES:,} names")
    return taken


def _lines(text: str) -> Iterator[str]:
    for line in io.StringIO(text, newline=""):
        if len(line) > _LONGEST_LINE:
            raise _Unlike(f"a line of {len(line):,} characters, expected at most {_LONGEST_LINE:,}")
        yield line


def _strings(entries: Iterable[object]) -> list[str]:
    return _bounded(_string(number, entry) for number, entry in enumerate(entries))


def _string(number: int, entry: object) -> str:
    match entry:
        case str():
            return entry
        case bytes():
            return entry.decode("utf-8")
        case _Asked("scalar", (_Asked("dtype", (str() as kind, *_), (_, str() as order, *_)), raw)):
            return _decoded(order + kind, _raw(raw))
    raise _Unlike(f"entry {number} is {reprlib.repr(entry)}, expected a string")


def _decoded(dtype: str, raw: bytes) -> str:
    """One string of NumPy's: UTF-32 (U) or bytes (S), padded with NULs."""
    if len(raw) > _LONGEST_STRING:
        raise _Unlike(f"a string of {len(raw):,} bytes found where a name belongs")
    if dtype[1] == "S":
        return raw.rstrip(b"\0").decode("utf-8")
    if dtype[1] != "U":
        raise _Unlike(f"a number of type {dtype} found where a name belongs")
    return raw.decode("utf-32-be" if dtype[0] == ">" else "utf-32-le").rstrip("\0")


def _raw(value: object) -> bytes:
    match value:
        case bytes():
            return value
        case _Asked("bytes", (str() as text, *_)):
            return text.encode("latin-1")
    raise _Unlike("a string of NumPy's without its characters")


# Interpreting a pickle: the stack machine that `pickletools` documents, with data as its only values.


@dataclass(eq=False, slots=True)
class _Asked:
    """Something that a pickle asks for by name: noted down, never built. Hashed by identity."""

    what: str
    arguments: object = ()
    state: object = None

    def __repr__(self) -> str:
        return f"<{self.what}>"


_ADMITTED = {
    "numpy.core.multiarray._reconstruct": "array",
    "numpy._core.multiarray._reconstruct": "array",
    "numpy.core.multiarray.scalar": "scalar",
    "numpy._core.multiarray.scalar": "scalar",
    "numpy.core.numeric._frombuffer": "buffer",
    "numpy._core.numeric._frombuffer": "buffer",
    "numpy.ndarray": "ndarray",
    "numpy.dtype": "dtype",
    "collections.OrderedDict": "dict",
    "builtins.set": "set",
    "__builtin__.set": "set",
    "builtins.frozenset": "set",
    "__builtin__.frozenset": "set",
    # Protocol 2 has no bytes of its own.
    "_codecs.encode": "bytes",
    "__builtin__.bytes": "bytes",
}
"""Everything that a list of names may ask for by name."""

_LITERALS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"} | {
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_SHORT_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _interpreted(pickled: bytes) -> object:
    """What a pickle describes, in dicts, lists (sets too), tuples, strings, numbers and `_Asked`.

    No value is copied, so the result is never larger than a small multiple of the pickle.
    """
    stack: list[Any] = []
    below: list[list[Any]] = []
    memo: dict[Any, object] = {}
    argument: Any
    for opcode, argument, _ in pickletools.genops(pickled):
        name = opcode.name
        if name in _LITERALS:
            stack.append(argument)
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[argument])
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name in ("EMPTY_LIST", "EMPTY_SET"):
            stack.append([])
        elif name in _SHORT_TUPLES:
            rest = len(stack) - _SHORT_TUPLES[name]
            stack[rest:] = [tuple(stack[rest:])]
        elif name == "MARK":
            below.append(stack)
            stack = []
        elif name in ("SETITEMS", "APPENDS", "ADDITEMS"):
            items, stack = stack, below.pop()
            _extend(stack[-1], items)
        elif name in ("SETITEM", "APPEND"):
            items = [stack.pop()] if name == "APPEND" else [stack.pop(-2), stack.pop()]
            _extend(stack[-1], items)
        elif name in ("TUPLE", "LIST", "FROZENSET", "DICT"):
            items, stack = stack, below.pop()
            stack.append({} if name == "DICT" else tuple(items) if name == "TUPLE" else items)
            if name == "DICT":
                _extend(stack[-1], items)
        elif name in ("STRING", "BINSTRING", "SHORT_BINSTRING"):  # Python 2's str
            stack.append(argument.encode("latin-1"))
        elif name == "GLOBAL":
            stack.append(_asked(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            stack.append(_asked(stack.pop(-2), stack.pop()))
        elif name == "REDUCE":
            arguments, asked = stack.pop(), stack.pop()
            empty = asked.what == "dict" and not arguments
            stack.append({} if empty else _Asked(asked.what, arguments))
        elif name == "BUILD" and isinstance(stack[-2], _Asked):
            state = stack.pop()
            stack[-1].state = state
        elif name == "STOP":
            return stack.pop()
        elif name not in ("PROTO", "FRAME"):
            raise _Unlike(f"its pickle uses {name}, which a list of names has no use for")
    raise ValueError("a pickle without an end")


def _extend(container: object, items: list[Any]) -> None:
    if isinstance(container, list):
        container.extend(items)
    elif isinstance(container, dict):
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Nothing whose hash takes long: a number of megabytes, a tuple that holds a tuple twice, and so on down.
            if not isinstance(key, (str, bytes, float, _Asked)) and not (isinstance(key, int) and abs(key) < 2**63):
                raise _Unlike(f"a key is {reprlib.repr(key)}, expected a string")
            container[key] = value
    else:
        raise TypeError(f"{reprlib.repr(container)} is no container")


def _asked(module: object, name: object) -> _Asked:
    if not isinstance(module, str) or not isinstance(name, str):
        raise TypeError("a global without a name")
    wanted = f"{module}.{name}"
    if wanted not in _ADMITTED:
        raise _Unlike(f"its pickle asks for {wanted[:200]!r}, which a list of names has no use for; nothing was run")
    return _Asked(_ADMITTED[wanted])


def _text(file: Path) -> str:
    try:
        return read_bounded(file, _LARGEST_TEXT).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _Unlike(f"not UTF-8 at byte {error.start}") from error


def _listed(keys: Iterable[object]) -> str:
    shown = [reprlib.repr(key) for key in keys]
    return ", ".join(shown[:20] + ["..."] * (len(shown) > 20)) or "none"


_READERS: dict[str, Callable[[Path, str | None], list[str]]] = {
    ".npz": _from_npz,
    ".csv": _from_csv,
    ".json": _from_json,
    ".txt": _from_txt,
}
