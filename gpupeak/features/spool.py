"""How do features get into a store, and back for a look? Each put whole; run.json and the manifest from a local copy.

A feature directory in a store has a local one in its place for as long as a command takes (`mounted`), at its mirror
path in a temporary directory. The features themselves never lie there: `StoreWriter` puts them straight into the store.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType

import numpy as np

from gpupeak.config import ExtractConfig
from gpupeak.errors import GpupeakError, RunError, SampleError
from gpupeak.features.directory import npy_header
from gpupeak.features.hold import Hold, take_all
from gpupeak.features.records import is_record
from gpupeak.pipeline import Writer
from gpupeak.storage import remote
from gpupeak.types import Failed, FeatureBatch, FramePlan, Saved, Seconds

__all__ = ["Spool", "StoreWriter", "mounted", "pull"]

_UPLOADS = 8  # of each of the line's two writers: 16 at once hide 50 ms a request up to 300 files/s
_WAITING = 4 * _UPLOADS
_THREADS = 32
_EVERY_SECONDS = 30.0
_SHARE = 20  # a manifest is put again after 20 times what putting it took: 5 % of the time at most


@contextlib.contextmanager
def mounted(config: ExtractConfig) -> Iterator[ExtractConfig]:
    """The settings of one command, with a local directory in the place of an output root that is a URL.

    What stores hold is looked at anew. Errors name URLs.
    """
    remote.forget()
    root = config.path(config.output_root)
    with contextlib.ExitStack() as places:
        try:
            if (url := remote.url_of(root)) is not None:
                base = Path(places.enter_context(tempfile.TemporaryDirectory(prefix="gpupeak-")))
                config = dataclasses.replace(config, output_root=remote.mirror_path(base, url))
            yield config
        except SampleError as error:
            raise SampleError(error.stage, remote.shown(error.reason)) from error
        except GpupeakError as error:
            error.args = tuple(remote.shown(each) if isinstance(each, str) else each for each in error.args)
            raise


def pull(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> None:
    """Fetch the files of a directory in a store whose names are `wanted` to its mirror path; no other path is touched.

    Raises:
        RunError: one of them cannot be fetched.
    """
    if remote.url_of(path) is None or (there := remote.listing(path)) is None:
        return
    path.mkdir(parents=True, exist_ok=True)

    def fetch(entry: remote.Entry) -> None:
        file = path / entry.name
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            remote.fetch(file, entry.size or 0, entry.changed, descriptor)
        finally:
            os.close(descriptor)

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="gpupeak-pull") as threads:
        try:
            for _ in threads.map(fetch, [entry for entry in there.values() if entry.is_file() and wanted(entry.name)]):
                pass
        except remote.StoreError as error:
            threads.shutdown(cancel_futures=True)
            raise RunError(str(error)) from error


class Spool:
    """The records of one feature directory, `run.json` and manifests, kept in step with those in its store.

    Entered when the local directory is set up: its files are put when they have changed, again and again
    (`keep_in_step`), and when it is left, however that comes. From `hold` on, no other run writes there.
    Does nothing for a directory on this machine.

    Args:
        path: the directory.
        part: the tag of a shard.
    """

    def __init__(self, path: Path, part: str | None = None) -> None:
        self._path = path
        self._hold = Hold(path, part)
        self._in_store = remote.url_of(path) is not None
        self._put: dict[str, tuple[int, int]] = {}
        self._next = 0.0
        pull(path, _is_record)
        if self._in_store:
            self._put = self._records()

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.push()
        except RunError:
            if error is None:  # else that is what to tell
                raise
        finally:
            self._hold.release()

    @staticmethod
    def hold(spools: Iterable[Spool]) -> None:
        """Keep other runs out of these directories, and fetch their records as they are now.

        Raises:
            RunError: another run is writing into one of them.
            WriteError: a store does not take what is to keep others out.
        """
        spools = [spool for spool in spools if spool._in_store]
        take_all([spool._hold for spool in spools])
        if spools:
            remote.forget()
        for spool in spools:
            pull(spool._path, _is_record)
            there = remote.listing(spool._path) or {}
            for name in spool._records().keys() - there.keys():
                (spool._path / name).unlink()
            spool._put = spool._records()

    def keep_in_step(self) -> None:
        """Put what has changed, if the last time is long enough ago."""
        self._hold.check()
        if self._in_store and time.monotonic() >= self._next:
            self.push()

    def push(self) -> None:
        """Put what has changed since it was fetched or put; remove what was removed.

        Raises:
            RunError: another run has taken the directory over.
            WriteError: the store does not take it.
        """
        if not self._in_store:
            return
        self._hold.check()
        began = time.monotonic()
        records = self._records()
        name = ""
        try:
            for name, stamp in sorted(records.items()):
                if self._put.get(name) != stamp:
                    remote.put_file(self._path / name)
            for name in self._put.keys() - records.keys():
                remote.remove(self._path / name)
        except remote.StoreError as error:
            raise remote.write_error(self._path / name, error) from error
        self._put = records
        now = time.monotonic()
        self._next = now + max(_EVERY_SECONDS, _SHARE * (now - began))

    def _records(self) -> dict[str, tuple[int, int]]:
        """The local records, and what tells whether one has changed."""
        with contextlib.suppress(FileNotFoundError), os.scandir(self._path) as entries:
            stamps = ((entry.name, entry.stat()) for entry in entries if _is_record(entry.name))
            return {name: (status.st_size, status.st_mtime_ns) for name, status in stamps}
        return {}


def _is_record(name: str) -> bool:
    return is_record(name) and not name.startswith(".")  # no locks


class StoreWriter:
    """Puts each sample's rows into a store as a float32 C-order `.npy` file, several at once; local ones go to `files`.

    A sample is saved when the store has taken it. Rows are copied first: a batch is released at once.
    Safe to run on several threads at once over one shared iterable of batches.
    """

    def __init__(self, files: Writer) -> None:
        self._files = files

    def write(self, batches: Iterable[FeatureBatch]) -> Generator[Saved | Failed]:
        """Yield one outcome a sample, in the order in which the store takes them.

        Raises:
            WriteError: the store does not take one: the run cannot go on.
        """
        waiting: deque[Future[Saved]] = deque()
        threads = ThreadPoolExecutor(_UPLOADS, thread_name_prefix="gpupeak-put")
        try:
            for batch in batches:
                if remote.url_of(batch.plans[0].sample.target) is None:
                    yield from self._files.write([batch])
                    continue
                try:
                    for plan, (start, stop), seconds in zip(batch.plans, batch.spans, batch.seconds, strict=True):
                        rows = np.ascontiguousarray(batch.features[start:stop], dtype=np.float32)
                        data = npy_header((rows.shape[0], rows.shape[1])) + rows.tobytes()
                        waiting.append(threads.submit(_put, plan, data, seconds))
                finally:
                    batch.release()
                if len(waiting) > _WAITING:
                    wait(waiting, return_when=FIRST_COMPLETED)
                for _ in range(len(waiting)):
                    future = waiting.popleft()
                    if future.done():
                        yield future.result()
                    else:
                        waiting.append(future)
            while waiting:
                yield waiting.popleft().result()
        finally:
            threads.shutdown(cancel_futures=True)


def _put(plan: FramePlan, data: bytes, seconds: Seconds) -> Saved:
    began = time.perf_counter()
    try:
        remote.put(plan.sample.target, data)
    except remote.StoreError as error:
        raise remote.write_error(plan.sample.target, error) from error
    return Saved(plan, {**seconds, "write": time.perf_counter() - began})
