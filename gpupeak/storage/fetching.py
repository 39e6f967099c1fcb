"""How what a sample needs comes from a store to this machine: fetched ahead, and removed when it has been decoded."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import tempfile
import threading
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from gpupeak.errors import RunError, SampleError
from gpupeak.pipeline import Decoder
from gpupeak.storage import remote
from gpupeak.storage.atomic import temporary_name, writer_is_gone
from gpupeak.storage.places import local
from gpupeak.types import Failed, FrameBatch, FramePlan, NoPeak, Place, Sample, Url

_THREADS = 16  # each waits for one sample's files: tens of milliseconds a request, whatever the bandwidth
_AHEAD = 32
_FAILURES_IN_A_ROW = 64
"""So many samples that cannot be fetched one after another are not the samples' fault."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A sample, and the same one with its files `here`, copied into `directory`; or the `error` of fetching them."""

    sample: Sample
    here: Sample
    directory: Path | None = None
    error: SampleError | None = None

    def restored(self, plan: FramePlan) -> FramePlan:
        """A plan of `here` as one of `sample`: it tells of the store's files, not of their copies."""
        peak, fallback = plan.peak, plan.fallback
        if peak is not None:
            peak = replace(peak, file=self._origin(local(peak.file)))
        if fallback is not None:
            fallback = NoPeak(fallback.reason, self.told(fallback.detail))
        return replace(plan, sample=self.sample, peak=peak, fallback=fallback)

    def _origin(self, file: Path) -> Place:
        for there, copy in zip(self.sample.au_dirs, self.here.au_dirs, strict=True):
            if isinstance(there, Url) and file.is_relative_to(local(copy)):
                return there / file.relative_to(local(copy))
        return file

    def failed(self, outcome: Failed) -> Failed:
        """The same for a failure."""
        plan = outcome.plan and self.restored(outcome.plan)
        return Failed(self.sample, outcome.stage, self.told(outcome.reason), plan)

    def told(self, text: str) -> str:
        """`text` with the names of the store's files in the place of their copies'."""
        copies = (self.here.video, *self.here.au_dirs)
        for there, copy in zip((self.sample.video, *self.sample.au_dirs), copies, strict=True):
            if isinstance(there, Url):
                text = text.replace(str(copy), str(there))
        return text

    def remove(self) -> None:
        """Remove the copies."""
        if self.directory is not None:
            shutil.rmtree(self.directory, ignore_errors=True)


@contextlib.contextmanager
def at_hand(sample: Sample, *, video: bool = True, aus: bool = True) -> Iterator[Fetched]:
    """Have the video and the action-unit files of one sample on this machine for as long as this lasts.

    Raises:
        SampleError: at stage "find": a file cannot be fetched. Errors that are raised within name the store's files.
        RunError: there is no room for them.
    """
    if not sample.remote:
        yield Fetched(sample, sample)
        return
    with tempfile.TemporaryDirectory(prefix="gpupeak-") as place:
        found = _fetch(sample, Path(place), video=video, aus=aus)
        try:
            yield found
        except SampleError as error:
            raise SampleError(error.stage, found.told(error.reason)) from error


@contextlib.contextmanager
def local_file(where: Place) -> Iterator[Path]:
    """Have one file, such as a list of samples, on this machine for as long as this lasts, under its own name.

    One that is not there is for its reader to tell.

    Raises:
        RunError: it is in a store and cannot be fetched.
    """
    if not isinstance(where, Url):
        yield where
        return
    entry = (remote.listing(where.parent) or {}).get(where.name)
    with tempfile.TemporaryDirectory(prefix="gpupeak-") as place:
        target = Path(place, where.name)
        if entry is not None and entry.size is not None:
            try:
                remote.fetch(where, entry.size, target)
            except remote.StoreError as error:
                raise RunError(str(error)) from error
        yield target


def video_bytes(sample: Sample) -> int | None:
    """The size of a sample's video, wherever it lies; None if it is not there."""
    if isinstance(sample.video, Url):
        return next((file.size for file in sample.remote if file.url == sample.video), None)
    try:
        return None if sample.video is None else sample.video.stat().st_size
    except OSError:
        return None


class FetchingDecoder:
    """A decoder that is given samples when their files are on this machine; what cannot be fetched fails before it.

    Up to 32 samples are fetched ahead, 16 at a time. A sample's copies are removed when its frames are decoded.
    Samples whose files are on this machine anyway pass through.

    Args:
        decoder: what decodes.
        cache: copies lie in a directory of this process's own below it.
        limit: the most bytes that the copies may take, those that are being decoded included.
    """

    def __init__(self, decoder: Decoder, cache: Path, limit: int) -> None:
        self._decoder, self._cache, self._limit = decoder, cache, limit

    def decode(self, samples: Iterable[Sample]) -> Generator[FrameBatch | Failed]:
        """Yield the frames or the failure of every sample, in the order in which they are ready.

        Raises:
            RunError: the cache cannot be used, or nothing can be fetched any more.
        """
        unready: queue.SimpleQueue[Failed] = queue.SimpleQueue()
        decoding: dict[Place, Fetched] = {}
        with contextlib.closing(_Ahead(samples, self._cache, self._limit)) as ahead:

            def ready() -> Iterator[Sample]:
                for found in ahead:
                    if found.error is not None:
                        unready.put(Failed(found.sample, found.error.stage, found.error.reason))
                        continue
                    if found.directory is not None:
                        decoding[found.sample.target] = found
                    yield found.here

            with contextlib.closing(self._decoder.decode(ready())) as batches:
                for batch in batches:
                    while not unready.empty():
                        yield unready.get()
                    plans = batch.plans if isinstance(batch, FrameBatch) else ()
                    if isinstance(batch, Failed):
                        found = decoding.pop(batch.sample.target, None)
                        if found is not None:
                            batch = found.failed(batch)
                            ahead.release(found)
                    elif any(plan.sample.target in decoding for plan in plans):
                        done = [decoding.pop(plan.sample.target, None) for plan in plans]
                        restored = (p if f is None else f.restored(p) for p, f in zip(plans, done, strict=True))
                        batch = replace(batch, plans=tuple(restored))
                        for found in done:
                            if found is not None:
                                ahead.release(found)
                    yield batch
            while not unready.empty():
                yield unready.get()

    def close(self) -> None:
        """Close the decoder."""
        self._decoder.close()


def fetched(samples: Iterable[Sample], cache: Path, limit: int, *, video: bool = True) -> Generator[Fetched]:
    """Yield samples when their files are on this machine, in the order in which they are, or why they are not.

    The copies are removed when the next one is asked for.

    Raises:
        RunError: as `FetchingDecoder.decode`.
    """
    with contextlib.closing(_Ahead(samples, cache, limit, video=video)) as ahead:
        for found in ahead:
            yield found
            ahead.release(found)


class _Ahead:
    """Samples whose files are fetched ahead of whoever takes them, within a bound on their number and bytes.

    Samples are taken on a thread of its own, from the first on that has something to fetch: what is ready does not
    wait for more of them.
    """

    def __init__(self, samples: Iterable[Sample], cache: Path, limit: int, *, video: bool = True) -> None:
        self._source, self._cache, self._limit, self._video = iter(samples), cache, limit, video
        self._changed = threading.Condition()
        self._fetching = self._bytes = 0
        self._starving = self._closed = False
        self._directory: Path | None = None
        self._ready: queue.SimpleQueue[Fetched | BaseException | None] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="gpupeak-fetch")

    def __iter__(self) -> Iterator[Fetched]:
        for sample in self._source:
            if sample.remote:
                self._directory = _own_directory(self._cache)
                threading.Thread(target=self._feed, args=(chain([sample], self._source),), daemon=True).start()
                yield from self._fetched()
                return
            yield Fetched(sample, sample)

    def _fetched(self) -> Iterator[Fetched]:
        failures, ended = 0, False
        while not (ended and self._fetching == 0 and self._ready.empty()):
            with self._changed:
                self._starving = True
                self._changed.notify_all()
            found = self._ready.get()
            self._starving = False
            if isinstance(found, BaseException):
                raise found
            if found is None:
                ended = True
                continue
            failures = failures + 1 if found.error is not None else 0
            if failures >= _FAILURES_IN_A_ROW:
                raise RunError(f"{failures} samples in a row cannot be fetched, the last one: {found.error}")
            yield found

    def _feed(self, samples: Iterable[Sample]) -> None:
        end: BaseException | None = None
        try:
            for sample in samples:
                if not self._enter(_bytes(sample)):
                    return
                self._threads.submit(self._bring, sample)
        except BaseException as raised:
            end = raised
        self._ready.put(end)

    def _enter(self, size: int) -> bool:
        """Wait for room; False if nobody takes any more. Who waits for a sample while none is coming gets one."""

        def room() -> bool:
            starved = self._starving and self._fetching == 0 and self._ready.empty()
            return self._closed or starved or (self._fetching < _AHEAD and self._bytes + size <= self._limit)

        with self._changed:
            self._changed.wait_for(room)
            self._fetching, self._bytes = self._fetching + 1, self._bytes + size
            return not self._closed

    def _bring(self, sample: Sample) -> None:
        found: Fetched | BaseException
        try:
            size = _bytes(sample)
            if size > self._limit:
                told = f"{size:,} bytes at once, more than the {self._limit:,} of --cache-size"
                raise SampleError("find", f"{sample.remote[0].url}: {told}")
            assert self._directory is not None
            place = self._directory / temporary_name()
            place.mkdir()
            try:
                found = _fetch(sample, place, video=self._video)
            except BaseException:
                shutil.rmtree(place, ignore_errors=True)
                raise
        except SampleError as error:
            found = Fetched(sample, sample, error=error)
        except OSError as error:
            found = RunError(f"the cache {self._cache}: {error.strerror or error}; --cache names another directory")
        except BaseException as error:  # a thread that ends in silence would leave its sample waited for
            found = error
        with self._changed:
            self._ready.put(found)
            self._fetching -= 1
            if isinstance(found, Fetched) and found.error is not None:
                self._bytes -= _bytes(sample)
            self._changed.notify_all()

    def release(self, found: Fetched) -> None:
        """Remove what was fetched for a sample."""
        if found.directory is not None:
            found.remove()
            with self._changed:
                self._bytes -= _bytes(found.sample)
                self._changed.notify_all()

    def close(self) -> None:
        """Fetch no more, and remove all copies."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._threads.shutdown(cancel_futures=True)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)


def _bytes(sample: Sample) -> int:
    return sum(file.size for file in sample.remote)


def _own_directory(cache: Path) -> Path:
    """A directory of this process's own; those of processes that were killed are removed."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        for entry in os.scandir(cache):
            if writer_is_gone(entry):
                shutil.rmtree(entry.path, ignore_errors=True)
        own = cache / temporary_name()
        own.mkdir()
    except OSError as error:
        raise RunError(f"the cache {cache}: {error.strerror or error}; --cache names another directory") from error
    return own


def _fetch(sample: Sample, directory: Path, *, video: bool = True, aus: bool = True) -> Fetched:
    """Fetch a sample's files into a directory; its action-unit directories are there even if they are empty."""
    here: Place | None = sample.video
    au_dirs = list(sample.au_dirs)
    remote_dirs = [each for each in sample.au_dirs if isinstance(each, Url)] if aus else []
    copies = {each: directory / f"aus{number}" for number, each in enumerate(remote_dirs)}
    try:
        for each, copy in copies.items():
            au_dirs[au_dirs.index(each)] = copy
            if remote.listing(each) is not None:
                copy.mkdir()
        if isinstance(sample.video, Url):
            here = directory / sample.video.name if video else None
        for file in sample.remote:
            if file.url == sample.video:
                if video:
                    remote.fetch(file.url, file.size, directory / file.url.name)
                continue
            above = [each for each in copies if file.url.is_below(each)]
            if above:  # of directories within each other, the innermost is the one that it was found in
                innermost = max(above, key=lambda each: len(each.where))
                target = copies[innermost] / file.url.where.removeprefix(f"{innermost.where}/")
                target.parent.mkdir(parents=True, exist_ok=True)
                remote.fetch(file.url, file.size, target)
    except remote.StoreError as error:
        raise SampleError("find", str(error)) from error
    return Fetched(sample, replace(sample, video=here, au_dirs=tuple(au_dirs), remote=()), directory)
