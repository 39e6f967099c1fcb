"""How is what was fetched kept for a while? In a directory with a bound, shared by all processes of a machine.

A file lies at its mirror path (`remote.mirror_path`), with the size and the time of change that the store listed;
where either differs, it is fetched again. The least recently used ones go when there is no room.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpupeak.errors import RunError
from gpupeak.storage import remote
from gpupeak.types import StoredFile

__all__ = ["Mirror"]

_BOOKS = ".bytes"
_PART = re.compile(r"\.gpupeak-.*\.part\Z")
_PATIENCE = 60.0  # seconds to wait for room, while others use all that is there
_POLL = 0.05
_SPARE = 0.1  # of the limit: what is freed beyond what is needed, so that not every file takes a look at all of them

_serial = itertools.count()


class Mirror:
    """The files below `root`, the part of a cache directory that `remote.base_of` names; at most `limit` bytes.

    Safe to use from any number of threads and processes. What each of them rests on is `flock`, which a process
    that is killed lets go of: `.bytes` in `root` is locked by whoever changes what lies there, and holds the sum of
    all sizes; a file in use is locked shared, and never removed; one that is being fetched is locked and already
    has its full size, under another name, so that it counts. One that nobody holds any more is removed.
    """

    def __init__(self, root: Path, limit: int) -> None:
        self._root, self._limit = root, limit

    @contextlib.contextmanager
    def holding(self, files: Sequence[StoredFile]) -> Iterator[None]:
        """Have files at their paths for as long as this lasts.

        Room is made for all of them at once, so that no two users wait for each other.

        Raises:
            StoreError: one of them cannot be fetched, or there is no room for them.
            RunError: the directory cannot be written.
        """
        with contextlib.ExitStack() as held:
            try:
                self._hold(files, held)
            except OSError as error:
                reason = f"{error.strerror or error}; --cache names another directory"
                raise RunError(f"the cache {self._root.parent}: cannot be used: {reason}") from error
            yield

    def _hold(self, files: Sequence[StoredFile], held: contextlib.ExitStack) -> None:
        size = sum(file.size for file in files)
        if size > self._limit:
            largest = max(files, key=lambda file: file.size)
            reason = f"{size:,} bytes at once, the cache takes {self._limit:,}; --cache-size sets that"
            raise remote.StoreError(remote.shown(largest.path), reason, final=True)
        patient_until = time.monotonic() + _PATIENCE
        while (parts := self._claim(files, held)) is None:
            if time.monotonic() > patient_until:
                reason = f"no room in the cache, whose {self._limit:,} bytes are all in use; --cache-size sets that"
                raise remote.StoreError(remote.shown(files[0].path), reason)
            time.sleep(_POLL)
        for part in parts:
            remote.fetch(part.file.path, part.file.size, part.file.changed, part.descriptor)
            with self._books() as books:
                part.take_its_place(held, books)

    def _claim(self, files: Sequence[StoredFile], held: contextlib.ExitStack) -> list[_Part] | None:
        """Take hold of the files that are there, and of room for the others; None if there is no room now."""
        with self._books() as books, contextlib.ExitStack() as claimed:
            missing = [file for file in files if not _pin(file, claimed, books)]
            needed = sum(file.size for file in missing)
            if books.total + needed > self._limit:
                self._evict(books, self._limit - needed)
                if books.total + needed > self._limit:
                    return None
            books.add(needed)
            parts = [_Part(file, claimed) for file in missing]
            held.enter_context(claimed.pop_all())
            for part in parts:
                held.callback(self._drop, part)
        return parts

    def _drop(self, part: _Part) -> None:
        """Give back the room of what was not fetched after all."""
        if not part.placed:
            with self._books() as books:
                part.temporary.unlink(missing_ok=True)
                books.add(-part.file.size)

    def _evict(self, books: _Books, most: int) -> None:
        """Count what is there, and remove what is not in use, the least recently used first, down to `most`."""
        total = 0
        files: list[tuple[int, int, str]] = []
        for directory, _, names in os.walk(self._root):
            for name in names:
                path = f"{directory}/{name}"
                with contextlib.suppress(FileNotFoundError):
                    status = os.stat(path)  # noqa: PTH116 - os.walk gives strings
                    if name != _BOOKS and not (_PART.match(name) and _unlink_unused(path)):
                        total += status.st_size
                        if not _PART.match(name):
                            files.append((status.st_atime_ns, status.st_size, path))
        if total > most:
            files.sort()
            for _, size, path in files:
                if total <= max(0, most - int(_SPARE * self._limit)):
                    break
                if _unlink_unused(path):
                    total -= size
        books.set(total)

    @contextlib.contextmanager
    def _books(self) -> Iterator[_Books]:
        self._root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._root / _BOOKS, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            books = _Books(descriptor)
            if books.unknown:
                self._evict(books, self._limit)
            yield books
        finally:
            os.close(descriptor)


class _Books:
    """The sum of the sizes of all files, in a file that its user has locked; written before it is true.

    After a kill it may be too large, never too small; the next time that there is no room it is counted anew.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        text = os.pread(descriptor, 32, 0)
        self.unknown = not text.isdigit()
        self.total = 0 if self.unknown else int(text)

    def add(self, size: int) -> None:
        if size:
            self.set(max(0, self.total + size))

    def set(self, total: int) -> None:
        self.total = total
        os.pwrite(self._descriptor, f"{total:020d}".encode(), 0)


@dataclass(slots=True, init=False)
class _Part:
    """A file that is being fetched: it has its size already, and a name of its own."""

    file: StoredFile
    temporary: Path
    descriptor: int
    placed: bool

    def __init__(self, file: StoredFile, held: contextlib.ExitStack) -> None:
        self.file, self.placed = file, False
        file.path.parent.mkdir(parents=True, exist_ok=True)
        self.temporary = file.path.with_name(f".gpupeak-{os.getpid()}-{next(_serial)}.part")
        self.descriptor = os.open(self.temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        held.callback(os.close, self.descriptor)
        fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(self.descriptor, file.size)

    def take_its_place(self, held: contextlib.ExitStack, books: _Books) -> None:
        """Put it where it belongs, unless somebody else was faster: then take hold of theirs."""
        if _pin(self.file, held, books):
            return
        os.utime(self.descriptor, ns=(time.time_ns(), self.file.changed))
        self.temporary.rename(self.file.path)
        fcntl.flock(self.descriptor, fcntl.LOCK_SH)
        self.placed = True


def _pin(file: StoredFile, held: contextlib.ExitStack, books: _Books) -> bool:
    """Take hold of a file if it is there as the store has it; remove it if it is there otherwise."""
    try:
        descriptor = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    status = os.fstat(descriptor)
    if (status.st_size, status.st_mtime_ns) != (file.size, file.changed):
        os.close(descriptor)
        file.path.unlink()
        books.add(-status.st_size)
        return False
    held.callback(os.close, descriptor)
    fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    os.utime(descriptor, ns=(time.time_ns(), status.st_mtime_ns))
    return True


def _unlink_unused(path: str) -> bool:
    """Remove a file that nobody holds; return whether it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)  # noqa: PTH108
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    directory, _, name = path.rpartition("/")
    if name.startswith(directory.rpartition("/")[2]):  # a sample's own directory, of which there may be millions
        with contextlib.suppress(OSError):
            os.rmdir(directory)  # noqa: PTH106
    return True
