"""Which plans does DALI decode in one batch?"""

from __future__ import annotations

import threading
from collections import deque

from gpupeak.channel import Cancelled
from gpupeak.decode.worker import Planned
from gpupeak.types import VideoFacts
from gpupeak.video.remake import Remade

_BUFFERED_FRAMES = 8  # that each of DALI's decoders keeps to put them in order
_WAITING_BYTES = 256 << 20


class Window:
    """At most `size` plans on their way from the planner to the pipelines, which take those that go best together.

    A decoder of NVDEC is made for one codec and coded size, in 50-70 ms: a batch is of the kind that most plans wait
    for, filled up with others. It has at most `batch_size` plans and `memory` of `native_bytes`, but at least one plan.
    What waits are the packets, too, so at most 256 MiB of them wait, or one plan.
    """

    def __init__(self, size: int, batch_size: int, memory: int) -> None:
        self._size, self._batch_size, self._memory = size, batch_size, memory
        self._groups: dict[tuple[object, ...], deque[Planned]] = {}
        self._waiting = self._bytes = 0
        self._finished = self._cancelled = False
        self._changed = threading.Condition()

    def add(self, planned: Planned) -> None:
        """Add a plan, waiting while the window is full. Raises Cancelled."""
        made = remade(planned)
        kind = (planned.plan.codec, made.coded, facts(planned).pix_fmt)
        with self._changed:
            self._changed.wait_for(lambda: self._has_room(len(made.data)) or self._cancelled)
            if self._cancelled:
                raise Cancelled
            self._groups.setdefault(kind, deque()).append(planned)
            self._waiting += 1
            self._bytes += len(made.data)
            self._changed.notify_all()

    def finish(self) -> None:
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def cancel(self) -> None:
        with self._changed:
            self._cancelled = True
            self._changed.notify_all()

    def take(self, wait: bool) -> tuple[Planned, ...]:
        """A batch of what waits; empty at the end, and where nothing waits now unless `wait`."""
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._waiting or self._finished or self._cancelled)
            if self._cancelled:
                return ()
            batch = self._batch()
            self._waiting -= len(batch)
            self._bytes -= sum(len(remade(planned).data) for planned in batch)
            self._changed.notify_all()
            return tuple(batch)

    def _has_room(self, size: int) -> bool:
        return not self._waiting or (self._waiting < self._size and self._bytes + size <= _WAITING_BYTES)

    def _batch(self) -> list[Planned]:
        batch: list[Planned] = []
        memory = 0
        for kind in sorted(self._groups, key=lambda kind: -len(self._groups[kind])):
            group = self._groups[kind]
            while group:
                memory += native_bytes(group[0])
                if batch and (len(batch) == self._batch_size or memory > self._memory):
                    return batch
                batch.append(group.popleft())
            del self._groups[kind]
        return batch


def native_bytes(planned: Planned) -> int:
    """Bytes that decoding a video takes: its RGB frames at coded size, twice, its decoder's, and its packets."""
    made = remade(planned)
    frames = 2 * (len(made.ordinals) + 2) + _BUFFERED_FRAMES
    return frames * made.coded[0] * made.coded[1] * 3 + len(made.data)


def facts(planned: Planned) -> VideoFacts:
    assert planned.plan.video is not None
    return planned.plan.video


def remade(planned: Planned) -> Remade:
    assert not isinstance(planned.given, str), planned.given
    return planned.given
