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

import psutil  # type: ignore[import-untyped]
from faults.corpus import Corpus, Scale, make_corpus
from faults.harness import Extraction, Tree, Watcher, differences, home, kept, look, undisturbed, words

LIMIT = 4.0
BETWEEN = 3.0
"""Seconds between two faults, at most."""
STARTING = {-signal.SIGINT, -signal.SIGTERM}
"""How a signal ends any Python that is still starting."""
CODES = {0, 1, 130, -signal.SIGKILL} | STARTING
COUNTED = (
    *("directories", "runs", "files_checked", "torn_files", "lost_samples", "doubled_samples", "orphans"),
    *("kept_lines", "failed_and_made_again"),
)


@dataclass(slots=True)
class Scene:
    process: Extraction
    draw: random.Random


Fault: TypeAlias = Callable[[Scene], None]
Moment: TypeAlias = Callable[[Extraction, Watcher], bool]
"""Waits for the next one; False if the run ends before, or has been disturbed enough."""


@dataclass
class Disturbed:
    """Disturbed runs over a corpus, one directory after another, and what came of them."""

    corpus: Corpus
    expected: Tree
    draw: random.Random
    faults: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def until_done(
        self,
        out: Path,
        faults: Mapping[str, Fault],
        moment: Moment,
        codes: Collection[int],
        *,
        more: Sequence[str] = (),
        pause: float = 0.0,
    ) -> None:
        """Start runs into `out` and disturb them until one comes to its end; `codes` are those it may end with."""
        self.found["directories"] += 1
        with Watcher(home(out), self.expected.features) as watcher:
            code = -1
            while code != 0:
                process, before = Extraction([*words(self.corpus, out), *more], pause=pause), watcher.appeared
                self.found["runs"] += 1
                while moment(process, watcher):
                    name = self.draw.choice(list(faults))
                    self.faults[name] += 1
                    faults[name](Scene(process, self.draw))
                code = process.wait()
                self.codes[str(code)] += 1
                self.found["orphans"] += process.orphans()
                self.found["failed_and_made_again"] += process.summary.get("failed", 0) if code == 1 else 0
                tree = look(home(out))
                torn = [name for name, data in tree.features.items() if data != self.expected.features[name]]
                self.wrong += [f"{name}: torn" for name in torn]
                if code not in codes or process.told_badly:
                    self.wrong.append(f"ended with {code}: {process.errors.strip()[-300:]}")
                    if code not in codes:
                        break
                if code in STARTING and before < watcher.appeared < len(self.corpus.names):
                    self.wrong.append(f"ended with {code} in the middle")
        self.wrong += [*differences(tree, self.expected), *watcher.torn]
        self.found["files_checked"] += watcher.appeared
        self.found["torn_files"] += len(watcher.torn) + len(torn)
        self.found["doubled_samples"] += watcher.doubled
        self.found["lost_samples"] += len(self.expected.features.keys() - tree.features.keys())
        self.found["events_missed"] += watcher.missed
        self.found["kept_lines"] += kept(tree)

    def figures(self) -> dict[str, Any]:
        return {
            "clips": len(self.corpus.names),
            "of": dict(self.faults),
            "exit_codes": dict(self.codes),
            **{name: self.found[name] for name in COUNTED},
            "faults": self.wrong[:20],
            "ok": not self.wrong and not any(self.found[name] for name in ("doubled_samples", "orphans")),
        }


def run(scale: Scale, seed: int, work: Path) -> dict[str, Any]:
    """As many minutes as the scale says; `ok` if every directory came out as if nothing had happened."""
    corpus = make_corpus(work / "corpus", scale.few)
    runs = Disturbed(corpus, undisturbed(corpus, work / "undisturbed"), random.Random(seed))
    began, until = time.monotonic(), time.monotonic() + 60 * scale.minutes
    worst = 0.0

    def moment(process: Extraction, watcher: Watcher) -> bool:
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
        out = work / f"out{runs.found['directories']}"
        runs.until_done(out, FAULTS, moment, CODES, more=limit, pause=8 / len(corpus.names))
    figures = {"seed": seed, "minutes": (time.monotonic() - began) / 60, "faults_met": runs.faults.total()}
    return {**figures, **runs.figures(), "peak_mib": worst}


def kill_run(scene: Scene) -> None:
    scene.process.process.kill()


def kill_worker(scene: Scene) -> None:
    with contextlib.suppress(psutil.Error, IndexError):  # there may be none
        scene.draw.choice(scene.process.workers()).kill()


def stop(scene: Scene) -> None:
    """The run or a worker, for longer than a sample may take at times."""
    with contextlib.suppress(psutil.Error):
        process = scene.draw.choice([psutil.Process(scene.process.process.pid), *scene.process.workers()])
        process.suspend()
        time.sleep(scene.draw.uniform(0, 1.5 * LIMIT))
        process.resume()


def interrupt(scene: Scene) -> None:
    for _ in range(scene.draw.choice((1, 2))):
        scene.process.process.send_signal(scene.draw.choice((signal.SIGINT, signal.SIGTERM)))
        time.sleep(scene.draw.uniform(0, 0.05))


FAULTS: dict[str, Fault] = {
    "run killed": kill_run,
    "worker killed": kill_worker,
    "stopped": stop,
    "interrupted": interrupt,
}
