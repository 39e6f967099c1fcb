"""Has a corpus peaks at all? What its action-unit files say, before anything is decoded."""

from __future__ import annotations

import contextlib
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import chain

from gpupeak.child import Child, Ended, connect, cores
from gpupeak.config import ExtractConfig
from gpupeak.corpora.corpus import Corpus
from gpupeak.errors import AuError, counted
from gpupeak.peaks.reading import UNREADABLE, Look, listed, read_peak, unlisted
from gpupeak.storage.fetching import fetched
from gpupeak.storage.overlap import overlapped
from gpupeak.storage.places import is_directory, local
from gpupeak.types import Failed, NoPeak, Peak, Sample

_A_TASK = 256  # samples
SECONDS_ALONE = 2.0  # processes take half a second to start
_SECONDS_A_TASK = 120.0


def require_peaks(corpus: Corpus, samples: Iterable[Sample | Failed], config: ExtractConfig) -> None:
    """Refuse a corpus in which no peak will be found: the sign of a mistyped action-unit directory.

    Does nothing where the user named the fallback. Reads files up to the first usable peak; raises AuError.
    """
    if corpus.rule.method != "emotion_peak" or corpus.fallback_given:
        return
    way_out = "--mer-factory-output (or --aus) says where they are, --fallback uniform goes without"
    searched = ", ".join(map(str, corpus.au_dirs))
    if not any(map(is_directory, corpus.au_dirs)):
        missing = f"no action-unit directory at {searched}" if searched else "emotion_peak needs action-unit files"
        raise AuError(f"{corpus.name}: {missing}; {way_out}")
    reasons: Counter[str] = Counter()
    example = ""
    for sample, peak in read_peaks(samples, config):
        if isinstance(peak, Peak):
            return
        reasons[peak.reason] += 1
        example = example or f"{sample.name}: {peak.detail}"
    if reasons:
        why = ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common(3))
        missing = f"no usable peak in any of {counted(reasons.total(), 'sample')}, searched {searched}"
        raise AuError(f"{corpus.name}: {missing} ({why}; first {example}); {way_out}")


def read_peaks(samples: Iterable[Sample | Failed], config: ExtractConfig) -> Iterator[tuple[Sample, Peak | NoPeak]]:
    """Each sample's peak, or why it has none; in any order, where files have to be fetched. Where the first ones tell
    that the others will take long, those are read by processes."""
    taken = [sample for sample in samples if isinstance(sample, Sample)]
    if not any(sample.remote for sample in taken):
        began, peak_of = time.monotonic(), partial(_peak, look=cache(listed))
        first, others = taken[:_A_TASK], taken[_A_TASK:]
        yield from zip(first, overlapped(peak_of, first), strict=True)
        long = (time.monotonic() - began) * len(others) > SECONDS_ALONE * len(first)
        yield from zip(others, _by_processes(others) if long else overlapped(peak_of, others), strict=True)
        return
    for found in fetched(taken, config.cache_directory, config.cache_size, video=False):
        if found.error is not None:
            yield found.sample, NoPeak(UNREADABLE, found.error.reason)
            continue
        peak = _peak(found.here)
        yield found.sample, peak if isinstance(peak, Peak) else NoPeak(peak.reason, found.told(peak.detail))


def _peak(sample: Sample, look: Look = unlisted) -> Peak | NoPeak:
    return read_peak(sample.name, [local(each) for each in sample.au_dirs], sample.rule, look)


def _by_processes(samples: Sequence[Sample]) -> Iterator[Peak | NoPeak]:
    tasks = [samples[start : start + _A_TASK] for start in range(0, len(samples), _A_TASK)]
    idle: deque[Child] = deque()  # as many as threads

    def peaks(task: Sequence[Sample]) -> Iterable[Peak | NoPeak]:
        child = idle.pop()
        try:
            child.send(task)
            found: list[Peak | NoPeak] = child.receive(_SECONDS_A_TASK)
            return found
        except Ended:  # whoever killed it: nothing is lost
            return map(_peak, task)
        finally:
            idle.append(child)

    with contextlib.ExitStack() as begun:  # if one cannot start, those before it end, too
        for _ in range(min(cores(), len(tasks))):
            idle.append(Child(answer))
            begun.callback(idle[-1].end)
        threads = ThreadPoolExecutor(len(idle))
        begun.callback(threads.shutdown, wait=False, cancel_futures=True)
        yield from chain.from_iterable(threads.map(peaks, tasks))


def answer() -> None:
    """What such a process does: tasks come, and peaks go back."""
    (connection, _), peak_of = connect(), partial(_peak, look=cache(listed))
    with contextlib.suppress(EOFError):
        while True:
            connection.send(list(overlapped(peak_of, connection.recv())))
