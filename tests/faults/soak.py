"""Does anything go wrong, or grow, in a long time of faults drawn by lot?

Runs are disturbed every few seconds; one that ends is followed by another in the same directory until all is done.
"""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import psutil
from faults.corpus import Scale, make_corpus
from faults.disk import Trials
from faults.harness import Extraction, files, home, undisturbed, words

LIMIT = 4.0
BETWEEN = 3.0
"""Seconds between two faults, at most."""
STARTING = {-signal.SIGINT, -signal.SIGTERM}
"""How a signal ends any Python that is still starting."""
CODES = {0, 1, 130, -signal.SIGKILL} | STARTING
COUNTED = ("directories", "runs", "failed_and_made_again")

Fault: TypeAlias = Callable[[Extraction, random.Random], None]
Moment: TypeAlias = Callable[[Extraction, Path], bool]
"""Waits for the next one; False if the run, over features in a directory, ends before or has been disturbed enough."""


@dataclass(slots=True)
class Disturbed(Trials):
    """Disturbed runs over a corpus, one directory after another, and what came of them."""

    codes: Counter[str] = field(default_factory=Counter)

    def until_done(
        self,
        faults: Mapping[str, Fault],
        moment: Moment,
        codes: Collection[int],
        *,
        more: Sequence[str] = (),
        pause: float = 0.0,
    ) -> None:
        """Start runs and disturb them until one comes to its end; `codes` are those they may end with."""
        out = self.place()
        self.found["directories"] += 1
        code = -1
        while code != 0:
            before, process = files(home(out)), Extraction([*words(self.corpus, out), *more], pause=pause)
            self.found["runs"] += 1
            while moment(process, home(out)):
                name = self.draw.choice(list(faults))
                self.happened[name] += 1
                faults[name](process, self.draw)
            code = self.ended("disturbed", process, out, codes)
            self.codes[str(code)] += 1
            self.found["failed_and_made_again"] += process.summary.get("failed", 0) if code == 1 else 0
            if code not in codes:
                break
            begun = before < files(home(out)) < len(self.corpus.names)
            self.demand(f"ended with {code} in the middle", not (code in STARTING and begun))
            self.demand("some were made twice", code != 0 or process.summary["skipped"] == before, process)
        self.made_good("disturbed", out)

    def figures(self) -> dict[str, Any]:
        more = {name: self.found[name] for name in COUNTED}
        return {**Trials.figures(self), "exit_codes": dict(self.codes), **more}


def run(scale: Scale, seed: int, work: Path) -> dict[str, Any]:
    """As many minutes as the scale says; `ok` if every directory came out as if nothing had happened."""
    corpus = make_corpus(work / "corpus", scale.few)
    runs = Disturbed(corpus, undisturbed(corpus, work / "undisturbed"), random.Random(seed), work)
    began, until = time.monotonic(), time.monotonic() + 60 * scale.minutes
    worst = 0.0

    def moment(process: Extraction, out: Path) -> bool:
        nonlocal worst
        next_one = min(until, time.monotonic() + runs.draw.uniform(0, BETWEEN))
        while process.running and time.monotonic() < next_one:
            memory = 0.0
            for each in [*process.workers(), psutil.Process(process.process.pid)]:
                with contextlib.suppress(psutil.Error):
                    memory += each.memory_info().rss / 2**20
            worst = max(worst, memory)
            time.sleep(0.05)
        return process.running and time.monotonic() < until

    limit = ("--time-limit", str(LIMIT))
    while time.monotonic() < until:
        runs.until_done(FAULTS, moment, CODES, more=limit, pause=8 / len(corpus.names))
    figures = {"seed": seed, "minutes": (time.monotonic() - began) / 60, "faults_met": runs.happened.total()}
    return {**figures, **runs.figures(), "peak_mib": worst}


def kill_run(run: Extraction, draw: random.Random) -> None:
    run.process.kill()


def kill_worker(run: Extraction, draw: random.Random) -> None:
    with contextlib.suppress(psutil.Error, IndexError):  # there may be none
        draw.choice(run.workers()).kill()


def stop(run: Extraction, draw: random.Random) -> None:
    """The run or a worker, for longer than a sample may take at times."""
    with contextlib.suppress(psutil.Error):
        process = draw.choice([psutil.Process(run.process.pid), *run.workers()])
        process.suspend()
        time.sleep(draw.uniform(0, 1.5 * LIMIT))
        process.resume()


def interrupt(run: Extraction, draw: random.Random) -> None:
    for _ in range(draw.choice((1, 2))):
        run.process.send_signal(draw.choice((signal.SIGINT, signal.SIGTERM)))
        time.sleep(draw.uniform(0, 0.05))


FAULTS: dict[str, Fault] = {
    "run killed": kill_run,
    "worker killed": kill_worker,
    "stopped": stop,
    "interrupted": interrupt,
}
