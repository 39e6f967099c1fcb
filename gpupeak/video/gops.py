"""Which packets does decoding some frames of a video take?"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Container, Iterable
from dataclasses import dataclass
from itertools import accumulate, pairwise


@dataclass(slots=True)
class Gops:
    """The groups of pictures of a video. Packets are numbered from 0 in decoding order.

    `shown` are the packets of the presented frames, in presentation order once that is known; `starts` those at which
    decoding can start, `fresh` those where it can without a flush; `droppable` whether no other picture refers to a
    packet's.
    """

    pts: list[int]
    shown: list[int]
    starts: list[int]
    fresh: list[int]
    droppable: list[bool]
    standalone: bool

    def ordered(self, bidirectional: bool) -> bool:
        """Whether the timestamps can be the order of presentation; `bidirectional`: there are B pictures."""
        pts = self.pts
        # AVI stores none: with B pictures, timestamps that go up in decoding order are made up.
        invented = bidirectional and all(a < b for a, b in pairwise(pts))
        unique = len({pts[number] for number in self.shown}) == len(self.shown)
        # What comes before a random access point in decoding order does so in presentation order.
        latest = list(accumulate(pts, max))
        apart = all(latest[start - 1] < pts[start] for start in self.starts if start)
        return unique and apart and not invented and bool(self.starts)

    def delivers(self, run: list[int], shown: Container[int]) -> list[int]:
        """The timestamps, ascending, that decoding a run has to deliver from its first key frame's on."""
        at = bisect_left(self.starts, run[0])
        if at == len(self.starts) or self.starts[at] > run[-1]:
            return []
        first = self.pts[self.starts[at]]
        return sorted(self.pts[number] for number in run if self.pts[number] >= first and number in shown)

    def runs(self, indices: Iterable[int]) -> list[list[int]]:
        """The packets, ascending, that decoding frames `indices` takes; between two runs the decoder is flushed."""
        wanted = {self.shown[index] for index in indices}
        spans: list[tuple[int, int]] = []
        for start, stop in sorted((self._start(number), number) for number in wanted):
            if spans and start <= spans[-1][1]:
                start, last = spans.pop()
                stop = max(stop, last)
            spans.append((start, stop))
        return [self._run(start, stop, wanted) for start, stop in spans]

    def joined(self, indices: Iterable[int]) -> list[int]:
        """`runs` in one, for a decoder that goes on from packet to packet: where a run cannot be entered so (H.264 that
        starts without an IDR picture), what lies between it and the last place where it can be is in it, too."""
        wanted = {self.shown[index] for index in indices}
        joined: list[int] = []
        for run in self.runs(indices):
            before, start = joined[-1] if joined else -1, run[0]
            if start not in self.fresh:
                entered = (fresh for fresh in self.fresh if before < fresh < start)
                span = range(max(entered, default=before + 1 if joined else start), run[-1] + 1)
                run = [number for number in span if number in wanted or not self.droppable[number]]
            joined += run
        return joined

    def _start(self, number: int) -> int:
        """The last key frame at or before a packet, or in open GOPs one back: it leads, so it refers to that."""
        before = self.starts[: bisect_right(self.starts, number)]
        return next((start for start in reversed(before) if self.pts[start] <= self.pts[number]), 0)

    def _run(self, start: int, stop: int, wanted: set[int]) -> list[int]:
        numbers, droppable, pts, first = range(start, stop + 1), self.droppable, self.pts, self.pts[start]
        inside = start not in self.starts or any(pts[number] < first for number in wanted.intersection(numbers))
        if inside or not self.standalone:
            return list(numbers)  # a stream that begins inside a GOP has to recover just as it does read in full
        return [number for number in numbers if number in wanted or not (droppable[number] or pts[number] < first)]
