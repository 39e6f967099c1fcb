"""What do signals, a wall clock that jumps and a second run in the same directory do to a run?

SIGINT and SIGTERM, once: what is in hand is finished, saved and recorded, exit code 130. Twice: the process ends at
once, 130. SIGHUP: as a kill. SIGSTOP and SIGCONT, of the run, of a worker or of all: nothing, however long.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from corpus import Scale
from disk import Trials, prepared
from harness import Extraction, Watcher, after, extracted, home, look, words

LIMIT = 3.0
"""Seconds a sample may take where processes are stopped for longer than that."""
SECONDS = 3.0
"""What a run takes more than it would: nothing could happen in the middle of it."""
STARTING = (0.0, 1.5)
"""Seconds from the start within which a signal meets a run that may not have begun."""


def run(scale: Scale, seed: int, work: Path) -> dict[str, Any]:
    """Every kind as often as the scale says; `ok` if each ended as promised and the next run made the rest."""
    trials = prepared(work, scale.few, seed)
    codes: Counter[str] = Counter()
    for _ in range(scale.rounds):
        both = (signal.SIGINT, signal.SIGTERM)
        for number in both if scale.rounds > 1 else [trials.draw.choice(both)]:
            once(trials, number, codes)
            early(trials, number, codes)
            twice(trials, number, codes)
        hangup(trials)
        for who in ("run", "worker", "all"):
            stopped(trials, who)
        clock(trials)
        two_runs(trials)
    return {
        "seed": seed,
        "clips": scale.few,
        "signals": trials.happened.total(),
        "of": dict(trials.happened),
        "exit_codes": dict(codes),
        **trials.figures(),
    }


def once(trials: Trials, number: signal.Signals, codes: Counter[str]) -> None:
    name, out = f"{number.name} once", trials.place()
    with _going(trials, out) as process:
        process.process.send_signal(number)
        trials.stopped(name, process, out, (130,))
    codes[f"{name}: {process.process.returncode}"] += 1
    tree = look(home(out))
    saved = {f"{sample}.npy" for sample, line in tree.lines.items() if line["outcome"] == "saved"}
    trials.demand(f"{name}: {len(saved)} recorded of {len(tree.features)}", saved == tree.features.keys())
    trials.demand(f"{name}: {tree.hidden} left behind", not tree.hidden)
    trials.demand(f"{name}: not said", process.summary.get("interrupted") is True, process)
    trials.goes_on(name, out)


def early(trials: Trials, number: signal.Signals, codes: Counter[str]) -> None:
    """From its very start on: where the interpreter itself is still starting, the signal ends it as it ends any."""
    name, out = f"{number.name} at the start", trials.place()
    process = Extraction(words(trials.corpus, out), pause=SECONDS / len(trials.corpus.names))
    time.sleep(trials.draw.uniform(*STARTING))
    process.process.send_signal(number)
    code = process.wait()
    trials.happened[name] += 1
    codes[f"{name}: {code}"] += 1
    begun = home(out).exists()
    trials.demand(f"{name}: ended with {code}", code in (130, -number) if not begun else code in (0, 130), process)
    trials.demand(f"{name}: told badly", not process.told_badly, process)
    trials.found["orphans"] += process.orphans()
    trials.goes_on(name, out)


def twice(trials: Trials, number: signal.Signals, codes: Counter[str]) -> None:
    name, out = f"{number.name} twice", trials.place()
    with _going(trials, out) as process:
        process.process.send_signal(number)
        time.sleep(trials.draw.uniform(0, 0.02))
        process.process.send_signal(number)
        trials.stopped(name, process, out, (130,))
    codes[f"{name}: {process.process.returncode}"] += 1
    trials.goes_on(name, out)


def hangup(trials: Trials) -> None:
    out = trials.place()
    with _going(trials, out) as process:
        process.process.send_signal(signal.SIGHUP)
        trials.stopped("SIGHUP", process, out, (-signal.SIGHUP,))
    trials.goes_on("SIGHUP", out)


def stopped(trials: Trials, who: str) -> None:
    """Stop the run, a worker or all of them for longer than a sample may take, then let them go on."""
    name, out = f"SIGSTOP of {who}", trials.place()
    with _going(trials, out, "--time-limit", str(LIMIT)) as process:
        run, workers = psutil.Process(process.process.pid), process.workers()
        halted = {"run": [run], "worker": workers[:1], "all": [run, *workers]}[who]
        for each in halted:
            each.suspend()
        time.sleep(LIMIT + 0.5)
        for each in halted:
            with contextlib.suppress(psutil.Error):  # a worker that gave no answer has been replaced
                each.resume()
        trials.stopped(name, process, out, (0,))
    trials.demand(f"{name}: {process.summary.get('failed')} failed", process.summary.get("failed") == 0, process)
    trials.goes_on(name, out)


def clock(trials: Trials) -> None:
    """Each time that anything asks for the time of day, it is another, days before or after."""
    out = trials.place()
    process = Extraction([*words(trials.corpus, out), "--time-limit", "30"], clock=1)
    trials.stopped("clock jumps", process, out, (0,))
    summary = process.summary
    trials.demand(f"clock jumps: {summary.get('seconds')} s", 0 < summary.get("seconds", -1) < 3600, process)
    trials.demand(f"clock jumps: {summary.get('failed')} failed", summary.get("failed") == 0, process)
    trials.goes_on("clock jumps", out)


def two_runs(trials: Trials) -> None:
    out = trials.place()
    with _going(trials, out) as process:
        first = psutil.Process(process.process.pid)
        first.suspend()  # or it would be over before the second one has started
        for more in ([], ["--overwrite"]):
            code, second = extracted(trials.corpus, out, more=more)
            trials.happened["second run in one directory"] += 1
            trials.demand(f"second run: ended with {code}", code == 3, second)
            trials.demand("second run: not said", "another gpupeak run is writing here" in second.errors, second)
        first.resume()
        code = process.wait()
        trials.demand(f"first of two runs: ended with {code}", code == 0, process)
    code, run = extracted(trials.corpus, out)
    trials.demand("two runs: the next one finds all done", run.summary.get("skipped") == len(trials.corpus.names), run)
    trials.goes_on("two runs", out)


@contextlib.contextmanager
def _going(trials: Trials, out: Path, *more: str) -> Iterator[Extraction]:
    """A run of which some samples are done and many are not, its files watched to its end."""
    count = len(trials.corpus.names)
    with Watcher(home(out), trials.expected.features) as watcher:
        process = Extraction([*words(trials.corpus, out), *more], pause=SECONDS / count)
        try:
            after(1 + trials.draw.randrange(max(1, count // 4)), watcher, process)
            yield process
        finally:
            if process.running:
                process.end()
    trials.wrong += watcher.torn
    trials.demand(f"{watcher.doubled} made twice", not watcher.doubled)
