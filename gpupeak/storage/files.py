"""How are files read that strangers made, and which names may they have? Only regular ones, and only up to a size."""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TextIO

from gpupeak.errors import mistaken

_LONGEST_LINE = 1 << 20
_LONGEST_NAME = 255  # bytes, on every common file system
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def open_descriptor(file: str | Path, limit: int = sys.maxsize) -> tuple[int, int]:
    """A descriptor of a regular file of at most `limit` bytes, and its size; no pipe is waited for. Raises
    FileNotFoundError, OSError."""
    try:  # O_NONBLOCK: opening a pipe would otherwise wait for somebody to write to it
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:
        raise FileNotFoundError(f"{str(file)!r} cannot be a path: {error}") from error
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ENAMETOOLONG):
            raise FileNotFoundError(*error.args, str(file)) from error
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("not a regular file")
        if status.st_size > limit:
            raise OSError(f"{status.st_size:,} bytes, expected at most {limit:,}")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, status.st_size


def open_bounded(file: Path | str, limit: int) -> BinaryIO:
    """Open a file as `open_descriptor` does."""
    return os.fdopen(open_descriptor(file, limit)[0], "rb")


def read_bounded(file: Path, limit: int, values: int | None = None) -> bytes:
    """All bytes of a regular file of at most `limit` bytes. Raises as `open_bounded` does, OSError for what a download
    left instead of the file, and ValueError for JSON of more `values`: each may take hundreds of bytes of memory."""
    descriptor, size = open_descriptor(file, limit)
    with os.fdopen(descriptor, "rb") as stream:
        content = stream.read(size)  # a buffer of `limit` would cost more than the read
    if told := mistaken(content):
        raise OSError(told)
    if values is not None and len(content) > values and sum(map(content.count, b",[{")) > values:
        raise ValueError(f"more than {values:,} values")
    return content


def bounded_lines(text: TextIO, most: int) -> Iterator[str]:
    """The lines of a text. Raises ValueError for one of more than a million characters, and after `most` lines."""
    left = most
    while line := text.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            raise ValueError(f"a line of more than {_LONGEST_LINE:,} characters")
        if not left:
            raise ValueError(f"more than {most:,} lines")
        left -= 1
        yield line


def name_fault(name: str) -> str | None:
    """Why the features of a sample called `name` cannot be a file in their directory; None if they can."""
    if name in ("", ".", ".."):
        return f"the name is {name!r}"
    if "/" in name or "\\" in name:
        return "the name holds a path separator"
    if _UNPRINTABLE.search(name):
        return "the name holds a control character"
    try:
        size = len(f"{name}.npy".encode())
    except UnicodeEncodeError:
        return "the name is not valid Unicode"
    if size > _LONGEST_NAME:
        return f"the name takes {size} bytes with .npy, a file name at most {_LONGEST_NAME}"
    return None


def is_directory(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 - never raises


def is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113 - never raises


def expanded(path: str | Path) -> Path:
    """`path` with ~ and ~user expanded; as it stands where there is no such user."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - never raises
