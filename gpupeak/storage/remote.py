"""How files in a store are reached by URL: through fsspec, imported when it is needed. What passes (a 503, a timeout)
is tried again, with pauses that differ at random."""

from __future__ import annotations

import contextlib
import errno
import itertools
import random
import re
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from gpupeak.errors import ConfigError, RunError
from gpupeak.types import Url

_T = TypeVar("_T")

_ATTEMPTS = 6
_FIRST_PAUSE = 0.3  # seconds; each one after it is twice as long: 9 s in all
_CONNECT_SECONDS, _READ_SECONDS = 10, 30
_CONNECTIONS = 48  # as many fetches and puts as there may be at once, and some listings
_SMALL = 1 << 16
_CHUNK = 16 << 20  # bytes a request; what is cut off is fetched again from the last of these
# Stores in which a file is there whole or not at all. Elsewhere it is put under another name and renamed.
_WHOLE_PUTS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "tos", "memory"}
_VERSIONS = ("ETag", "etag", "LastModified", "last_modified", "updated", "mtime", "modified", "created")
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
_FINAL_NUMBERS = {errno.EINVAL, errno.EPERM, errno.ENOSYS, errno.ENAMETOOLONG, errno.EMSGSIZE, errno.ENOSPC}
_CREDENTIALS = re.compile("Credential|Authenti|Unauthori|Forbidden|Profile|TokenRetrieval")


class StoreError(OSError):
    """A store could not do what was asked for; `strerror` is one line without the URL."""

    def __init__(self, url: Url, reason: str) -> None:
        super().__init__(errno.EIO, reason, str(url))

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


class MissingError(StoreError, FileNotFoundError):
    """It is not there."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a listing tells of one name: `size` in bytes, None of a directory; `version` as in `RemoteFile`."""

    name: str
    size: int | None
    version: str = ""

    def is_file(self) -> bool:
        return self.size is not None


def listing(directory: Url) -> Mapping[str, Entry] | None:
    """What lies in a directory, by name; None if it is not there. Asked once, until `forget`. Raises RunError."""
    return _listed(directory, "ls", 0)


def tree(directory: Url, wanted: Collection[str] | None = None) -> Mapping[str, Entry]:
    """The files in a directory, by `name`, and by `directory/name` in its directories `wanted`, or all. Raises
    RunError."""
    top = listing(directory) or {}
    found = {name: entry for name, entry in top.items() if entry.is_file()}
    if any(not entry.is_file() and (wanted is None or name in wanted) for name, entry in top.items()):
        below = _listed(directory, "find", 1) or {}
        found.update({place: e for place, e in below.items() if wanted is None or place.partition("/")[0] in wanted})
    return found


def forget() -> None:
    _listed.cache_clear()


@lru_cache(maxsize=256)
def _listed(url: Url, verb: str, depth: int) -> Mapping[str, Entry] | None:
    filesystem, place = _reach(url)
    try:
        told = _tried(url, lambda: getattr(filesystem, verb)(place, detail=True))
    except MissingError:
        return None
    except StoreError as error:
        raise RunError(f"{url}: cannot be listed: {error.strerror}") from error
    finally:
        filesystem.invalidate_cache()  # it would keep a kilobyte a file
    infos, place = list(told.values() if isinstance(told, dict) else told), place.rstrip("/")
    if [(info["name"], info["type"]) for info in infos] == [(place, "file")]:
        return None
    entries = (_entry(info, place) for info in infos)
    return {entry.name: entry for entry in entries if entry is not None and entry.name.count("/") == depth}


def _entry(info: Mapping[str, Any], place: str) -> Entry | None:
    """None of the marker that some tools leave for a directory, and of a name that could lead out of it."""
    name = info["name"].rstrip("/")[len(place) + 1 :]
    if any(part in ("", ".", "..") or "\0" in part for part in name.split("/")):
        return None
    version = next((str(info[key]) for key in _VERSIONS if info.get(key)), "")
    return Entry(name, None if info["type"] == "directory" else int(info["size"] or 0), version)


def fetch(url: Url, size: int, target: Path) -> None:
    """Write a file of a store to `target`, all `size` bytes that it was listed with. Raises StoreError, OSError."""
    filesystem, place = _reach(url)

    def part(start: int, stop: int) -> bytes:
        # One byte more than there should be: a file that has grown is noticed.
        data: bytes = filesystem.cat_file(place, start=start, end=stop + (stop == size))
        if len(data) < stop - start:
            raise OSError(errno.EIO, f"{len(data)} bytes came, expected {stop - start}")
        return data

    with target.open("wb") as file:
        for start in range(0, size, _CHUNK):
            file.write(_tried(url, partial(part, start, min(start + _CHUNK, size))))
        if file.tell() > size:
            raise StoreError(url, f"is larger than the {size:,} bytes it was listed with")


def read(url: Url, limit: int) -> bytes:
    """A file of at most `limit` bytes. Raises StoreError if it cannot be read or is larger."""
    filesystem, place = _reach(url)
    data: bytes = _tried(url, lambda: filesystem.cat_file(place, start=0, end=limit + 1))
    if len(data) > limit:
        raise StoreError(url, f"is larger than {limit:,} bytes")
    return data


def put(url: Url, data: bytes) -> None:
    """Put a file: it is there whole, or not at all, and replaces one that was there. Raises StoreError."""
    filesystem, place = _reach(url)
    if url.protocol in _WHOLE_PUTS:
        _tried(url, lambda: filesystem.pipe_file(place, data))
        return
    parent, _, name = place.rpartition("/")
    temporary = f"{parent}/.gpupeak-{uuid.uuid4().hex}-{name}.tmp"

    def put_and_rename() -> None:
        filesystem.makedirs(parent, exist_ok=True)
        try:
            filesystem.pipe_file(temporary, data)
            filesystem.mv(temporary, place)
        except BaseException:
            with contextlib.suppress(Exception):  # the first error is the one to tell
                filesystem.rm_file(temporary)
            raise

    _tried(url, put_and_rename)


def create(url: Url, data: bytes) -> bool:
    """Put a small file only if there is none; return whether this call has put it. Raises StoreError. S3, GCS and Azure
    let one of many do so; elsewhere two who ask at once may both be told so."""
    filesystem, place = _reach(url)
    if url.protocol not in _WHOLE_PUTS:
        _tried(url, lambda: filesystem.makedirs(place.rpartition("/")[0], exist_ok=True))
    try:
        _tried(url, lambda: filesystem.pipe_file(place, data, mode="create"))
    except StoreError:
        # That it is there is said by each store in its own words; and an answer that was lost is asked for again.
        with contextlib.suppress(StoreError):
            return read(url, _SMALL) == data
        raise
    return True


def remove(url: Url) -> None:
    filesystem, place = _reach(url)
    with contextlib.suppress(FileNotFoundError):
        _tried(url, lambda: filesystem.rm_file(place))


def _tried(url: Url, action: Callable[[], _T]) -> _T:
    for attempt in itertools.count(1):
        try:
            return action()
        except Exception as error:  # fsspec's backends raise what their own libraries do
            final = _is_final(error)
            if final or attempt == _ATTEMPTS:
                times = "" if attempt == 1 else f", {attempt} times"
                kind = MissingError if isinstance(error, FileNotFoundError) else StoreError
                raise kind(url, f"{_told(error)}{times}") from error
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


def _reach(url: Url) -> tuple[Any, str]:
    filesystem = _filesystem(url.protocol, url.where.partition("/")[0])
    place: str = filesystem._strip_protocol(str(url))
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
        raise ConfigError(f"{url}: {_told(error)}; for s3:// pip install 'gpupeak[remote]'") from error
    except ValueError as error:
        raise ConfigError(f"{url}: fsspec knows no {protocol}://, as it knows s3:// and gs://") from error
    except Exception as error:  # whatever a backend raises that cannot find its server or its credentials
        raise RunError(f"{url}: cannot be reached: {_told(error)}") from error
    if protocol in ("s3", "s3a"):
        filesystem.retries = 1
    return filesystem
