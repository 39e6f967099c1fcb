"""Does anything go wrong, or grow, in a long time of faults drawn by lot?

Runs over one corpus, one after another, each disturbed every few seconds by whatever is drawn; one that ends is
followed by another in the same directory until all is done, and that directory by the next.
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
from corpus import Corpus, Scale, make_corpus
from harness import (
    Extraction,
    Tree,
    Watcher,
    differences,
    home,
    kept,
    look,
    small_disk,
    undisturbed,
    without_privileges,
    words,
)

LIMIT = 4.0
"""Seconds that a sample may take."""
BETWEEN = 3.0
"""Seconds between two faults, at most."""
STARTING = {-signal.SIGINT, -signal.SIGTERM}
"""How a signal ends any Python that is still starting."""
CODES = {0, 1, 3, 130, -signal.SIGKILL} | STARTING


@dataclass(slots=True)
class Scene:
    """What a fault is done to."""

    process: Extraction
    arguments: list[str]
    place: Path
    draw: random.Random
    seconded: bool = False


Fault: TypeAlias = "Callable[[Scene], Callable[[], None] | None]"
"""Does it; what undoes it, if it has to be undone."""
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
        place: Path,
        faults: Mapping[str, Fault],
        moment: Moment,
        codes: Collection[int],
        *,
        more: Sequence[str] = (),
        prefix: Sequence[str] = (),
        pause: float = 0.0,
    ) -> None:
        """Start runs into `place` and disturb them until one comes to its end; `codes` are those it may end with."""
        out = place / "out"
        arguments = [*words(self.corpus, out), *more]
        self.found["directories"] += 1
        with Watcher(home(out), self.expected.features) as watcher:
            code = -1
            while code != 0:
                process, before = Extraction(arguments, prefix, pause=pause), watcher.appeared
                scene = Scene(process, arguments, place, self.draw)
                self.found["runs"] += 1
                undo: list[Callable[[], None]] = []
                while moment(process, watcher):
                    name = self.draw.choice(list(faults))
                    self.faults[name] += 1
                    undo += filter(None, [faults[name](scene)])
                code = process.wait()
                for each in undo:
                    each()
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
                # What a second run has saved tells nothing of the first one.
                if code in STARTING and not scene.seconded and before < watcher.appeared < len(self.corpus.names):
                    self.wrong.append(f"ended with {code} in the middle")
        self.wrong += [*differences(tree, self.expected), *watcher.torn]
        self.found["files_checked"] += watcher.appeared
        self.found["torn_files"] += len(watcher.torn) + len(torn)
        self.found["doubled_samples"] += watcher.doubled
        self.found["lost_samples"] += len(self.expected.features.keys() - tree.features.keys())
        self.found["events_missed"] += watcher.missed
        self.found["kept_lines"] += kept(tree)

    def figures(self) -> dict[str, Any]:
        counted = ("directories", "runs", "files_checked", "torn_files", "lost_samples", "doubled_samples", "orphans")
        harmless = ("kept_lines", "failed_and_made_again")
        return {
            "clips": len(self.corpus.names),
            "of": dict(self.faults),
            "exit_codes": dict(self.codes),
            **{name: self.found[name] for name in (*counted, *harmless)},
            "faults": self.wrong[:20],
            "ok": not self.wrong and not any(self.found[name] for name in ("doubled_samples", "orphans")),
        }


def run(scale: Scale, seed: int, work: Path) -> dict[str, Any]:
    """As many minutes as the scale says; `ok` if every directory came out as if nothing had happened."""
    corpus = make_corpus(work / "corpus", scale.few)
    runs = Disturbed(corpus, undisturbed(corpus, work / "undisturbed"), random.Random(seed))
    prefix = without_privileges()
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

    size = 3 * sum(map(len, runs.expected.features.values())) + (4 << 20)
    while time.monotonic() < until:
        place = work / f"disk{runs.found['directories']}"
        with small_disk(place, size) as resize:
            faults = {**FAULTS}
            if resize is None:
                del faults["disk full"]
            if prefix is None:
                del faults["directory read-only"]
            limit = ("--time-limit", str(LIMIT))
            pause = 8 / len(corpus.names)
            runs.until_done(place, faults, moment, CODES, more=limit, prefix=prefix or (), pause=pause)
    figures = {"seed": seed, "minutes": (time.monotonic() - began) / 60, "faults_met": runs.faults.total()}
    return {**figures, **runs.figures(), "peak_mib": worst}


def kill_run(scene: Scene) -> None:
    scene.process.process.kill()


def kill_worker(scene: Scene) -> None:
    workers = scene.process.workers()
    if workers:
        with contextlib.suppress(psutil.Error):
            scene.draw.choice(workers).kill()


def stop(scene: Scene) -> None:
    """The run or a worker, for longer than a sample may take at times."""
    with contextlib.suppress(psutil.Error):
        process = scene.draw.choice([psutil.Process(scene.process.process.pid), *scene.process.workers()])
        process.suspend()
        time.sleep(scene.draw.uniform(0, 1.5 * LIMIT))
        process.resume()


def interrupt(scene: Scene) -> None:
    """Once or twice."""
    for _ in range(scene.draw.choice((1, 2))):
        scene.process.process.send_signal(scene.draw.choice((signal.SIGINT, signal.SIGTERM)))
        time.sleep(scene.draw.uniform(0, 0.05))


def second_run(scene: Scene) -> None:
    scene.seconded = True
    with contextlib.suppress(TimeoutError):
        Extraction(scene.arguments).wait(60)


def disk_full(scene: Scene) -> Callable[[], None]:
    ballast = scene.place / "ballast"
    with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
        while file.write(bytes(1 << 16)):
            pass
    return lambda: ballast.unlink(missing_ok=True)


def read_only(scene: Scene) -> Callable[[], None]:
    directory = home(scene.place / "out")
    directory.chmod(0o555)
    return lambda: directory.chmod(0o755)


FAULTS: dict[str, Fault] = {
    "run killed": kill_run,
    "worker killed": kill_worker,
    "stopped": stop,
    "interrupted": interrupt,
    "second run": second_run,
    "disk full": disk_full,
    "directory read-only": read_only,
}
