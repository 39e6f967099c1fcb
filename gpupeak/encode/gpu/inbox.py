"""The frames that are ready for an encoder on a GPU."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from gpupeak.encode.base import Frames, frames_of, give_back
from gpupeak.types import FrameBatch

_POLL = 0.002  # seconds; a large batch takes a GPU tens of milliseconds


class Inbox:
    """Reads ahead on a thread of its own, up to `images` images; gives back what it holds when it is closed."""

    def __init__(self, batches: Iterable[FrameBatch], images: int) -> None:
        self._limit = images
        self._ready: deque[Frames] = deque()
        self._ended = self._closed = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        threading.Thread(target=self._read, args=(iter(batches),), name="gpupeak-inbox", daemon=True).start()

    def close(self) -> None:
        """Take no more. The thread is not waited for: it ends when whoever it reads from hands over or ends."""
        with self._changed:
            self._closed = True
            give_back(self._ready)
            self._changed.notify_all()

    def take(self, most: int, until: Callable[[], bool] | None = None) -> list[Frames]:
        """Take the next samples: as many as are ready and have at most `most` images, but at least one.

        Waits for the first one, or, if given, for `until` to come true: then, and at the end, the list is empty. Raises
        whatever reading raised, when all before it was taken and there is no `until` to see to first.
        """
        with self._changed:
            while not (self._ready or self._ended or (until is not None and until())):
                self._changed.wait(None if until is None else _POLL)
            if self._error is not None and not self._ready and until is None:
                raise self._error
            taken: list[Frames] = []
            images = 0
            while self._ready and (not taken or images + len(self._ready[0].rows) <= most):
                taken.append(self._ready.popleft())
                images += len(taken[-1].rows)
            self._changed.notify_all()
            return taken

    def _read(self, batches: Iterator[FrameBatch]) -> None:
        try:
            for batch in batches:
                with self._changed:
                    if self._closed:
                        batch.release()
                        return
                    self._ready += frames_of(batch)
                    self._changed.notify_all()
                    self._changed.wait_for(self._reads_on)
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _reads_on(self) -> bool:
        return self._closed or sum(len(frames.rows) for frames in self._ready) < self._limit
