"""What is left of a run that is killed at any moment, and does the next one go on from there?

Killed are the run with its workers, the run alone, or one worker, by SIGKILL; the run that follows goes on in the same
directory, until all is done. Nothing may ever lie under its name that is not whole.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
from corpus import Scale, make_corpus
from harness import Extraction, Tree, Watcher, after, differences, home, kept, look, undisturbed, words

KINDS = ("all", "run", "worker")
STARTING = 0.25
"""The share of kills that come some time after a start, and not after a number of files: some before the first."""


def run(scale: Scale, seed: int, work: Path) -> dict[str, Any]:
    """As many kills as the scale has, over as many directories as it takes; `ok` if nothing was lost."""
    draw = random.Random(seed)
    corpus = make_corpus(work / "corpus", scale.clips)
    expected = undisturbed(corpus, work / "undisturbed")
    kills: Counter[str] = Counter()
    found: Counter[str] = Counter()
    wrong: list[str] = []
    directories = 0
    while kills.total() < scale.kills:
        out = work / f"out{directories}"
        directories += 1
        with Watcher(home(out), expected.features) as watcher:
            _until_done(words(corpus, out), scale, draw, watcher, expected, home(out), kills, found, wrong)
        tree = look(home(out))
        wrong += [*differences(tree, expected), *watcher.torn]
        found["files_checked"] += watcher.appeared
        found["torn_files"] += len(watcher.torn)
        found["doubled_samples"] += watcher.doubled
        found["lost_samples"] += len(expected.features.keys() - tree.features.keys())
        found["events_missed"] += watcher.missed
        found["kept_lines"] += kept(tree)
    return {
        "seed": seed,
        "clips": scale.clips,
        "kills": kills.total(),
        "of": dict(kills),
        "directories": directories,
        **{name: found[name] for name in FIGURES},
        "faults": wrong[:20],
        "ok": not wrong and not any(found[name] for name in FIGURES if name not in HARMLESS),
    }


FIGURES = (
    *("runs", "files_checked", "torn_files", "doubled_samples", "lost_samples", "unreadable_lines", "orphans"),
    *("events_missed", "failed_and_made_again", "kept_lines"),
)
HARMLESS = ("runs", "files_checked", "failed_and_made_again", "kept_lines")


def _until_done(
    arguments: list[str],
    scale: Scale,
    draw: random.Random,
    watcher: Watcher,
    expected: Tree,
    directory: Path,
    kills: Counter[str],
    found: Counter[str],
    wrong: list[str],
) -> None:
    """Start runs and kill them until one comes to its end."""
    while True:
        process = Extraction(arguments)
        found["runs"] += 1
        ended = False
        while not ended and kills.total() < scale.kills and _at_a_moment(scale, draw, watcher, process):
            kind = draw.choice(KINDS)
            workers = process.workers()
            if kind == "worker":
                if workers:
                    with contextlib.suppress(psutil.Error):
                        draw.choice(workers).kill()
                    kills[kind] += 1
                continue
            process.process.kill()
            for worker in workers if kind == "all" else ():
                with contextlib.suppress(psutil.Error):
                    worker.kill()
            kills[kind] += 1
            ended = True
        code = process.wait()
        found["orphans"] += process.orphans()
        tree = look(directory)
        found["unreadable_lines"] += tree.unreadable_lines
        wrong += [f"{n}: torn after a kill" for n, data in tree.features.items() if data != expected.features[n]]
        if ended:
            continue
        if code == 0:
            return
        # A sample whose worker died twice is set aside: the next run makes it.
        found["failed_and_made_again"] += process.summary.get("failed", 0)
        if code != 1 or process.told_badly or not kills["worker"]:
            wrong.append(f"a run ended with {code}: {process.errors.strip()[-300:]}")
            if code != 1:
                return


def _at_a_moment(scale: Scale, draw: random.Random, watcher: Watcher, process: Extraction) -> bool:
    """Wait for the next moment; False if the run ends before."""
    if draw.random() < STARTING:
        deadline = time.monotonic() + draw.uniform(0, 3)
        while process.running and time.monotonic() < deadline:
            process.workers()
            time.sleep(0.01)
        return process.running
    going = after(1 + draw.randrange(1 + 4 * scale.clips // scale.kills), watcher, process)
    time.sleep(draw.uniform(0, 0.02))
    return going and process.running
