"""What is already known of weight files: their SHA-256, and which file a pretrained tag was fetched to.

Kept in `weights.json` in the user's cache directory, as a convenience: where it is missing, torn or
cannot be written, everything is found out again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from gpupeak.storage.files import read_bounded

_CACHE_BYTES = 16 << 20

_here: dict[tuple[Path | None, str, str], Any] = {}
"""What this process has found out for a cache: a run asks twice, also where nothing can be saved."""


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
    with path.open("rb") as stream:
        # Taken before it is read: a file that changes meanwhile is read again the next time.
        status = os.fstat(stream.fileno())
        stamp = {"size": status.st_size, "inode": status.st_ino, "mtime_ns": status.st_mtime_ns}
        known = _look_up("files", str(path))
        if not isinstance(known, dict) or known != {**stamp, "sha256": known.get("sha256")}:
            known = {**stamp, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}
            _remember("files", str(path), known)
    return str(known["sha256"])


def tag_file(model: str, tag: str) -> Path | None:
    """The file that an open_clip tag was last fetched to, if it is still there."""
    known = _look_up("tags", f"{model}/{tag}")
    return Path(known) if isinstance(known, str) and os.path.isfile(known) else None  # noqa: PTH113 - never raises


def remember_tag(model: str, tag: str, file: Path) -> None:
    """Remember for `tag_file`."""
    _remember("tags", f"{model}/{tag}", str(file.absolute()))


def _look_up(table: str, key: str) -> Any:
    cache = cache_file()
    return _here.get((cache, table, key)) or _read(cache)[table].get(key)


def _remember(table: str, key: str, value: Any) -> None:
    cache = cache_file()
    _here[cache, table, key] = value
    if cache is None:
        return
    saved = _read(cache)
    saved[table][key] = value
    temporary = cache.with_suffix(f".{os.getpid()}.tmp")
    with contextlib.suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(saved, indent=1), encoding="utf-8")
        temporary.replace(cache)


def _read(cache: Path | None) -> dict[str, dict[str, Any]]:
    """Two tables: "files", by path, and "tags", by model/tag."""
    try:
        saved = json.loads(read_bounded(cache, _CACHE_BYTES)) if cache else {}
        return {table: dict(saved[table]) for table in ("files", "tags")}
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return {"files": {}, "tags": {}}
