"""A line in every actor of a Ray cluster, as one line: paths go in, outcomes come out, tensors never cross.

The driver asks for actors, gives each that has built its line some samples ahead, so that none runs dry, and asks for
another one where one has ended. The samples which that one had go through one at a time, each alone in its actor.
"""

from __future__ import annotations

import contextlib
import os
import platform
import queue
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from gpupeak._version import __version__
from gpupeak.child import Suspects
from gpupeak.errors import DeviceError, GpupeakError, RunError, counted
from gpupeak.lines import Recipe, Tell
from gpupeak.lines.cluster import Actors, connected, import_ray, one_line
from gpupeak.pipeline import Line
from gpupeak.storage.places import is_directory
from gpupeak.types import Failed, Outcome, Place, Sample, Saved

_MAX_DEATHS = 5  # in a row, beyond one of every actor: no sample's fault and no node's any more
_LINGER_SECONDS = 0.1  # a line that has taken all samples waits so long for another, then empties itself
_SETTLE_SECONDS = 5.0  # a network file system may show a new file this late on another machine
_IDLE_SECONDS = 60.0  # without any actor, before it is told what is being waited for
_POLL_SECONDS = 0.2
_Answer: TypeAlias = "tuple[str, list[Outcome | str | GpupeakError | None]]"  # an actor's host, and what it has to say


class RayLine:
    """Runs a line in each of several actors of a Ray cluster.

    `address` is of the cluster that this machine is a node of; None starts one on this machine, for as long as this
    line is open. Where this process is connected to one already, that is used, and left. `wanted` are as
    for `Actors.choose`. Raises ConfigError without Ray, DeviceError if no cluster answers or it has not what is asked.
    """

    def __init__(self, recipe: Recipe, tell: Tell, *, address: str | None = None, **wanted: Any) -> None:
        self._recipe, self._tell, self._told = recipe, tell, set[str]()
        self._ray = import_ray()
        self._own = contextlib.ExitStack()  # what ends with this line
        own = not self._ray.is_initialized()
        if own:
            self._own.enter_context(connected(self._ray, address))
        try:
            resources = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
            nodes = [(float(each.get("CPU", 0)), float(each.get("GPU", 0))) for each in resources]
            self._nodes = len(nodes)
            self._actors, why = Actors.choose(nodes, **wanted)
            most = int(max(cpus for cpus, _ in nodes))
            if own and address is None and self._actors.cpus > most:  # no other node will ever join
                raise DeviceError(f"--workers {self._actors.cpus}: this machine has {counted(most, 'CPU')} for Ray")
        except BaseException:
            self.close()
            raise
        self.device = "cuda" if self._actors.gpus else "cpu"
        least, most = self._actors.least, self._actors.most
        many = counted(most, "actor") if least == most else f"{least} to {most} actors"
        each = counted(self._actors.cpus, "CPU")
        tell(f"{why}; by Ray, in {many} with {each}, over {counted(self._nodes, 'node')}")

    def close(self) -> None:
        self._own.close()

    def run(self, samples: Iterable[Sample], stop: threading.Event | None = None) -> Generator[Outcome]:
        """Yield one outcome a sample; `stop` as in `pipeline.run`.

        Raises what the line raised in an actor, or RunError: no file is seen there, or actor after actor ended.
        """
        everything, stop = list(samples), stop or threading.Event()
        if not everything:
            return
        job = _Job(self._ray, self._actors, self._recipe, everything)
        try:
            yield from self._take_through(job, stop)
        except self._ray.exceptions.RayError as error:
            raise RunError(f"the Ray cluster no longer answers: {one_line(error)}") from error
        finally:
            job.end()

    def _take_through(self, job: _Job, stop: threading.Event) -> Iterator[Outcome]:
        seen: set[str] = set()  # hosts whose files have been looked for
        began = time.monotonic()
        while True:
            if stop.is_set():
                job.stop()
            else:
                job.give_out()
            if not job.open():
                return
            for host, answer in job.answers():
                if isinstance(answer, str):
                    self._say(answer)
                elif isinstance(answer, GpupeakError):
                    if self._nodes > 1:
                        answer.args = (f"node {host}: {answer}",)
                    raise answer
                else:
                    if isinstance(answer, Saved) and host not in seen:
                        seen.add(host)
                        _look_for(answer.sample.target, host)
                    yield answer
            if not any(driven.host for driven in job.driven) and time.monotonic() - began > _IDLE_SECONDS:
                gpus = f" and {self._actors.gpus:g} GPU" if self._actors.gpus else ""
                self._say(f"waiting for Ray to give an actor {counted(self._actors.cpus, 'CPU')}{gpus}")

    def _say(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._tell(text)


@dataclass(slots=True, eq=False)
class _Driven:
    """An actor, the call whose answer is waited for, and by target the samples that are with it."""

    actor: Any
    call: Any
    host: str = ""  # once its line is built, or cannot be
    held: dict[Place, Sample] = field(default_factory=dict)
    alone: bool = False  # with a sample whose actor ended


class _Job:
    def __init__(self, ray: Any, actors: Actors, recipe: Recipe, samples: list[Sample]) -> None:
        self._ray, self._actors = ray, actors
        self.driven: list[_Driven] = []
        self._fresh = deque(samples)
        self._suspects: Suspects[Sample] = Suspects("an actor's line", _MAX_DEATHS + actors.most)
        # A GPU's line takes up to 512 samples ahead; a CPU's as many as are decoded and encoded, and some more.
        self._ahead = 768 if actors.gpus else 2 * actors.cpus + 8
        self._gather = 0.25 if actors.gpus else 0.02  # seconds of answers at once: few calls, and no line runs dry
        self._least = max(2, min(128 if actors.gpus else 32, len(samples) // (4 * actors.most)))
        self._stopped = False
        self._preparation = (recipe, _places(samples), str(Path.cwd()), __version__)
        self._remote = ray.remote(_Actor).options(
            num_cpus=actors.cpus,
            num_gpus=actors.gpus or None,
            max_concurrency=3,  # it is given to while it answers
        )

    def open(self) -> bool:
        return bool(self._fresh or self._suspects or any(driven.held for driven in self.driven))

    def give_out(self) -> None:
        there, busy = len(self.driven), sum(bool(driven.held) for driven in self.driven)
        if there >= self._actors.least and all(driven.host for driven in self.driven):
            there *= 2
        wanted = busy + -(-2 * len(self._fresh) // self._least) + len(self._suspects)
        for _ in range(len(self.driven), min(max(there, self._actors.least), self._actors.most, wanted)):
            actor = self._remote.remote()
            self.driven.append(_Driven(actor, actor.prepare.remote(*self._preparation)))
        # Not more in one actor than its part of what is left, so that all have work to the end.
        most = max(self._least, min(self._ahead, len(self._fresh) // (2 * len(self.driven) or 1)))
        for driven in self.driven:
            if not driven.host or driven.alone:
                continue
            if self._suspects:
                if not driven.held:
                    driven.alone = True
                    self._give(driven, [self._suspects.popleft()])
            elif (room := min(most - len(driven.held), len(self._fresh))) > 0:
                self._give(driven, [self._fresh.popleft() for _ in range(room)])

    def _give(self, driven: _Driven, samples: list[Sample]) -> None:
        driven.held.update((sample.target, sample) for sample in samples)
        driven.actor.give.remote(samples)

    def answers(self) -> Iterator[tuple[str, Outcome | str | GpupeakError]]:
        """What the first actor with something to say has to say, and from which host."""
        errors = self._ray.exceptions
        of = {driven.call: driven for driven in self.driven}
        for call in self._ray.wait(list(of), timeout=_POLL_SECONDS)[0]:
            driven = of[call]
            try:
                driven.host, answers = self._ray.get(call)
            except (errors.RayTaskError, errors.LocalRayletDiedError):
                raise
            except errors.RayError:  # of its process, its node or the way there: what it had goes through another one
                self.driven.remove(driven)
                self._ray.kill(driven.actor)
                for sample in self._suspects.ended(driven.held.values(), driven.alone, "ended"):
                    yield driven.host, Failed(sample, "decode", "the process of its line ended, twice on this sample")
                continue
            driven.call = driven.actor.answer.remote(self._gather)
            for answer in answers:
                if answer is None:  # nothing more will come
                    driven.held.clear()
                    continue
                if isinstance(answer, Outcome):
                    del driven.held[answer.sample.target]
                    self._suspects.survived()
                yield driven.host, answer
            driven.alone = driven.alone and bool(driven.held)

    def stop(self) -> None:
        if not self._stopped:
            self._stopped = True
            self._fresh.clear()
            self._suspects.clear()
            for driven in self.driven:
                driven.actor.stop.remote()

    def end(self) -> None:
        if self._ray.is_initialized():  # else asking for anything would start a cluster
            for driven in self.driven:
                with contextlib.suppress(self._ray.exceptions.RayError):
                    self._ray.kill(driven.actor)


class _Actor:
    """Holds one line, is given samples and asked for what has become of them. What is raised in here is an answer."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._samples = queue.SimpleQueue[Sample | None]()
        self._answers = queue.SimpleQueue[Outcome | str | GpupeakError | None]()

    def prepare(self, recipe: Recipe, places: Sequence[Path], directory: str, version: str) -> _Answer:
        """Build the line where `places`, seen by the driver in its `directory`, are seen, too."""
        try:
            if version != __version__:
                raise RunError(f"gpupeak is {__version__} there and {version} here: install the same on all nodes")
            with contextlib.suppress(OSError):  # what of the settings is a relative path means the driver's
                os.chdir(directory)
            for place in places:
                if not _appears(place):
                    shared = "videos, action-unit files and output have to be where all nodes see them, or at URLs"
                    raise RunError(f"{Path(directory, place)} is not there, and the driver sees it: {shared}")
            function, arguments = recipe
            line = function(*arguments, self._answers.put)
            threading.Thread(target=self._work, args=(line,), daemon=True).start()
        except Exception as error:
            self._answers.put(_told(error))
        return platform.node(), []

    def give(self, samples: list[Sample]) -> None:
        for sample in samples:
            self._samples.put(sample)

    def answer(self, gather: float) -> _Answer:
        """What comes in `gather` seconds from the first: outcomes, notices, an error; None when the line has ended."""
        answers = [self._answers.get()]
        time.sleep(gather)
        with contextlib.suppress(queue.Empty):
            while True:
                answers.append(self._answers.get_nowait())
        return platform.node(), answers

    def stop(self) -> None:
        self._stop.set()
        self._samples.put(None)

    def _work(self, line: Line) -> None:
        try:
            while not self._stop.is_set():
                for outcome in line.run(self._feed(), self._stop):
                    self._answers.put(outcome)
        except Exception as error:
            self._answers.put(_told(error))
        self._answers.put(None)

    def _feed(self) -> Iterator[Sample]:
        """The samples that come, until none does for a moment."""
        patience = None  # an empty line waits as long as it takes
        with contextlib.suppress(queue.Empty):
            while (sample := self._samples.get(timeout=patience)) is not None:
                yield sample
                patience = _LINGER_SECONDS


def _told(error: Exception) -> GpupeakError:
    return error if isinstance(error, GpupeakError) else RunError(f"the line in an actor failed: {one_line(error)}")


def _places(samples: Iterable[Sample]) -> tuple[Path, ...]:
    """What an actor has to see of each dataset. An action-unit directory that it misses would mean other frames."""
    places: list[Place] = []
    for sample in {each.dataset: each for each in sorted(samples, key=lambda each: each.video is not None)}.values():
        places.append(sample.target.parent)
        if sample.video is not None:
            places += [sample.video, *filter(is_directory, sample.au_dirs)]
    return tuple(place for place in places if isinstance(place, Path))


def _look_for(target: Place, host: str) -> None:
    """What the first sample from a host has saved has to be here, too."""
    if isinstance(target, Path) and not _appears(target):
        where = "the output has to be on a file system that all nodes share, or at a URL"
        raise RunError(f"node {host} has saved {target}, and here it is not: {where}")


def _appears(path: Path) -> bool:
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        with contextlib.suppress(OSError):
            os.scandir(path.parent).close()  # has a network file system look again
        with contextlib.suppress(OSError):
            if path.exists():
                return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_SECONDS)
