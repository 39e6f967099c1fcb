"""What is left of a run that is killed at any moment, and does the next one go on from there?

Killed are the run with its workers, the run alone, or one worker, by SIGKILL; the run that follows goes on.
"""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import Any

from faults.corpus import Scale, make_corpus
from faults.harness import Extraction, after, undisturbed
from faults.soak import Disturbed, Fault, kill_run, kill_worker

STARTING = 0.25
"""The share of kills that come some time after a start, and not after a number of files: some before the first."""


def run(scale: Scale, seed: int, work: Path) -> dict[str, Any]:
    """As many kills as the scale has, over as many directories as it takes; `ok` if nothing was lost."""
    corpus = make_corpus(work / "corpus", scale.clips)
    runs = Disturbed(corpus, undisturbed(corpus, work / "undisturbed"), random.Random(seed), work)

    def moment(process: Extraction, out: Path) -> bool:
        if runs.happened.total() >= scale.kills:
            return False
        if runs.draw.random() < STARTING:
            deadline = time.monotonic() + runs.draw.uniform(0, 3)
            while process.running and time.monotonic() < deadline:
                process.workers()
                time.sleep(0.01)
            return process.running
        going = after(1 + runs.draw.randrange(1 + 4 * scale.clips // scale.kills), out, process)
        time.sleep(runs.draw.uniform(0, 0.02))
        return going and process.running

    while runs.happened.total() < scale.kills:
        runs.until_done(KINDS, moment, (0, 1, -signal.SIGKILL))
    return {"seed": seed, "kills": runs.happened.total(), **runs.figures()}


KINDS: dict[str, Fault] = {"all": lambda run, draw: run.kill(), "run": kill_run, "worker": kill_worker}
