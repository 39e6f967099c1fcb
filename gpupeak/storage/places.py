"""Where settings say that something lies, and looking there: a path of this machine or the URL of a store."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from gpupeak.errors import ConfigError
from gpupeak.storage import files, remote
from gpupeak.types import Place, Url

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
_SLASH_LOST = re.compile(r"(s3a?|gs|gcs|az|abfss?|hdfs|sftp|memory|file|https?):/")
_LOCAL = ("file", "local")


def is_url(text: object) -> bool:
    return _URL.match(str(text)) is not None


def place(text: Place | str) -> Place:
    """The place that a setting names: `~` expanded; `file://` is a path. Raises ConfigError."""
    if isinstance(text, Url):
        return text
    if isinstance(text, Path) and _SLASH_LOST.match(str(text)):
        raise ConfigError(f"{str(text)!r} was a URL: give it as text, a Path keeps one slash only")
    match = _URL.match(str(text))
    if match is None:
        return files.expanded(text)
    url, protocol, where = match[0], match[1].lower(), match[2]
    host, _, rest = where.partition("/")
    if protocol in _LOCAL:
        if host not in ("", "localhost") or not rest:
            raise ConfigError(f"{url!r} names no place on this machine, expected {protocol}:///PATH")
        return Path(f"/{rest}")
    user, _, machine = host.rpartition("@")
    if ":" in user:
        raise ConfigError(
            f"{protocol}://...@{machine}: a URL with a password ends up in logs and records; "
            f"give it in the environment or in fsspec's configuration ({protocol} in ~/.config/fsspec)"
        )
    where = (where.lstrip("/") if protocol == "memory" else where).rstrip("/")
    first, *others = where.split("/")
    if not (first or others) or any(part in ("", ".", "..") or "\0" in part for part in others):
        raise ConfigError(f"{url!r} names no place in a store, expected {protocol}://BUCKET/DIRECTORY")
    return Url(protocol, where)


def local(where: Place) -> Path:
    """The path of what lies on this machine. Raises ValueError if it lies in a store."""
    if isinstance(where, Url):
        raise ValueError(f"{where} is in a store and has not been fetched")
    return where


def scan(where: Place) -> AbstractContextManager[Iterator[Any]]:
    """`os.scandir`, also of a directory in a store: entries have a `name` and tell whether they are a file."""
    if not isinstance(where, Url):
        return os.scandir(where)
    there = remote.listing(where)
    if there is None:
        raise FileNotFoundError(errno.ENOENT, "no such directory", str(where))
    return nullcontext(iter(there.values()))


def names(where: Place) -> set[str]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), scan(where) as entries:
        return {entry.name for entry in entries}
    return set()


def cache_directory() -> Path:
    """`$XDG_CACHE_HOME/gpupeak`, by default in `~/.cache`; below the system's for a user without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "gpupeak")
    except RuntimeError:
        return Path(tempfile.gettempdir(), "gpupeak")


def is_directory(where: Place) -> bool:
    return remote.listing(where) is not None if isinstance(where, Url) else files.is_directory(where)


def is_there(where: Place) -> bool:
    if isinstance(where, Url):
        above = remote.listing(where.parent) if where.parent.where else None  # a bucket lies in no directory
        return where.name in (above or {}) or remote.listing(where) is not None
    return os.path.exists(where)  # noqa: PTH110 - never raises


def read(where: Place, limit: int) -> bytes:
    """All bytes of a file of at most `limit`. Raises FileNotFoundError, OSError as `files.open_bounded`."""
    return remote.read(where, limit) if isinstance(where, Url) else files.read_bounded(where, limit)
