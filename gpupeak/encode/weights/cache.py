"""The SHA-256 of weight files, and which file a tag was fetched to; kept in `weights.json` in the cache directory."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path

from gpupeak.storage.atomic import replace_file
from gpupeak.storage.files import read_bounded
from gpupeak.storage.places import cache_directory

_CACHE_BYTES = 16 << 20
_BLOCK = 1 << 20

_here: dict[tuple[Path, str], str] = {}  # a run asks twice, also where nothing can be saved


def file_sha256(file: Path) -> str:
    """The SHA-256 of a file, in hex. Read once, then remembered by path, size, inode, times. Raises OSError."""
    path = file.resolve()
    with path.open("rb") as stream:
        # Taken before it is read: a file that changes meanwhile is read again the next time.
        status = os.fstat(stream.fileno())
        key = f"{path} {status.st_size} {status.st_ino} {status.st_mtime_ns} {status.st_ctime_ns}"
        if (known := _known(key)) is not None:
            return known
        digest = hashlib.sha256()
        while block := stream.read(_BLOCK):
            digest.update(block)
        return _remember(key, digest.hexdigest())


def tag_file(model: str, tag: str) -> Path | None:
    """The file that an open_clip tag was last fetched to, if it is still there."""
    known = _known(f"{model}/{tag}")
    return Path(known) if known and Path(known).is_file() else None


def remember_tag(model: str, tag: str, file: Path) -> None:
    _remember(f"{model}/{tag}", str(file.absolute()))


def _known(key: str) -> str | None:
    return _here.get((_cache(), key)) or _saved().get(key)


def _remember(key: str, value: str) -> str:
    cache = _cache()
    _here[cache, key] = value
    with contextlib.suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        replace_file(cache, [json.dumps({**_saved(), key: value}, indent=1).encode()])
    return value


def _saved() -> dict[str, str]:
    try:
        if _cache().is_symlink():  # made by somebody else: it is replaced, not followed
            return {}
        saved = json.loads(read_bounded(_cache(), _CACHE_BYTES))
        return {key: value for key, value in saved.items() if isinstance(value, str)}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}


def _cache() -> Path:
    return cache_directory() / "weights.json"
