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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    directory: Path
    disk: Path
    draw: random.Random
    limited: bool
    seconded: bool = False


def run(scale: Scale, seed: int, work: Path) -> dict[str, Any]:
    """As many minutes as the scale says; `ok` if every directory came out as if nothing had happened."""
    draw = random.Random(seed)
    corpus = make_corpus(work / "corpus", scale.few)
    expected = undisturbed(corpus, work / "undisturbed")
    faults: Counter[str] = Counter()
    codes: Counter[str] = Counter()
    found: Counter[str] = Counter()
    wrong: list[str] = []
    worst: list[float] = []
    began = time.monotonic()
    size = 3 * sum(map(len, expected.features.values())) + (4 << 20)
    while time.monotonic() - began < 60 * scale.minutes:
        place = work / f"disk{found['directories']}"
        found["directories"] += 1
        with small_disk(place, size) as resize:
            scene = _disturbed(corpus, expected, place, draw, resize is not None, began + 60 * scale.minutes)
            faults += scene.faults
            codes += scene.codes
            found += scene.found
            wrong += scene.wrong
            worst.append(scene.worst_mib)
    return {
        "seed": seed,
        "clips": scale.few,
        "minutes": (time.monotonic() - began) / 60,
        "faults_met": faults.total(),
        "of": dict(faults),
        "exit_codes": dict(codes),
        **{name: found[name] for name in ("directories", "runs", "files_checked", "torn_files", "lost_samples")},
        **{name: found[name] for name in ("doubled_samples", "orphans", "kept_lines", "failed_and_made_again")},
        "peak_mib": max(worst),
        "faults": wrong[:20],
        "ok": not wrong and not found["orphans"] and not found["doubled_samples"],
    }


@dataclass(slots=True)
class _Found:
    faults: Counter[str]
    codes: Counter[str]
    found: Counter[str]
    wrong: list[str]
    worst_mib: float = 0.0


def _disturbed(corpus: Corpus, expected: Tree, place: Path, draw: random.Random, limited: bool, until: float) -> _Found:
    """Disturbed runs into one directory until all is done; past `until` they are let go on."""
    out = place / "out"
    prefix = without_privileges()
    result = _Found(Counter(), Counter(), Counter(), [])
    arguments = [*words(corpus, out), "--time-limit", str(LIMIT)]
    choices = [name for name in FAULTS if limited or name != "disk full"]
    choices = [name for name in choices if prefix is not None or name != "directory read-only"]
    with Watcher(home(out), expected.features) as watcher:
        while True:
            process = Extraction(arguments, prefix or [], pause=8 / len(corpus.names))
            scene = Scene(process, arguments, home(out), place, draw, limited)
            result.found["runs"] += 1
            before = watcher.appeared
            undo: list[Callable[[], None]] = []
            while process.running and time.monotonic() < until:
                _wait(process, draw.uniform(0, BETWEEN), result)
                if process.running:
                    name = draw.choice(choices)
                    result.faults[name] += 1
                    undo += filter(None, [FAULTS[name](scene)])
            code = process.wait()
            for each in undo:
                each()
            result.codes[str(code)] += 1
            result.found["orphans"] += process.orphans()
            tree = look(home(out))
            torn = [name for name, data in tree.features.items() if data != expected.features[name]]
            result.wrong += [f"{name}: torn" for name in torn]
            if code not in CODES or process.told_badly:
                result.wrong.append(f"ended with {code}: {process.errors.strip()[-300:]}")
                if code not in CODES:
                    break
            # What a second run has saved tells nothing of the first one.
            if code in STARTING and not scene.seconded and before < watcher.appeared < len(corpus.names):
                result.wrong.append(f"ended with {code} in the middle")
            if code == 1:
                result.found["failed_and_made_again"] += process.summary.get("failed", 0)
            if code == 0:
                break
    result.wrong += [*differences(tree, expected), *watcher.torn]
    result.found["files_checked"] += watcher.appeared
    result.found["torn_files"] += len(watcher.torn) + len(torn)
    result.found["doubled_samples"] += watcher.doubled
    result.found["lost_samples"] += len(expected.features.keys() - tree.features.keys())
    result.found["kept_lines"] += kept(tree)
    return result


def _wait(process: Extraction, seconds: float, result: _Found) -> None:
    deadline = time.monotonic() + seconds
    while process.running and time.monotonic() < deadline:
        memory = 0.0
        for each in [*process.workers(), psutil.Process(process.process.pid)]:
            with contextlib.suppress(psutil.Error):
                memory += each.memory_info().rss / 2**20
        result.worst_mib = max(result.worst_mib, memory)
        time.sleep(0.05)


def kill_run(scene: Scene) -> None:
    scene.process.process.kill()


def kill_worker(scene: Scene) -> None:
    workers = scene.process.workers()
    if workers:
        with contextlib.suppress(psutil.Error):
            scene.draw.choice(workers).kill()


def stop_worker(scene: Scene) -> None:
    _halt(scene, scene.process.workers()[:1], scene.draw.uniform(0, 1.5 * LIMIT))


def stop_run(scene: Scene) -> None:
    with contextlib.suppress(psutil.Error):
        _halt(scene, [psutil.Process(scene.process.process.pid)], scene.draw.uniform(0, 2))


def _halt(scene: Scene, processes: list[psutil.Process], seconds: float) -> None:
    for each in processes:
        with contextlib.suppress(psutil.Error):
            each.suspend()
    time.sleep(seconds)
    for each in processes:
        with contextlib.suppress(psutil.Error):
            each.resume()


def interrupt(scene: Scene) -> None:
    scene.process.process.send_signal(scene.draw.choice((signal.SIGINT, signal.SIGTERM)))


def interrupt_twice(scene: Scene) -> None:
    interrupt(scene)
    time.sleep(scene.draw.uniform(0, 0.05))
    interrupt(scene)


def second_run(scene: Scene) -> None:
    scene.seconded = True
    with contextlib.suppress(TimeoutError):
        Extraction(scene.arguments).wait(60)


def disk_full(scene: Scene) -> Callable[[], None]:
    ballast = scene.disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
        while file.write(bytes(1 << 16)):
            pass
    return lambda: ballast.unlink(missing_ok=True)


def read_only(scene: Scene) -> Callable[[], None]:
    scene.directory.chmod(0o555)
    return lambda: scene.directory.chmod(0o755)


FAULTS: dict[str, Callable[[Scene], Callable[[], None] | None]] = {
    "run killed": kill_run,
    "worker killed": kill_worker,
    "worker stopped": stop_worker,
    "run stopped": stop_run,
    "interrupted": interrupt,
    "interrupted twice": interrupt_twice,
    "second run": second_run,
    "disk full": disk_full,
    "directory read-only": read_only,
}
