"""Features in a store: read in a copy; run.json and manifests worked on in one that is put when it has changed."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gpupeak.errors import GpupeakError, reading, writing
from gpupeak.features.records import is_record
from gpupeak.storage import places, remote
from gpupeak.types import Place, Url

_THREADS = 32
_EVERY_SECONDS = 30.0
_SHARE = 20  # a manifest is put again after 20 times what putting it took: 5 % of the time at most


@contextlib.contextmanager
def copies_below(root: Place) -> Iterator[Path | None]:
    """A temporary directory for copies of what lies below a URL, else None. Errors raised within name URLs, not
    copies."""
    remote.forget()
    if not isinstance(root, Url):
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="gpupeak-") as directory:
        try:
            yield Path(directory)
        except GpupeakError as error:
            error.args = tuple(
                each.replace(directory, str(root)) if isinstance(each, str) else each for each in error.args
            )
            raise


def copied(place: Place, copies: Path | None, wanted: Callable[[str], bool] = lambda name: True) -> Path:
    """Where a feature directory can be read: itself, or a copy below `copies` of its files whose names are `wanted`.
    Raises RunError if one of them cannot be fetched."""
    if not isinstance(place, Url):
        return place
    if copies is None:
        raise ValueError(f"{place}: no directory for copies")
    copy = copies / place.parent.name / place.name
    copy.mkdir(parents=True, exist_ok=True)

    def fetch(entry: remote.Entry) -> None:
        if entry.size is not None:
            with reading(url := place.child(entry.name)):
                remote.fetch(url, entry.size, copy / entry.name)

    threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="gpupeak-copy")
    try:
        list(threads.map(fetch, (e for e in (remote.listing(place) or {}).values() if wanted(e.name))))
    finally:
        threads.shutdown(cancel_futures=True)
    return copy


class RemoteRecords:
    """`run.json` and the manifests of one feature directory in a store, in a `copy` below `copies`, kept in step."""

    def __init__(self, place: Url, copies: Path | None) -> None:
        self._place, self._copies = place, copies
        self.copy = copied(place, copies, _is_record)
        self._put = self._stamps()
        self._next = 0.0

    def pull(self) -> None:
        """Fetch the records as they are now. Raises RunError if one cannot be fetched."""
        remote.forget()
        copied(self._place, self._copies, _is_record)
        for name in self._stamps().keys() - places.names(self._place):
            (self.copy / name).unlink()
        self._put = self._stamps()

    def keep_in_step(self) -> None:
        """Put what has changed, if the last time is long enough ago."""
        if time.monotonic() >= self._next:
            self.push()

    def push(self) -> None:
        """Put what has changed since it was fetched or put; remove what was removed. Raises WriteError."""
        began = time.monotonic()
        stamps = self._stamps()
        for name in sorted(stamps.keys() | self._put.keys()):
            url = self._place.child(name)
            with writing(url):
                if name not in stamps:
                    remote.remove(url)
                elif self._put.get(name) != stamps[name]:
                    remote.put(url, (self.copy / name).read_bytes())
        self._put = stamps
        now = time.monotonic()
        self._next = now + max(_EVERY_SECONDS, _SHARE * (now - began))

    def _stamps(self) -> dict[str, tuple[int, int]]:
        stamps = ((path.name, path.stat()) for path in self.copy.iterdir() if _is_record(path.name))
        return {name: (status.st_size, status.st_mtime_ns) for name, status in stamps}


def _is_record(name: str) -> bool:
    return is_record(name) and not name.startswith(".")  # no locks
