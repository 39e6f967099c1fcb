"""Has a corpus peaks at all? What its action-unit files say, before anything is decoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial

from gpupeak.config import ExtractConfig
from gpupeak.corpora.corpus import Corpus
from gpupeak.errors import AuError, counted
from gpupeak.peaks.reading import UNREADABLE, Listed, Look, read_peak, unlisted
from gpupeak.storage.fetching import fetched
from gpupeak.storage.overlap import overlapped
from gpupeak.storage.places import is_directory, local
from gpupeak.types import Failed, NoPeak, Peak, Sample


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
    """Each sample's peak, or why it has none; in any order, where files have to be fetched."""
    taken = [sample for sample in samples if isinstance(sample, Sample)]
    if not any(sample.remote for sample in taken):
        yield from zip(taken, overlapped(partial(_peak, look=Listed().of), taken, processes=True), strict=True)
        return
    for found in fetched(taken, config.cache_directory, config.cache_size, video=False):
        if found.error is not None:
            yield found.sample, NoPeak(UNREADABLE, found.error.reason)
            continue
        peak = _peak(found.here)
        yield found.sample, peak if isinstance(peak, Peak) else NoPeak(peak.reason, found.told(peak.detail))


def _peak(sample: Sample, look: Look = unlisted) -> Peak | NoPeak:
    return read_peak(sample.name, [local(each) for each in sample.au_dirs], sample.rule, look)
