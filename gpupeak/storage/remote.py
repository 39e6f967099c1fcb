"""How are files in a store reached by URL, and where on this machine do they belong? Through fsspec, imported for that.

A file in a store goes by its *mirror path*: `<base>/gpupeak-urls/s3/bucket/key` stands for `s3://bucket/key`,
whatever the base. So everything else keeps to paths, in every process and on every machine, and a path still says
what it stands for. Nothing is at a mirror path until it is brought there: `fetch.at_hand`, `spool.pull`.

What passes (a 503, a dropped connection, a timeout) is tried again, with growing pauses that differ at random,
so that many readers do not come back at once; what does not pass (no such file, no permission) is told at once.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import re
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from gpupeak.errors import ConfigError, RunError, WriteError
from gpupeak.storage.files import is_directory as is_local_directory

__all__ = [
    "Entry",
    "StoreError",
    "base_of",
    "fetch",
    "forget",
    "is_directory",
    "is_there",
    "is_url",
    "listing",
    "mirror_path",
    "names",
    "put",
    "put_file",
    "read",
    "remove",
    "scan",
    "shown",
    "tree",
    "url_of",
    "write_error",
]

_T = TypeVar("_T")

_MARK = "gpupeak-urls"
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
_MIRRORED = re.compile(rf"(?:/[^\s'\"(),;]*)?/{_MARK}/([a-z][a-z0-9+.-]*)/(-(?=/))?")
_LOCAL = ("file", "local")
_NO_HOST = "-"  # hdfs:///path, where the host is the configured one

_ATTEMPTS = 6
_FIRST_PAUSE = 0.3  # seconds; each one after it is twice as long: 9 s in all
_CONNECT_SECONDS, _READ_SECONDS = 10, 30
_CONNECTIONS = 48  # as many fetches and puts as there may be at once, and some listings
_CHUNK = 16 << 20  # bytes a request; what is cut off is fetched again from the last of these
_WHOLE_PUTS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "tos", "memory"}
"""Stores in which a file is there whole or not at all. Elsewhere it is put under another name and renamed."""
_NEEDS = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
_CHANGED = ("LastModified", "mtime", "last_modified", "modified", "updated", "created")
"""What the stores call the time of a file's last change."""
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
_FINAL_NUMBERS = {errno.EINVAL, errno.EPERM, errno.ENOSYS, errno.ENAMETOOLONG, errno.EMSGSIZE, errno.ENOSPC}
_CREDENTIALS = re.compile("Credential|Authenti|Unauthori|Forbidden|Profile|TokenRetrieval")


class StoreError(Exception):
    """A store could not do what was asked for; `reason` is one line without the URL.

    `missing`: it is not there. `final`: asking again would not help.
    """

    def __init__(self, url: str, reason: str, *, missing: bool = False, final: bool = False) -> None:
        super().__init__(f"{url}: {reason}")
        self.url, self.reason, self.missing, self.final = url, reason, missing, final


# URLs and mirror paths


def is_url(place: object) -> bool:
    """Whether a setting is a URL rather than a path."""
    return _URL.match(str(place)) is not None


def mirror_path(base: Path, url: str) -> Path:
    """Where the file or directory at `url` belongs below `base`; of `file://`, the very path.

    Raises:
        ConfigError: it is no URL, holds a password, or names no place, or another machine's.
    """
    match = _URL.match(url)
    if match is None:
        raise ConfigError(f"{url!r} is no URL")
    protocol, place = match[1].lower(), match[2]
    if protocol in _LOCAL:
        host, _, rest = place.partition("/")
        if host in (".", "..", "~"):
            return Path(place).expanduser()
        if host not in ("", "localhost") or not rest:
            told = f"names the machine {host}" if host else "names no place"
            raise ConfigError(f"{url!r} {told}, expected {protocol}:///PATH")
        return Path(f"/{rest}")
    host, _, rest = place.partition("/")
    user, at, host = host.rpartition("@")
    if ":" in user:
        raise ConfigError(
            f"{protocol}://...@{host}: a URL with a password ends up in logs and records; "
            f"give it in the environment or in fsspec's configuration ({protocol} in ~/.config/fsspec)"
        )
    place = f"{user}{at}{host}/{rest}"
    if protocol == "memory":
        place = place.lstrip("/")
    first, *others = place.rstrip("/").split("/")
    if (not first and not others) or any(part in ("", ".", "..") or "\0" in part for part in others):
        raise ConfigError(f"{url!r} names no place in a store, expected {protocol}://BUCKET/DIRECTORY")
    return base.absolute().joinpath(_MARK, protocol, first or _NO_HOST, *others)


def url_of(path: Path | str) -> str | None:
    """The URL that a mirror path stands for; None of any other path."""
    _, mark, place = str(path).rpartition(f"/{_MARK}/")
    protocol, slash, rest = place.partition("/")
    if not (mark and slash):
        return None
    return f"{protocol}://{'' if rest.startswith(f'{_NO_HOST}/') else rest[:1]}{rest[1:]}"


def base_of(path: Path) -> Path:
    """The directory below which all mirror paths of the same base as `path` lie."""
    return Path(str(path).rpartition(f"/{_MARK}/")[0], _MARK)


def shown(text: object) -> str:
    """`text` with URLs in the place of mirror paths: what people are told, and what is recorded."""
    line = str(text)
    return _MIRRORED.sub(r"\1://", line) if _MARK in line else line


# Looking


@dataclass(frozen=True, slots=True)
class Entry:
    """What a listing tells of one name: `size` in bytes, None of a directory; `changed` in ns since 1970, or 0."""

    name: str
    size: int | None
    changed: int

    def is_file(self) -> bool:
        return self.size is not None


def listing(path: Path) -> Mapping[str, Entry] | None:
    """What lies in the directory that a mirror path stands for, by name; None if there is no such directory.

    A store is asked once, until `forget`.

    Raises:
        RunError: the store cannot be reached or refuses; what was tried is told.
    """
    url = url_of(path)
    if url is None:
        raise ValueError(f"{path} is no mirror path")
    return _listing(url)


def tree(path: Path, wanted: Collection[str] | None = None) -> Mapping[str, Entry]:
    """The files in that directory, and in those of its directories that are called by a name in `wanted`, or in all.

    By their names relative to it, `name` or `directory/name`. What is in the directories is listed at once.

    Raises:
        RunError: as `listing`.
    """
    top = listing(path) or {}
    found = {name: entry for name, entry in top.items() if entry.is_file()}
    if any(not entry.is_file() and (wanted is None or name in wanted) for name, entry in top.items()):
        below = _below(url_of(path) or "")
        found.update({place: e for place, e in below.items() if wanted is None or place.partition("/")[0] in wanted})
    return found


def forget() -> None:
    """Ask the stores again from now on."""
    _listing.cache_clear()
    _below.cache_clear()


def names(path: Path) -> set[str]:
    """The names in a directory, a mirror path or not; none where it is not there."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), scan(path) as entries:
        return {entry.name for entry in entries}
    return set()


def scan(path: Path) -> AbstractContextManager[Iterator[Any]]:
    """`os.scandir`, also of a directory in a store: entries have a `name` and tell whether they are a file."""
    if url_of(path) is None:
        return os.scandir(path)
    there = listing(path)
    if there is None:
        raise FileNotFoundError(errno.ENOENT, "no such directory", shown(path))
    return nullcontext(iter(there.values()))


def is_directory(path: Path) -> bool:
    """Whether a directory is there, a mirror path or not."""
    return is_local_directory(path) if url_of(path) is None else listing(path) is not None


def is_there(path: Path) -> bool:
    """Whether a file or directory is there, a mirror path or not."""
    if url_of(path) is not None:
        above = url_of(path.parent) and listing(path.parent)  # a bucket lies in no directory
        return path.name in (above or {}) or listing(path) is not None
    try:
        path.stat()
    except (OSError, ValueError):
        return False
    return True


@lru_cache(maxsize=256)
def _listing(url: str) -> Mapping[str, Entry] | None:
    filesystem, place = _reach(url)
    try:
        infos = _tried(url, lambda: filesystem.ls(place, detail=True))
    except StoreError as error:
        if error.missing:
            return None
        raise RunError(f"{url}: cannot be listed: {error.reason}") from error
    finally:
        filesystem.invalidate_cache()  # it would keep a kilobyte a file
    place = place.rstrip("/")
    if len(infos) == 1 and infos[0]["name"].rstrip("/") == place and infos[0]["type"] == "file":
        return None if infos[0]["name"] == place else {}
    entries = (_entry(info, place) for info in infos)
    return {entry.name: entry for entry in entries if entry is not None and "/" not in entry.name}


@lru_cache(maxsize=32)
def _below(url: str) -> Mapping[str, Entry]:
    """The files two levels down, by `directory/name`."""
    filesystem, place = _reach(url)
    try:
        infos = _tried(url, lambda: filesystem.find(place, detail=True))
    except StoreError as error:
        raise RunError(f"{url}: cannot be listed: {error.reason}") from error
    finally:
        filesystem.invalidate_cache()
    entries = (_entry(info, place.rstrip("/")) for info in infos.values())
    return {entry.name: entry for entry in entries if entry is not None and entry.name.count("/") == 1}


def _entry(info: Mapping[str, Any], place: str) -> Entry | None:
    """None of the marker that some tools leave for a directory, and of a name that could lead out of it."""
    name = info["name"].rstrip("/")[len(place) + 1 :]
    if any(part in ("", ".", "..") or "\0" in part for part in name.split("/")):
        return None
    return Entry(name, None if info["type"] == "directory" else int(info["size"] or 0), _changed(info))


def _changed(info: Mapping[str, Any]) -> int:
    value = next((info[key] for key in _CHANGED if info.get(key)), 0)
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = datetime.fromisoformat(value.replace("Z", "+00:00"))
    if isinstance(value, datetime):
        value = value.timestamp()
    return int(value * 1e6) * 1000 if isinstance(value, (int, float)) else 0


# Reading and writing


def fetch(path: Path, size: int, changed: int, descriptor: int) -> None:
    """Write the file that a mirror path stands for into an open one, all `size` bytes that it was listed with.

    Raises:
        StoreError: it could not be fetched, or is no longer what was listed.
        OSError: the open file cannot be written.
    """
    url = url_of(path) or ""
    filesystem, place = _reach(url)
    for start in range(0, size, _CHUNK):
        stop = min(start + _CHUNK, size)
        # One byte more than there should be: a file that has grown is noticed.
        wanted = stop + (stop == size)

        def chunk(start: int = start, stop: int = stop, wanted: int = wanted) -> bytes:
            data: bytes = filesystem.cat_file(place, start=start, end=wanted)
            if len(data) < stop - start:
                raise OSError(errno.EIO, f"{len(data)} bytes came, expected {stop - start}")
            return data

        data = memoryview(_tried(url, chunk))
        if len(data) > stop - start:
            raise StoreError(url, f"is larger than the {size:,} bytes it was listed with", final=True)
        while data:
            written = os.pwrite(descriptor, data, start)
            start, data = start + written, data[written:]
    if size > _CHUNK:
        now = _tried(url, lambda: filesystem.info(place))
        if (now["size"], _changed(now)) != (size, changed):
            raise StoreError(url, "changed while it was fetched", final=True)


def read(path: Path, limit: int) -> bytes:
    """The file of at most `limit` bytes that a mirror path stands for.

    Raises:
        StoreError: it could not be read, or is larger.
    """
    url = url_of(path) or ""
    filesystem, place = _reach(url)
    data: bytes = _tried(url, lambda: filesystem.cat_file(place, start=0, end=limit + 1))
    if len(data) > limit:
        raise StoreError(url, f"is larger than {limit:,} bytes", final=True)
    return data


def put(path: Path, data: bytes) -> None:
    """Put a file where a mirror path stands for: it is there whole, or not at all, and replaces one that was there.

    Raises:
        StoreError: it could not be put.
    """
    _put(path, lambda filesystem, place: filesystem.pipe_file(place, data))


def put_file(path: Path) -> None:
    """Put what lies at a mirror path where the path stands for; as `put`."""
    _put(path, lambda filesystem, place: filesystem.put_file(str(path), place))


def remove(path: Path) -> None:
    """Remove the file that a mirror path stands for; one that is not there is no error.

    Raises:
        StoreError: it could not be removed.
    """
    url = url_of(path) or ""
    filesystem, place = _reach(url)
    try:
        _tried(url, lambda: filesystem.rm_file(place))
    except StoreError as error:
        if not error.missing:
            raise


def _put(path: Path, write: Callable[[Any, str], object]) -> None:
    url = url_of(path) or ""
    filesystem, place = _reach(url)
    if url.partition(":")[0] in _WHOLE_PUTS:
        _tried(url, lambda: write(filesystem, place))
        return
    parent, _, name = place.rpartition("/")
    temporary = f"{parent}/.gpupeak-{uuid.uuid4().hex}-{name}.tmp"

    def put_and_rename() -> None:
        filesystem.makedirs(parent, exist_ok=True)
        try:
            write(filesystem, temporary)
            filesystem.mv(temporary, place)
        except BaseException:
            with contextlib.suppress(Exception):  # the first error is the one to tell
                filesystem.rm_file(temporary)
            raise

    _tried(url, put_and_rename)


def _tried(url: str, action: Callable[[], _T]) -> _T:
    for attempt in itertools.count(1):
        try:
            return action()
        except Exception as error:  # fsspec's backends raise what their own libraries do
            final = _is_final(error)
            if final or attempt == _ATTEMPTS:
                times = "" if attempt == 1 else f", {attempt} times"
                missing = isinstance(error, FileNotFoundError)
                raise StoreError(url, f"{_told(error)}{times}", missing=missing, final=final) from error
        time.sleep(random.uniform(0.5, 1) * _FIRST_PAUSE * 2 ** (attempt - 1))
    raise AssertionError


def _is_final(error: Exception) -> bool:
    if isinstance(error, OSError):
        return isinstance(error, _FINAL) or error.errno in _FINAL_NUMBERS
    if isinstance(error, (ValueError, TypeError, LookupError, AttributeError, ImportError, NotImplementedError)):
        return True
    return _CREDENTIALS.search(type(error).__name__) is not None


def _told(error: Exception) -> str:
    if isinstance(error, FileNotFoundError) and error.__cause__ is None:
        return "is not there"
    text = " ".join((getattr(error, "strerror", None) or str(error)).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}..."


# Stores


def _reach(url: str) -> tuple[Any, str]:
    """The file system that serves `url`, and what it calls that place.

    Raises:
        ConfigError: there is no such kind of store, or what it needs is not installed.
        RunError: it cannot be set up.
    """
    match = _URL.match(url)
    if match is None:
        raise ValueError(f"{url!r} is no URL")
    filesystem = _filesystem(match[1], match[2].partition("/")[0])
    place: str = filesystem._strip_protocol(url)
    return filesystem, place


@lru_cache(maxsize=32)
def _filesystem(protocol: str, host: str) -> Any:
    # One for all threads: fsspec itself would make one for each, and botocore takes a third of a second for that.
    url = f"{protocol}://{host}"
    try:
        core, config = import_module("fsspec.core"), import_module("fsspec.config")
    except ImportError as error:
        raise ConfigError(f"{url}: URLs need fsspec: pip install 'gpupeak[remote]'") from error
    options: dict[str, Any] = {"skip_instance_cache": True}
    if protocol in ("s3", "s3a"):
        # Retries are counted here alone: botocore's times s3fs's would be 25 for each of these.
        options["config_kwargs"] = {
            "connect_timeout": _CONNECT_SECONDS,
            "read_timeout": _READ_SECONDS,
            "max_pool_connections": _CONNECTIONS,
            "retries": {"max_attempts": 0},
            **config.conf.get(protocol, {}).get("config_kwargs", {}),
        }
    try:
        filesystem, _ = core.url_to_fs(f"{url}/", **options)
    except ImportError as error:
        package = _NEEDS.get(protocol)
        extra = "'gpupeak[remote]'" if package == "s3fs" else package
        way_out = f"{protocol}:// needs {package}: pip install {extra}" if package else _told(error)
        raise ConfigError(f"{url}: {way_out}") from error
    except ValueError as error:
        raise ConfigError(f"{url}: fsspec knows no {protocol}://, as it knows s3:// and gs://") from error
    except Exception as error:  # whatever a backend raises that cannot find its server or its credentials
        raise RunError(f"{url}: cannot be reached: {_told(error)}") from error
    if protocol in ("s3", "s3a"):
        filesystem.retries = 1
    return filesystem


def write_error(path: Path, error: StoreError) -> WriteError:
    """What ends a run whose store does not take a file."""
    return WriteError(f"{shown(path)}: cannot be written: {error.reason}")
