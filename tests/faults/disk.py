"""What does a run do when its disk, its files or its descriptors fail it, and does the next one go on from there?

A run that cannot go on ends with exit code 3 and one line; a sample that cannot be used fails alone. Where the fault is
gone, the next run makes the same features.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults.corpus import Corpus, Scale, make_corpus
from faults.harness import (
    Extraction,
    Tree,
    after,
    differences,
    extracted,
    home,
    kept,
    look,
    small_disk,
    undisturbed,
    without_privileges,
    words,
)

HUNG_LIMIT = 4.0
"""Seconds that a sample may take here: far more than one takes on a busy machine."""

SECONDS = 3.0
"""What a run takes more than it would: nothing could happen in the middle of it."""


@dataclass(slots=True)
class Trials:
    corpus: Corpus
    expected: Tree
    draw: random.Random
    work: Path
    happened: Counter[str] = field(default_factory=Counter)
    left_out: set[str] = field(default_factory=set)
    found: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    number: int = 0

    def place(self) -> Path:
        self.number += 1
        return self.work / f"trial{self.number}"

    def sound(self) -> bool:
        return not self.wrong and not self.found["orphans"]

    def figures(self) -> dict[str, Any]:
        names = ("torn_files", "lost_samples", "orphans", "kept_lines")
        figures = {name: self.found[name] for name in names}
        clips = len(self.corpus.names)
        return {**figures, "clips": clips, "of": dict(self.happened), "faults": self.wrong[:20], "ok": self.sound()}

    def demand(self, what: str, holds: bool, run: Extraction | None = None) -> None:
        if not holds:
            self.wrong.append(what + (f": {run.errors.strip()[-300:]}" if run is not None else ""))

    def stopped(self, name: str, run: Extraction, out: Path, codes: Collection[int] = (3,)) -> None:
        """After a fault: the run has ended as it should, and what it left is whole."""
        self.happened[name] += 1
        self.ended(name, run, out, codes)

    def ended(self, name: str, run: Extraction, out: Path, codes: Collection[int]) -> int:
        code = run.wait()
        self.demand(f"{name}: ended with {code}", code in codes, run)
        self.demand(f"{name}: told badly", not run.told_badly, run)
        self.found["orphans"] += run.orphans()
        tree = look(home(out))
        torn = [each for each, data in tree.features.items() if data != self.expected.features.get(each)]
        self.found["torn_files"] += len(torn)
        self.demand(f"{name}: torn {torn[:3]}", not torn)
        return code

    def partly(self, name: str, run: Extraction, out: Path, failed: dict[str, str], fell_back: set[str]) -> None:
        """Some samples fail, with these words in their reasons, some fall back, and the others are made."""
        lines = look(home(out)).lines
        self.demand(f"{name}: ended with {run.wait()}", run.wait() == 1 and not run.told_badly, run)
        found = {sample: line.get("reason", "") for sample, line in lines.items() if line["outcome"] == "failed"}
        told = all(reason in found.get(sample, "") for sample, reason in failed.items())
        self.demand(f"{name}: failed {found}", found.keys() == failed.keys() and told)
        others = {sample for sample, line in lines.items() if line.get("fallback")}
        self.demand(f"{name}: {others} fell back", others == fell_back)

    def goes_on(self, name: str, out: Path, prefix: list[str] | None = None) -> None:
        """Without the fault: the next run makes what an undisturbed one makes."""
        code, run = extracted(self.corpus, out, prefix=prefix or [])
        self.demand(f"{name}: went on to {code}", code == 0, run)
        self.made_good(name, out)

    def made_good(self, name: str, out: Path) -> None:
        tree = look(home(out))
        self.found["kept_lines"] += kept(tree)
        self.found["lost_samples"] += len(self.expected.features.keys() - tree.features.keys())
        self.wrong += [f"{name}: {each}" for each in differences(tree, self.expected)]


def prepared(work: Path, clips: int, seed: int) -> Trials:
    corpus = make_corpus(work / "corpus", clips)
    return Trials(corpus, undisturbed(corpus, work / "undisturbed"), random.Random(seed), work)


def trial(faults: Iterable[Callable[[Trials], None]], scale: Scale, seed: int, work: Path) -> Trials:
    trials = prepared(work, scale.few, seed)
    for _ in range(scale.rounds):
        for fault in faults:
            fault(trials)
    return trials


@contextlib.contextmanager
def going(trials: Trials, out: Path, *more: str, prefix: Sequence[str] = ()) -> Iterator[Extraction]:
    """A run of which some samples are done and many are not."""
    count = len(trials.corpus.names)
    process = Extraction([*words(trials.corpus, out), *more], prefix, pause=SECONDS / count)
    try:
        after(1 + trials.draw.randrange(max(1, count // 4)), home(out), process)
        yield process
    finally:
        if process.running:
            process.end()


def run(scale: Scale, seed: int, work: Path) -> dict[str, Any]:
    """`ok` if each run ended as promised and the next one made it good."""
    trials = trial(FAULTS.values(), scale, seed, work)
    left_out = sorted(trials.left_out)
    return {"seed": seed, "faults_met": trials.happened.total(), "left_out": left_out, **trials.figures()}


def disk_full(trials: Trials) -> None:
    """A disk that holds a part of the features, at first."""
    out = trials.place()
    whole = sum(map(len, trials.expected.features.values()))
    size = int(whole * trials.draw.uniform(0.05, 0.9)) // 4096 * 4096
    with small_disk(out, size) as resize:
        if resize is None:
            trials.left_out.add("disk full")
            return
        full = Extraction(words(trials.corpus, out))
        trials.stopped("disk full", full, out)
        trials.demand("disk full: not said", "No space left on device" in full.errors, full)
        left = [name for name in look(home(out)).hidden if name.endswith(".tmp")]
        trials.demand(f"disk full: {left[:3]} left behind", not left)
        resize(4 * whole)
        trials.goes_on("disk full", out)


def removed(trials: Trials) -> None:
    out = trials.place()
    with going(trials, out) as process:
        if trials.draw.random() < 0.5:
            home(out).rename(trials.place())
            shutil.rmtree(out, ignore_errors=True)
        else:
            while home(out).exists():  # what is written meanwhile is in the way
                shutil.rmtree(home(out), ignore_errors=True)
        trials.stopped("directory removed", process, out)
    trials.goes_on("directory removed", out)


def read_only(trials: Trials) -> None:
    prefix = without_privileges()
    if prefix is None:
        trials.left_out.add("directory read-only")
        return
    out = trials.place()
    with going(trials, out, prefix=prefix) as process:
        home(out).chmod(0o555)
        trials.stopped("directory read-only", process, out)
    trials.demand("directory read-only: not said", "Permission denied" in process.errors, process)
    trials.stopped("directory read-only", Extraction(words(trials.corpus, out), prefix), out)
    home(out).chmod(0)
    again = Extraction(words(trials.corpus, out), prefix)
    code = again.wait()
    trials.demand(f"directory unreadable: ended with {code}", code in (2, 3) and not again.told_badly, again)
    trials.happened["directory unreadable"] += 1
    home(out).chmod(0o755)
    trials.goes_on("directory read-only", out)


def not_permitted(trials: Trials) -> None:
    prefix = without_privileges()
    if prefix is None:
        trials.left_out.add("files not permitted")
        return
    corpus = _copied(trials)
    videos = trials.draw.sample(corpus.names, 3)
    others = trials.draw.sample(sorted(set(corpus.names) - set(videos)), 3)
    closed = [corpus.videos / f"{name}.mp4" for name in videos]
    closed += [corpus.aus / name / f"{name}_au_analysis.json" for name in others]
    for path in closed:
        path.chmod(0)
    out = trials.place()
    _, run = extracted(corpus, out, prefix=prefix)
    trials.happened["file not permitted"] += len(closed)
    trials.partly("files not permitted", run, out, dict.fromkeys(videos, "Permission denied"), set(others))
    for path in closed:
        path.chmod(0o644)
    code, run = extracted(corpus, out)
    trials.demand(f"files permitted again: {code}", code == 0 and run.summary.get("saved") == len(videos), run)


def few_descriptors(trials: Trials) -> None:
    for limit in trials.draw.sample(range(5, 40), 3):
        out = trials.place()
        few = Extraction(words(trials.corpus, out), nofile=limit)
        trials.stopped("few descriptors", few, out, codes=(0, 1, 2, 3))
        trials.goes_on("few descriptors", out)


def hung(trials: Trials) -> None:
    """Files whose server does not answer, pipes behind their names, and files that are slow to open."""
    corpus = _copied(trials)
    names = trials.draw.sample(corpus.names, 6)
    stuck = [corpus.videos / f"{name}.mp4" for name in names[:1]]
    silent = [corpus.aus / names[1] / f"{names[1]}_au_analysis.json"]
    slow = [corpus.videos / f"{name}.mp4" for name in names[2:4]]
    pipes = (corpus.videos / f"{names[4]}.mp4", corpus.aus / names[5] / f"{names[5]}_au_analysis.json")
    for number, path in enumerate(pipes):
        path.unlink()
        os.mkfifo(trials.work / f"pipe {trials.number} {number}")
        path.symlink_to(trials.work / f"pipe {trials.number} {number}")
    out = trials.place()
    listing = out.with_suffix(".txt")
    listing.write_text("\n".join(corpus.names))
    with contextlib.ExitStack() as servers:
        try:
            servers.enter_context(_server([*stuck, *silent], answers_after=None))
            servers.enter_context(_server(slow, answers_after=0.3))
        except OSError:
            trials.left_out.add("file that hangs")
            return
        arguments = [*words(corpus, out), "--samples", str(listing), "--time-limit", str(HUNG_LIMIT)]
        process = Extraction(arguments)
        process.wait()
    trials.happened["file that hangs, is slow or a pipe"] += len(names)
    failed = {names[0]: "within the time limit", names[4]: ""}
    trials.partly("hung files", process, out, failed, {names[1], names[5]})
    trials.found["orphans"] += process.orphans()


def _copied(trials: Trials) -> Corpus:
    place = trials.place()
    given = trials.corpus
    copied = Corpus(place / "videos", place / "aus", given.names[:20])
    copied.videos.mkdir(parents=True)
    for name in copied.names:
        shutil.copy(given.videos / f"{name}.mp4", copied.videos)
        shutil.copytree(given.aus / name, copied.aus / name)
    return copied


# A file's server that does not answer: a process with a lease on it (fcntl(2)), for which whoever opens it has to wait.

_SERVER = """
import fcntl, os, signal, sys, time
after, *paths = sys.argv[1:]
descriptors = [os.open(path, os.O_RDWR) for path in paths]
def answer(*_):
    if after != "None":
        time.sleep(float(after))
        for descriptor in descriptors:
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
signal.signal(signal.SIGIO, answer)
for descriptor in descriptors:
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("ready", flush=True)
while True:
    signal.pause()
"""


@contextlib.contextmanager
def _server(paths: list[Path], answers_after: float | None) -> Iterator[None]:
    """While it is open, opening one of `paths` takes so many seconds, or for ever.

    Raises:
        OSError: this file system has no leases.
    """
    command = [sys.executable, "-c", _SERVER, str(answers_after), *map(str, paths)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                raise OSError("no leases here")
            yield
        finally:
            process.kill()


FAULTS = {fault.__name__: fault for fault in (disk_full, removed, read_only, not_permitted, few_descriptors, hung)}
