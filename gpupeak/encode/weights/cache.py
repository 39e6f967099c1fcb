"""What is already known of weight files: their SHA-256, and which file a pretrained tag was fetched to.

Kept in `weights.json` in the user's cache directory, as a convenience: where it is missing, torn or
cannot be written, everything is found out again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from pathlib import Path
from typing import Any, TypeAlias

from gpupeak.storage.files import read_bounded

__all__ = ["cache_file", "file_sha256", "remember_tag", "tag_file"]

Known: TypeAlias = dict[str, dict[str, Any]]
"""Two tables: "files", by path, and "tags", by model/tag."""

_CACHE_BYTES = 16 << 20
_CHUNK_BYTES = 1 << 20

_here: Known = {"files": {}, "tags": {}}
"""What this process has found out: a run asks twice, also where nothing can be saved."""


def cache_file() -> Path | None:
    """`$XDG_CACHE_HOME/gpupeak/weights.json`, by default in `~/.cache`; None for a user without a home."""
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        return None
    return Path(base, "gpupeak", "weights.json")


def file_sha256(file: Path) -> str:
    """The SHA-256 of a file, in hex. Read once, then remembered by path, size, inode and mtime.

    Raises:
        OSError: it cannot be read.
    """
    path = file.resolve()
    known = _look_up("files", str(path))
    if isinstance(known, dict) and known == {**_stamp(path.stat()), "sha256": known.get("sha256")}:
        return str(known["sha256"])
    digest = hashlib.sha256()
    buffer = bytearray(_CHUNK_BYTES)
    with path.open("rb", buffering=0) as stream:
        before = _stamp(os.fstat(stream.fileno()))
        while count := stream.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
        after = _stamp(os.fstat(stream.fileno()))
    if before == after:  # else it was being written meanwhile, and may still be
        _remember("files", str(path), {**after, "sha256": digest.hexdigest()})
    return digest.hexdigest()


def tag_file(model: str, tag: str) -> Path | None:
    """The file that an open_clip tag was last fetched to, if it is still there."""
    known = _look_up("tags", f"{model}/{tag}")
    return Path(known) if isinstance(known, str) and os.path.isfile(known) else None  # noqa: PTH113 - never raises


def remember_tag(model: str, tag: str, file: Path) -> None:
    """Remember for `tag_file`."""
    _remember("tags", f"{model}/{tag}", str(file.absolute()))


def _stamp(status: os.stat_result) -> dict[str, int]:
    return {"size": status.st_size, "inode": status.st_ino, "mtime_ns": status.st_mtime_ns}


def _look_up(table: str, key: str) -> Any:
    if key in _here[table]:
        return _here[table][key]
    cache = cache_file()
    return None if cache is None else _read(cache)[table].get(key)


def _remember(table: str, key: str, value: Any) -> None:
    _here[table][key] = value
    cache = cache_file()
    if cache is None:
        return
    with contextlib.suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        # The lock keeps two processes from losing each other's entries; it is a file of its own because
        # the cache itself is replaced, so that readers need no lock.
        with cache.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            known = _read(cache)
            known[table][key] = value
            temporary = cache.with_suffix(".tmp")
            temporary.write_text(json.dumps(known, indent=1), encoding="utf-8")
            temporary.replace(cache)


def _read(cache: Path) -> Known:
    try:
        known = json.loads(read_bounded(cache, _CACHE_BYTES))
    except (OSError, ValueError, RecursionError):
        known = None
    if not isinstance(known, dict):
        known = {}
    return {table: known[table] if isinstance(known.get(table), dict) else {} for table in ("files", "tags")}
