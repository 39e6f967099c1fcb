"""What do signals, a wall clock that jumps and a second run in the same directory do to a run?"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from faults.corpus import Scale
from faults.disk import SECONDS, Trials, going, trial
from faults.harness import Extraction, extracted, home, look, words

LIMIT = 3.0
"""Seconds a sample may take where processes are stopped for longer than that."""
STARTING = (0.0, 1.5)
"""Seconds from the start within which a signal meets a run that may not have begun."""


def run(scale: Scale, seed: int, work: Path) -> dict[str, Any]:
    """`ok` if each run ended as promised and the next one made the rest."""
    trials = trial(FAULTS.values(), scale, seed, work)
    return {"seed": seed, "signals": trials.happened.total(), **trials.figures()}


def sent(trials: Trials, number: signal.Signals, times: int, code: int) -> None:
    """So many of a signal in the middle of a run, which ends with this exit code."""
    name, out = f"{number.name} {times}", trials.place()
    with going(trials, out) as process:
        for _ in range(times):
            process.process.send_signal(number)
            time.sleep(trials.draw.uniform(0, 0.02))
        trials.stopped(name, process, out, (code,))
    if (times, code) == (1, 130):  # what is in hand is finished
        tree = look(home(out))
        saved = {f"{sample}.npy" for sample, line in tree.lines.items() if line["outcome"] == "saved"}
        trials.demand(f"{name}: {len(saved)} recorded of {len(tree.features)}", saved == tree.features.keys())
        trials.demand(f"{name}: {tree.hidden} left behind", not tree.hidden)
        trials.demand(f"{name}: not said", process.summary.get("interrupted") is True, process)
    trials.goes_on(name, out)


def early(trials: Trials, number: signal.Signals) -> None:
    """From its very start on: where the interpreter itself is still starting, the signal ends it as it ends any."""
    name, out = f"{number.name} at the start", trials.place()
    process = Extraction(words(trials.corpus, out), pause=SECONDS / len(trials.corpus.names))
    time.sleep(trials.draw.uniform(*STARTING))
    process.process.send_signal(number)
    process.wait()
    allowed = (0, 130) if home(out).exists() else (130, -number)
    trials.stopped(name, process, out, allowed)
    trials.goes_on(name, out)


def stopped(trials: Trials, who: str) -> None:
    """Stop the run, a worker or all of them for longer than a sample may take, then let them go on."""
    name, out = f"SIGSTOP of {who}", trials.place()
    with going(trials, out, "--time-limit", str(LIMIT)) as process:
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
    with going(trials, out) as process:
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


FAULTS: dict[str, Callable[[Trials], None]] = {
    **{
        f"{number.name} {how}": partial(sent, number=number, times=times, code=130)
        for number in (signal.SIGINT, signal.SIGTERM)
        for times, how in ((1, "once"), (2, "twice"))
    },
    **{f"{number.name} early": partial(early, number=number) for number in (signal.SIGINT, signal.SIGTERM)},
    "SIGHUP": partial(sent, number=signal.SIGHUP, times=1, code=-signal.SIGHUP),
    **{f"SIGSTOP of {who}": partial(stopped, who=who) for who in ("run", "worker", "all")},
    "clock": clock,
    "two runs": two_runs,
}
