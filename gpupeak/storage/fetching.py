"""How does what a sample needs come from a store to this machine? Fetched ahead, and held while it is read."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

from gpupeak.errors import RunError, SampleError
from gpupeak.peaks.reading import places
from gpupeak.pipeline import Decoder
from gpupeak.storage import remote
from gpupeak.storage.mirror import Mirror
from gpupeak.types import Failed, FrameBatch, Sample, StoredFile

__all__ = ["FetchingDecoder", "at_hand", "fetched", "file_at_hand", "video_bytes"]

_THREADS = 16  # each waits for one sample's files: tens of milliseconds a request, whatever the bandwidth
_AHEAD = 32
_SHARE = 4  # of the cache, one part in so many is fetched ahead: the rest is for those being read
_FAILURES_IN_A_ROW = 64
"""So many samples that cannot be fetched one after another are not the samples' fault."""


@contextlib.contextmanager
def at_hand(sample: Sample, *, video: bool = True, aus: bool = True) -> Iterator[None]:
    """Have the video and the action-unit files of a sample where its paths say, for as long as this lasts.

    Does nothing for a sample whose files are on this machine anyway.

    Raises:
        SampleError: at stage "find": a file cannot be fetched, or is larger than the cache.
        RunError: the cache cannot be used.
    """
    wanted = sample.fetch
    if wanted is None:
        yield
        return
    files = [file for file in wanted.files if (video if file.path == sample.video else aus)]
    if aus:
        _clear(sample, {file.path for file in files})
    with contextlib.ExitStack() as held:
        try:
            if files:
                held.enter_context(Mirror(remote.base_of(files[0].path), wanted.limit).holding(files))
        except remote.StoreError as error:
            raise SampleError("find", str(error)) from error
        yield


@contextlib.contextmanager
def file_at_hand(path: Path, limit: int) -> Iterator[None]:
    """Have one file, such as a list of samples, at its path, for as long as this lasts; `limit` is the cache's.

    Raises:
        RunError: it is in a store and cannot be fetched. One that is not there is for its reader to tell.
    """
    entry = None if remote.url_of(path) is None else (remote.listing(path.parent) or {}).get(path.name)
    if entry is None or entry.size is None:
        yield
        return
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(
                Mirror(remote.base_of(path), limit).holding([StoredFile(path, entry.size, entry.changed)])
            )
        except remote.StoreError as error:
            raise RunError(str(error)) from error
        yield


def video_bytes(sample: Sample) -> int | None:
    """The size of a sample's video, wherever it lies; None if it is not there."""
    if sample.fetch is not None:
        for file in sample.fetch.files:
            if file.path == sample.video:
                return file.size
    try:
        return None if sample.video is None else sample.video.stat().st_size
    except OSError:
        return None


class FetchingDecoder:
    """A decoder that is given samples when what they need is in the cache; those that cannot be fetched fail before it.

    Up to 32 samples are fetched ahead, 16 at a time, and no more than a quarter of the cache. Samples whose files are
    on this machine anyway pass through.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder

    def decode(self, samples: Iterable[Sample]) -> Generator[FrameBatch | Failed]:
        """Yield the frames or the failure of every sample, in the order in which they are ready.

        Raises:
            RunError: the cache cannot be used, or nothing can be fetched any more.
        """
        failed: deque[Failed] = deque()

        def good() -> Iterator[Sample]:
            with contextlib.closing(fetched(samples)) as ready:
                for sample, error in ready:
                    if error is None:
                        yield sample
                    else:
                        failed.append(Failed(sample, error.stage, error.reason))

        with contextlib.closing(self._decoder.decode(good())) as batches:
            for batch in batches:
                while failed:
                    yield failed.popleft()
                yield batch
        yield from failed

    def close(self) -> None:
        """Close the decoder."""
        self._decoder.close()


def fetched(samples: Iterable[Sample], *, video: bool = True) -> Generator[tuple[Sample, SampleError | None]]:
    """Yield samples when their files are in the cache, in the order in which they are, or why they are not.

    They are not held there: `at_hand` does that, and fetches again what had to go meanwhile. Samples are taken on a
    thread of its own, from the first on that has something to fetch: what is ready does not wait for more of them.

    Raises:
        RunError: the cache cannot be used, or nothing can be fetched any more; also what `samples` raises.
    """
    source = iter(samples)
    for sample in source:
        if sample.fetch is None:
            yield sample, None
        else:
            yield from _fetched(chain([sample], source), video)


def _fetched(source: Iterable[Sample], video: bool) -> Generator[tuple[Sample, SampleError | None]]:
    ready: queue.SimpleQueue[tuple[Sample, BaseException | None] | BaseException | None] = queue.SimpleQueue()
    threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="gpupeak-fetch")
    window = _Window()

    def bring(sample: Sample) -> None:
        error: BaseException | None = None
        try:
            with at_hand(sample, video=video):
                pass
        except BaseException as raised:  # a thread that ends in silence would leave its sample waited for
            error = raised
        ready.put((sample, error))

    def feed() -> None:
        end: BaseException | None = None
        try:
            for sample in source:
                if not window.enter(sample):
                    return
                threads.submit(bring, sample)
        except BaseException as raised:
            end = raised
        ready.put(end)

    threading.Thread(target=feed, name="gpupeak-feed", daemon=True).start()
    in_a_row, ended = 0, False
    try:
        while not (ended and window.empty):
            item = ready.get()
            if not isinstance(item, tuple):
                ended = True
                if item is not None:
                    raise item
                continue
            sample, error = item
            window.leave(sample)
            if error is not None and not isinstance(error, SampleError):
                raise error
            in_a_row = 0 if error is None else in_a_row + 1
            if in_a_row >= _FAILURES_IN_A_ROW:
                raise RunError(f"{in_a_row} samples in a row cannot be fetched, the last one: {error}") from error
            yield sample, error
    finally:
        window.close()
        threads.shutdown(cancel_futures=True)


class _Window:
    """How many samples, and how much of the cache, may be fetched ahead of whoever takes them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._samples = self._bytes = 0
        self._closed = False

    @property
    def empty(self) -> bool:
        return self._samples == 0

    def enter(self, sample: Sample) -> bool:
        """Wait for room for a sample, which one alone always has; False if nobody takes any more."""
        size = _bytes(sample)
        most = _share(sample)
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or self.empty or (self._samples < _AHEAD and self._bytes + size <= most)
            )
            self._samples, self._bytes = self._samples + 1, self._bytes + size
            return not self._closed

    def leave(self, sample: Sample) -> None:
        with self._changed:
            self._samples, self._bytes = self._samples - 1, self._bytes - _bytes(sample)
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def _share(sample: Sample) -> int:
    return 0 if sample.fetch is None else sample.fetch.limit // _SHARE


def _bytes(sample: Sample) -> int:
    return 0 if sample.fetch is None else sum(file.size for file in sample.fetch.files)


def _clear(sample: Sample, there: set[Path]) -> None:
    """Leave in the cache no action-unit file of this sample that is no longer in the store, where it would be found."""
    for directory in sample.au_dirs:
        if remote.url_of(directory) is not None:
            for place in places(sample.name):
                path = directory / place
                if path not in there:
                    with contextlib.suppress(OSError):
                        path.unlink()
    if sample.fetch is not None:
        for directory in sample.fetch.directories:
            directory.mkdir(parents=True, exist_ok=True)  # there, even if it holds nothing of this sample
