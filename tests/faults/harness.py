"""How is a run disturbed and watched? A real one in processes of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from faults.corpus import Corpus

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("synthetic_cli.py")
GONE_SECONDS = 60.0
"""What workers may take on a busy machine to notice that the run has died: they look once a second."""


def words(corpus: Corpus, out: Path) -> list[str]:
    given = ["extract", "--videos", str(corpus.videos), "--name", "mine", "--aus", str(corpus.aus)]
    return [*given, "--output-root", str(out), "--weights", "random:0", "--device", "cpu", "--workers", "2", "--json"]


def home(out: Path) -> Path:
    return out / "mine" / "frame_CLIP_VIT_LARGE_emotion_peak_8frms"


class Extraction:
    """A run of `synthetic_cli.py`, started by the command `prefix`; what it prints goes to files.

    `environment` is what `synthetic_cli` reads, without FAULTS_.
    """

    def __init__(self, arguments: Sequence[str], prefix: Sequence[str] = (), **environment: object) -> None:
        self._out, self._errors = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        paths = os.pathsep.join(str(REPOSITORY / path) for path in (".", "tests", "bench"))
        faults = {f"FAULTS_{name.upper()}": str(value) for name, value in environment.items()}
        self.process = subprocess.Popen(
            [*prefix, sys.executable, str(SCRIPT), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": paths, **faults},
            start_new_session=True,
        )
        self._workers: dict[int, psutil.Process] = {}

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def workers(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                self._workers.setdefault(process.pid, process)
        return [process for process in self._workers.values() if process.is_running() and _alive(process)]

    def wait(self, seconds: float = 600, look: Callable[[], object] = lambda: None, every: float = 0.02) -> int:
        """Its exit code, -SIGNAL where a signal ended it; until then, `look` is called every so many seconds."""
        deadline = time.monotonic() + seconds
        while self.running:
            self.workers()
            with contextlib.suppress(psutil.Error, OSError):  # it may end meanwhile
                look()
            if time.monotonic() > deadline:
                self.end()
                raise TimeoutError(f"still running after {seconds} s: {self.errors}")
            time.sleep(every)
        return self.process.returncode

    def end(self) -> None:
        self.kill()
        self.process.wait()

    def kill(self) -> None:
        workers = self.workers()
        self.process.kill()
        for worker in workers:
            with contextlib.suppress(psutil.Error):
                worker.kill()

    def orphans(self) -> int:
        """Workers that are still there some time after the run has ended."""
        deadline = time.monotonic() + GONE_SECONDS
        # One that has ended and that nobody has asked for yet is a zombie: gone, too.
        while (left := list(filter(_alive, self._workers.values()))) and time.monotonic() < deadline:
            time.sleep(0.05)
        for process in left:
            process.kill()
        return len(left)

    @property
    def errors(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")

    @property
    def summary(self) -> dict[str, Any]:
        """The JSON that it printed; empty if it did not come to that."""
        self._out.seek(0)
        lines = self._out.read().splitlines()
        told: dict[str, Any] = json.loads(lines[-1]) if lines else {}
        return told

    @property
    def told_badly(self) -> bool:
        """Whether a user is shown a traceback, other than of an interpreter that was still starting."""
        errors = self.errors
        begun = SCRIPT.name in errors or "gpupeak/" in errors
        return ("Traceback" in errors and begun) or "please report" in errors


def _alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


def files(directory: Path) -> int:
    return sum(1 for _ in directory.glob("*.npy"))


def after(count: int, directory: Path, run: Extraction, seconds: float = 300) -> bool:
    """Wait until so many more files are there; False if the run ends before."""
    wanted, deadline = files(directory) + count, time.monotonic() + seconds
    while files(directory) < wanted and run.running and time.monotonic() < deadline:
        run.workers()
        time.sleep(0.005)
    return run.running


@dataclass(frozen=True, slots=True)
class Tree:
    """A directory of features: its files, its manifest by sample, less the seconds, and what should not be there."""

    features: dict[str, bytes]
    lines: dict[str, dict[str, Any]]
    doubled_lines: int
    unreadable_lines: int
    hidden: list[str]


def look(directory: Path) -> Tree:
    lines: dict[str, dict[str, Any]] = {}
    doubled = unreadable = 0
    features = {path.name: path.read_bytes() for path in directory.glob("*.npy")}
    manifest = directory / "manifest.jsonl"
    for line in manifest.read_bytes().splitlines() if manifest.exists() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            unreadable += 1
            continue
        entry.pop("seconds", None)
        doubled += entry["sample"] in lines
        lines[entry["sample"]] = entry
    return Tree(features, lines, doubled, unreadable, [path.name for path in directory.glob(".*")])


def differences(found: Tree, expected: Tree) -> list[str]:
    """In what a finished directory is another than that of an undisturbed run.

    A line may say `kept`: the run was killed after the file had got its name, and before the line was written.
    """
    wrong = [f"{name} is lost" for name in expected.features.keys() - found.features.keys()]
    wrong += [f"{name} is one too many" for name in found.features.keys() - expected.features.keys()]
    wrong += [f"{n} differs" for n, data in found.features.items() if expected.features.get(n, data) != data]
    wrong += [f"{name} has no line" for name in expected.lines.keys() - found.lines.keys()]
    wrong += [
        f"the line of {name} differs: {line}"
        for name, line in found.lines.items()
        if line["outcome"] != "kept" and line != expected.lines.get(name)
    ]
    if found.doubled_lines or found.unreadable_lines:
        wrong.append(f"{found.doubled_lines} lines doubled, {found.unreadable_lines} unreadable")
    return [*wrong, *(f"{name} is left behind" for name in found.hidden)]


def kept(tree: Tree) -> int:
    return sum(line["outcome"] == "kept" for line in tree.lines.values())


def extracted(corpus: Corpus, out: Path, more: Sequence[str] = (), **options: Any) -> tuple[int, Extraction]:
    run = Extraction([*words(corpus, out), *more], **options)
    return run.wait(), run


def undisturbed(corpus: Corpus, out: Path) -> Tree:
    code, run = extracted(corpus, out)
    tree = look(home(out))
    if code or len(tree.features) != len(corpus.names):
        raise RuntimeError(f"the undisturbed run ended with {code}: {run.errors}")
    if len(set(tree.features.values())) < len(corpus.names) // 20 + 2:
        raise RuntimeError("the samples have features too much alike to be told apart")
    return tree


def without_privileges() -> list[str] | None:
    """What starts a command to which permission bits apply; None where there is no such thing."""
    if os.geteuid() != 0:
        return []
    taken = "-dac_override,-dac_read_search"
    return ["setpriv", f"--bounding-set={taken}", f"--inh-caps={taken}"] if shutil.which("setpriv") else None


@contextlib.contextmanager
def small_disk(place: Path, size: int) -> Iterator[Callable[[int], object] | None]:
    """A disk of `size` bytes at `place`, and what gives it another size; None where nobody may mount one."""
    place.mkdir(parents=True)

    def mount(options: str, check: bool = False) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        return subprocess.run(command, capture_output=True, check=check).returncode == 0

    if os.geteuid() != 0 or not mount(f"size={size}"):
        yield None
        return
    try:
        yield lambda larger: mount(f"remount,size={larger}", check=True)
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
