"""Who writes into a feature directory: a lock of the file system, or below a URL an object that only one can put."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import json
import os
import time
import uuid
from datetime import datetime, timezone
from pathlib import Path

from gpupeak.errors import RunError, writing
from gpupeak.features.records import lock_name
from gpupeak.storage import remote
from gpupeak.storage.atomic import process_is_gone, process_name
from gpupeak.types import Url

_TRIES = 10
_PAUSE = 0.02  # seconds; whoever looks whether a shard is running, or ends as one, holds a lock for an instant
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
_WHOLE = ".gpupeak.lock"
_SMALL = 1 << 16
_NO_LINK = os.O_RDWR | os.O_NOFOLLOW


class LocalLock:
    """The lock of a directory on this machine, which a killed process lets go of by dying."""

    def __init__(self, directory: Path, part: str | None) -> None:
        self._directory, self._part = directory, part
        self._descriptors: list[int] = []
        self._made: list[Path] = []
        self.missing = False  # whether the file system has no locks

    def take(self) -> None:
        """Make the directory and keep others out. Raises RunError if another run, or the same shard, is there;
        OSError."""
        self._made = list(
            itertools.takewhile(lambda path: not path.exists(), (self._directory, *self._directory.parents))
        )
        told = "another gpupeak run is writing here; let it end or choose another --output-root"
        self._hold(self._directory, fcntl.LOCK_EX if self._part is None else fcntl.LOCK_SH, told)
        if self._part is not None:
            own = self._directory / lock_name(self._part)
            self._hold(own, fcntl.LOCK_EX, f"shard {self._part} is being run already", _NO_LINK | os.O_CREAT)

    def _hold(self, path: Path, how: int, told: str, flags: int = os.O_RDONLY) -> None:
        for attempt in range(1, _TRIES + 1):
            try:
                self._directory.mkdir(parents=True, exist_ok=True)
                descriptor = _flock(path, how, flags)
                break
            except (BlockingIOError, FileNotFoundError, FileExistsError) as error:  # one that ended removes it
                if attempt == _TRIES and isinstance(error, BlockingIOError):
                    raise RunError(f"{self._directory}: {told}") from error
                if attempt == _TRIES:
                    raise
                time.sleep(_PAUSE)
        if descriptor is None:
            self.missing = True
        else:
            self._descriptors.append(descriptor)

    def is_held(self, part: str) -> bool:
        try:
            descriptor = _flock(self._directory / lock_name(part), fcntl.LOCK_SH, _NO_LINK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if descriptor is not None:
            os.close(descriptor)
        return False

    def release(self) -> None:
        if self._part is not None and len(self._descriptors) == 2:
            with contextlib.suppress(OSError):
                (self._directory / lock_name(self._part)).unlink()
        if self._descriptors:  # what is still empty is of no use to anyone, but to another shard that begins
            made_by_shards = () if self._part is None else (self._directory,)
            with contextlib.suppress(OSError):
                fcntl.flock(self._descriptors[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
                for made in self._made or made_by_shards:
                    made.rmdir()
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []


def _flock(path: Path, how: int, flags: int = os.O_RDONLY) -> int | None:
    """Lock a file, or a directory itself; None where there are no locks. Raises BlockingIOError if another holds it."""
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP and flags & os.O_NOFOLLOW:
            raise RunError(f"{path}: a symbolic link where a lock belongs; remove it") from error
        raise
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(descriptor), path.stat()):
            raise FileNotFoundError(errno.ENOENT, "whoever held it has removed it since it was opened", str(path))
        return descriptor
    except OSError as error:
        os.close(descriptor)
        if error.errno in _NO_LOCKS:
            return None
        raise


class RemoteLock:
    """An object in a store that only one of several can put, removed when its run ends.

    A killed run leaves it. On the same machine the next run sees that; elsewhere a person removes it.
    """

    def __init__(self, directory: Url, part: str | None) -> None:
        self._directory, self._part = directory, part
        self._held: Url | None = None
        self.missing = False

    def take(self) -> None:
        """Keep others out. Raises RunError as above, and WriteError if the store does not take the object."""
        own = self._directory.child(_WHOLE if self._part is None else lock_name(self._part))
        since = datetime.now(timezone.utc).isoformat(timespec="seconds")
        content = json.dumps({"process": process_name(), "since": since, "id": uuid.uuid4().hex}).encode()
        with writing(self._directory):
            if not remote.create(own, content):
                self._remove_dead(own)
                if not remote.create(own, content):
                    raise self._busy(own)
        self._held = own  # then look at the others: of two that do so at once, one at least sees the other
        remote.forget()
        there = remote.listing(self._directory) or {}
        locks = {name for name in there if name.startswith(".gpupeak") and name.endswith(".lock")} - {own.name}
        for name in sorted(locks if self._part is None else locks & {_WHOLE}):
            self._remove_dead(self._directory.child(name))

    def _remove_dead(self, lock: Url) -> None:
        """Remove the lock of a process of this machine that has ended. Raises RunError for any other."""
        alone = os.open("/", os.O_RDONLY)  # any file that all processes see would do
        try:
            fcntl.flock(alone, fcntl.LOCK_EX)  # else a second one could remove what the first has put in its place
            if not process_is_gone(self._content(lock).get("process", "")):
                raise self._busy(lock)
            remote.remove(lock)
        finally:
            os.close(alone)

    def _busy(self, lock: Url) -> RunError:
        told = self._content(lock)
        since = f"since {told.get('since', 'an unknown time')} (process {told.get('process', 'unknown')})"
        return RunError(
            f"{self._directory}: another gpupeak run is writing here {since}; let it end or choose another "
            f"--output-root. If it is dead, remove {lock}"
        )

    def _content(self, lock: Url) -> dict[str, str]:
        try:
            found = json.loads(remote.read(lock, _SMALL))
        except (OSError, ValueError):
            return {}
        return {key: str(value) for key, value in found.items()} if isinstance(found, dict) else {}

    def is_held(self, part: str) -> bool:
        """Whether a shard is running, as far as the last listing tells."""
        return lock_name(part) in (remote.listing(self._directory) or {})

    def release(self) -> None:
        if self._held is not None:
            with contextlib.suppress(OSError):
                remote.remove(self._held)
            self._held = None
