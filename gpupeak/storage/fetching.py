"""How what a sample needs comes from a store to this machine: fetched ahead, and removed when it has been decoded."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import tempfile
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

from gpupeak.errors import RunError, SampleError, reading, writing
from gpupeak.pipeline import Decoder
from gpupeak.storage import remote
from gpupeak.storage.atomic import temporary_name, writer_is_gone
from gpupeak.storage.places import place
from gpupeak.types import Failed, FrameBatch, FramePlan, NoPeak, Place, Sample, Url

_THREADS = 16  # each waits for one sample's files: tens of milliseconds a request, whatever the bandwidth
_AHEAD = 32
_FAILURES_IN_A_ROW = 64  # so many are not the samples' fault


@dataclass(frozen=True, slots=True)
class Fetched:
    """A sample, and the same one with its files `here`, copied into `directory`; or the `error` of fetching them."""

    sample: Sample
    here: Sample
    directory: Path | None = None
    error: SampleError | None = None

    def restored(self, plan: FramePlan) -> FramePlan:
        """A plan of `here` as one of `sample`: it tells of the store's files, not of their copies."""
        if self.directory is None:
            return plan
        peak, fallback = plan.peak, plan.fallback
        if peak is not None:
            peak = replace(peak, file=place(self.told(str(peak.file))))
        if fallback is not None:
            fallback = NoPeak(fallback.reason, self.told(fallback.detail))
        own = tuple(stamp for stamp in plan.files if not Path(stamp.file).is_relative_to(self.directory))
        stored = tuple(file.stamp for file in self.sample.remote)
        files = (*stored, *own) if isinstance(self.sample.video, Url) else (*own, *stored)
        return replace(plan, sample=self.sample, peak=peak, fallback=fallback, files=files)

    def told(self, text: str) -> str:
        """A text that names copies, naming the store's files."""
        pairs = zip((self.sample.video, *self.sample.au_dirs), (self.here.video, *self.here.au_dirs), strict=True)
        for there, copy in pairs:
            if isinstance(there, Url) and isinstance(copy, Path):
                text = text.replace(str(copy), str(there))
        return text


@contextlib.contextmanager
def at_hand(sample: Sample, *, aus: bool = True) -> Iterator[Fetched]:
    """Have one sample's files on this machine for as long as this lasts. Raises SampleError at stage "find", and
    RunError if there is no room; errors raised within name the store's files."""
    if not sample.remote:
        yield Fetched(sample, sample)
        return
    with tempfile.TemporaryDirectory(prefix="gpupeak-") as place:
        with writing(place):
            found = _fetch(sample, Path(place), aus=aus)
        try:
            yield found
        except SampleError as error:
            raise SampleError(error.stage, found.told(error.reason)) from error


@contextlib.contextmanager
def local_file(where: Place) -> Iterator[Path]:
    """Have one file on this machine for as long as this lasts, under its own name, if it is there. Raises RunError."""
    if not isinstance(where, Url):
        yield where
        return
    entry = (remote.listing(where.parent) or {}).get(where.name)
    with tempfile.TemporaryDirectory(prefix="gpupeak-") as place:
        target = Path(place, where.name)
        if entry is not None and entry.size is not None:
            with reading(where):
                remote.fetch(where, entry.size, target)
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

    Up to 32 samples are fetched ahead, 16 at a time, into a directory of this process's own below `cache`; copies take
    at most `limit` bytes, those being decoded included, and are removed when their frames are decoded.
    """

    def __init__(self, decoder: Decoder, cache: Path, limit: int) -> None:
        self._decoder, self._cache, self._limit = decoder, cache, limit

    def decode(self, samples: Iterable[Sample]) -> Generator[FrameBatch | Failed]:
        """Yield the frames or the failure of every sample as they are ready. Raises RunError if the cache is
        unusable."""
        unready: queue.SimpleQueue[Failed] = queue.SimpleQueue()
        decoding: dict[Place, Fetched] = {}
        with contextlib.closing(_Ahead(samples, self._cache, self._limit)) as ahead:

            def ready() -> Iterator[Sample]:
                for found in ahead:
                    if found.error is not None:
                        unready.put(Failed(found.sample, found.error.stage, found.error.reason))
                        continue
                    decoding[found.sample.target] = found
                    yield found.here

            with contextlib.closing(self._decoder.decode(ready())) as batches:
                for batch in batches:
                    while not unready.empty():
                        yield unready.get()
                    if isinstance(batch, Failed):
                        done = [decoding.pop(batch.sample.target)]
                        plan = batch.plan and done[0].restored(batch.plan)
                        batch = Failed(done[0].sample, batch.stage, done[0].told(batch.reason), plan)
                    else:
                        done = [decoding.pop(plan.sample.target) for plan in batch.plans]
                        plans = (found.restored(plan) for found, plan in zip(done, batch.plans, strict=True))
                        batch = replace(batch, plans=tuple(plans))
                    for found in done:
                        ahead.release(found)
                    yield batch
            while not unready.empty():
                yield unready.get()

    def close(self) -> None:
        self._decoder.close()


def fetched(samples: Iterable[Sample], cache: Path, limit: int, *, video: bool = True) -> Generator[Fetched]:
    """Yield samples, or why not, when their files are here; they are until the next one is asked for. Raises
    RunError."""
    with contextlib.closing(_Ahead(samples, cache, limit, video=video)) as ahead:
        for found in ahead:
            yield found
            ahead.release(found)


class _Ahead:
    """Samples whose files are fetched ahead of whoever takes them, within a bound on their number and bytes."""

    def __init__(self, samples: Iterable[Sample], cache: Path, limit: int, *, video: bool = True) -> None:
        self._source, self._cache, self._limit, self._video = iter(samples), cache, limit, video
        self._directory: Path | None = None
        self._held: dict[Path, int] = {}  # bytes of each copy that is here or coming
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="gpupeak-fetch")

    def __iter__(self) -> Iterator[Fetched]:
        fetching: set[Future[Fetched]] = set()
        failures, sample = 0, next(self._source, None)
        while sample is not None or fetching:
            # Who asks for a sample while none is coming gets one, whatever it holds: it may be gathering a batch.
            while sample is not None and (not fetching or (len(fetching) < _AHEAD and self._fits(sample))):
                if sample.remote:
                    self._directory = self._directory or _own_directory(self._cache)
                    place = self._directory / temporary_name()
                    self._held[place] = _bytes(sample)
                    fetching.add(self._threads.submit(self._bring, sample, place))
                else:
                    yield Fetched(sample, sample)
                sample = next(self._source, None)
            done, fetching = wait(fetching, return_when=FIRST_COMPLETED)
            for found in (future.result() for future in done):
                failures = failures + 1 if found.error is not None else 0
                if failures >= _FAILURES_IN_A_ROW:
                    raise RunError(f"{failures} samples in a row cannot be fetched, the last one: {found.error}")
                yield found

    def _fits(self, sample: Sample) -> bool:
        return sum(self._held.copy().values()) + _bytes(sample) <= self._limit

    def _bring(self, sample: Sample, place: Path) -> Fetched:
        try:
            if (size := _bytes(sample)) > self._limit:
                told = f"{size:,} bytes at once, more than the {self._limit:,} of --cache-size"
                raise SampleError("find", f"{sample.remote[0].url}: {told}")
            with _using(self._cache):
                place.mkdir()
                return _fetch(sample, place, video=self._video)
        except SampleError as error:
            self.release(Fetched(sample, sample, place))
            return Fetched(sample, sample, error=error)

    def release(self, found: Fetched) -> None:
        if found.directory is not None:
            shutil.rmtree(found.directory, ignore_errors=True)
            del self._held[found.directory]

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)


def _bytes(sample: Sample) -> int:
    return sum(file.size for file in sample.remote)


def _own_directory(cache: Path) -> Path:
    """A directory of this process's own; those of processes that were killed are removed."""
    with _using(cache):
        cache.mkdir(parents=True, exist_ok=True)
        for entry in os.scandir(cache):
            if writer_is_gone(entry):
                shutil.rmtree(entry.path, ignore_errors=True)
        own = cache / temporary_name()
        own.mkdir()
        return own


@contextlib.contextmanager
def _using(cache: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f"the cache {cache}: {error.strerror or error}; --cache names another directory") from error


def _fetch(sample: Sample, directory: Path, *, video: bool = True, aus: bool = True) -> Fetched:
    """Fetch a sample's files into a directory; its action-unit directories are there even if they are empty."""
    dirs = [each for each in sample.au_dirs if aus and isinstance(each, Url)]
    here = {each: directory / f"aus{number}" for number, each in enumerate(dirs)}
    try:
        for there, copy in here.items():
            if remote.listing(there) is not None:
                copy.mkdir()
        for file in sample.remote:
            # Of directories within each other, the inner one is tried first.
            homes = {file.url.parent: directory} if file.url == sample.video else here
            above = next((each for each in homes if file.url.is_below(each)), None)
            if above is not None and (video or file.url != sample.video):
                target = homes[above] / file.url.where.removeprefix(f"{above.where}/")
                target.parent.mkdir(parents=True, exist_ok=True)
                remote.fetch(file.url, file.size, target)
    except remote.StoreError as error:
        raise SampleError("find", str(error)) from error
    own = directory / sample.video.name if isinstance(sample.video, Url) else sample.video
    au_dirs = tuple(here.get(each, each) if isinstance(each, Url) else each for each in sample.au_dirs)
    return Fetched(sample, replace(sample, video=own, au_dirs=au_dirs, remote=()), directory)
