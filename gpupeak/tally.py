"""What a run did, counted as it goes (`Tally`) and told at its end (`RunReport`)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from gpupeak.types import Failed, Outcome, Place

FALLBACK_WARNING = 0.2
"""A dataset of which more than this share fell back ends in a warning."""
_NAMED = 5
_TOTALS = ("listed", "saved", "skipped", "failed", "not_reached", "clamped", "stale")
_PLAIN = ("dataset", "expected", "fallbacks", "peaks", "warnings")
_Item = TypeVar("_Item")
_DISTINCT_REASONS = 50  # a reason may hold numbers of its sample: past so many, the rest are counted together


def warned_of(dataset: str, warned: Counter[str]) -> list[str]:
    """What samples that are saved are `warned` of, as lines."""
    counted = ((f"{count} sample{'s' * (count > 1)}", text) for text, count in warned.most_common())
    return [f"{dataset}: {samples} saved: {text}" for samples, text in counted]


@dataclass(slots=True)
class Tally:
    """One dataset's counts, advanced by `add` once per outcome; `expected` is how many samples AffectGPT counts,
    `stale` how many had features of other frames, or of another video, than would be taken at its start."""

    dataset: str
    directory: Place
    listed: int
    expected: int | None = None
    skipped: int = 0
    saved: int = 0
    failed: int = 0
    clamped: int = 0
    stale: int = 0
    fallbacks: Counter[str] = field(default_factory=Counter)
    peaks: Counter[str] = field(default_factory=Counter)
    warned: Counter[str] = field(default_factory=Counter)
    failures: Counter[tuple[str, str]] = field(default_factory=Counter)
    failed_first: list[Failed] = field(default_factory=list)
    stage_seconds: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)
    began: float | None = None
    ended: float | None = None

    @property
    def done(self) -> int:
        return self.skipped + self.saved + self.failed

    @property
    def not_reached(self) -> int:
        return self.listed - self.done

    @property
    def seconds(self) -> float:
        return 0.0 if self.began is None or self.ended is None else self.ended - self.began

    def start(self) -> None:
        if self.began is None:
            self.began = time.monotonic()

    def add(self, outcome: Outcome) -> None:
        self.start()
        self.ended = time.monotonic()
        if isinstance(outcome, Failed):
            self.failed += 1
            key = (outcome.stage, outcome.reason)
            if key not in self.failures and len(self.failures) >= _DISTINCT_REASONS:
                key = (outcome.stage, "other reasons: see manifest.jsonl")
            self.failures[key] += 1
            if len(self.failed_first) < _NAMED:
                self.failed_first.append(outcome)
            return
        plan = outcome.plan
        self.saved += 1
        self.stage_seconds.update(outcome.seconds)
        self.clamped += plan.clamp is not None
        self.warned.update(plan.warnings)
        if plan.fallback is not None:
            self.fallbacks[plan.fallback.reason] += 1
        elif plan.peak is not None:
            self.peaks[plan.peak.source] += 1

    def close(self) -> None:
        """The run is over: add the samples' own warnings, and the one that a large share of fallbacks deserves."""
        self.warnings += warned_of(self.dataset, self.warned)
        fell_back = sum(self.fallbacks.values())
        if fell_back > FALLBACK_WARNING * self.saved:
            reason, count = self.fallbacks.most_common(1)[0]
            self.warnings.append(
                f"{self.dataset}: {fell_back} of {self.saved} samples saved fell back to another sampling "
                f"(most often: {reason}, {count}); are the action-unit files complete?"
            )

    def to_json(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in (*_TOTALS, *_PLAIN)},
            "directory": str(self.directory),
            "failures": [{"stage": s, "reason": r, "count": c} for (s, r), c in self.failures.most_common()],
            "failed_first": [
                {"sample": f.sample.name, "stage": f.stage, "reason": f.reason} for f in self.failed_first
            ],
            "stage_seconds": {stage: round(value, 6) for stage, value in self.stage_seconds.items()},
            "seconds": round(self.seconds, 6),
        }


@dataclass(frozen=True, slots=True)
class RunReport:
    """What one run did. `seconds` is wall-clock time, loading of the encoder included."""

    datasets: tuple[Tally, ...]
    seconds: float
    device: str | None
    interrupted: bool
    notices: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 all saved or skipped; 1 some samples failed; 130 interrupted."""
        if self.interrupted:
            return 130
        return 1 if any(tally.failed for tally in self.datasets) else 0

    def to_json(self) -> dict[str, Any]:
        return {
            "exit_code": self.exit_code,
            "interrupted": self.interrupted,
            "device": self.device,
            "seconds": round(self.seconds, 6),
            **{name: sum(getattr(tally, name) for tally in self.datasets) for name in _TOTALS},
            "notices": self.notices,
            "datasets": [tally.to_json() for tally in self.datasets],
        }


class Observer:
    """Told of a run as it goes, on the thread that runs `extract`. This one takes no notice."""

    def started(self, tallies: tuple[Tally, ...]) -> None: ...  # finished work is counted; `tallies` go on counting
    def notice(self, text: str) -> None: ...  # one line that the user should see
    def advanced(self, tally: Tally, outcome: Outcome) -> None: ...  # `tally` has just counted `outcome`


class Watch(Protocol):
    """Hands items on as they are, and may show how many of `total` have been taken."""

    def __call__(self, items: Iterable[_Item], /, total: int, *, description: str) -> Iterable[_Item]: ...


def unwatched(items: Iterable[_Item], /, total: int, *, description: str) -> Iterable[_Item]:
    return items
