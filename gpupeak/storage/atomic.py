"""How a file comes to be there whole or not at all: written under another name and renamed."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import time
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

TEMPORARY = re.compile(r"\.gpupeak-(?:(\d+)@([^@/]+)-\d+|.*)\.tmp\Z")
"""What a file being written is called: hidden, so that no `*.npy` pattern picks it up. In it are the writer's process
id and host (`temporary_name`), if it is not from another version or tool."""
_STALE_SECONDS = 86_400.0  # a file is a temporary one for as long as one write takes
_TOGETHER = 7  # parts of a file in one call, which takes up to 2 GiB; of features each may have 256 MiB
_serial = itertools.count(time.time_ns())  # next() is atomic under the GIL; no process of the same number began so


def replace_file(path: Path, chunks: Iterable[bytes | memoryview], *, fsync: bool = False) -> None:
    """Write a whole file under a temporary name, then rename: readers see the old or the new, never a part. Only
    `fsync` helps against power loss. Raises OSError."""
    if not path.name:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    parts, temporary = iter(chunks), f"{path.parent}/{temporary_name()}"
    try:
        # Through no link. A file object would take longer than the writing.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            while some := list(itertools.islice(parts, _TOGETHER)):
                if os.writev(descriptor, some) != sum(memoryview(each).nbytes for each in some):
                    os.write(descriptor, b"\0")  # raises why no more is taken, a quota say
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if fsync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            Path(temporary).unlink()
        raise


def temporary_name() -> str:
    """A name for a file being written that no other writer has, on no host; `TEMPORARY` matches it."""
    return f".gpupeak-{process_name()}-{next(_serial)}.tmp"


def writer_is_gone(entry: os.DirEntry[str]) -> bool:
    """Whether this is a temporary that cannot be that of a writer at work; of another host's, its age tells."""
    match = TEMPORARY.match(entry.name)
    if match is None:
        return False
    if match[2] == _host():
        return process_is_gone(f"{match[1]}@{match[2]}")
    with contextlib.suppress(OSError):
        return time.time() - entry.stat().st_mtime > _STALE_SECONDS
    return False


def process_name() -> str:
    return f"{os.getpid()}@{_host()}"


def process_is_gone(name: str) -> bool:
    """Whether a process so named was one of this host and has ended."""
    number, _, host = name.partition("@")
    if host != _host() or not number.isdigit():
        return False
    try:
        os.kill(int(number), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        pass  # somebody else's process
    return False


@lru_cache(maxsize=1)
def _host() -> str:
    """What names process ids: the host, and on Linux the namespace, for containers that share a host's name."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", os.uname().nodename)[:64]
    with contextlib.suppress(OSError):
        return f"{name}.{Path('/proc/self/ns/pid').stat().st_ino}"
    return name
