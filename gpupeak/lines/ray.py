"""A line in every actor of a Ray job, as one line: paths go in, outcomes come out, tensors never cross.

    samples -> blocks -> ray.data -> map_batches over actors, each holding one built line -> answers -> outcomes

The driver lists, records and reports as it does for any line. Ray Data places and restarts the actors, hands them
blocks and holds back what would pile up. What it cannot know is kept by a small actor beside the driver, the
*ledger*: how often each block was begun, and which sample was alone with an actor that ended.

A block is begun together with others, so that the line never runs dry between two of them. One whose actor ended
is begun again by Ray, on the same actor started anew or on another one; its samples then go through one at a time,
which names the one that does not survive. That one is set aside as failed: it was there both times.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import platform
import queue
import re
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from gpupeak._version import __version__
from gpupeak.errors import ConfigError, DeviceError, GpupeakError, RunError
from gpupeak.pipeline import Line
from gpupeak.storage import remote
from gpupeak.types import Failed, Outcome, Sample, Saved

__all__ = ["Actors", "RayLine", "Recipe"]

Tell: TypeAlias = Callable[[str], None]
Recipe: TypeAlias = "tuple[Callable[..., Line], tuple[Any, ...]]"
"""How an actor builds its line: an importable function and its arguments, behind which it is given a `Tell`."""

MAX_DEATHS = 5  # of an actor while it builds its line, or of a block's actors: no sample's fault any more

_PORT = 6379  # where a cluster's head listens: Ray's default
_CONNECT_SECONDS, _JOIN_SECONDS = 10.0, 60.0
_STORE_BYTES = 256 << 20  # of a cluster of our own: what lies in its store are lists of samples
_LINGER_SECONDS = 0.05  # a line that has taken all blocks there are waits so long for another, then empties itself
_SETTLE_SECONDS = 5.0  # a network file system may show a new file this late on another machine
_IDLE_SECONDS = 60.0  # without any actor, before it is told what is being waited for
_POLL_SECONDS = 0.2
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class Actors:
    """How many actors there are to be, and what each one reserves.

    `least` and `most` are the bounds between which Ray Data scales; `cpus` are also the threads of torch and the
    decoding processes of each, `gpus` may be a part of one.
    """

    least: int
    most: int
    cpus: int
    gpus: float

    @classmethod
    def choose(
        cls,
        nodes: Sequence[tuple[float, float]],
        *,
        device: str,
        actors: str | None,
        gpus_per_actor: float | None,
        workers: int | None,
    ) -> tuple[Actors, str]:
        """What suits a cluster of these nodes, each (CPUs, GPUs), and why.

        One actor a GPU where Ray shows any; else one a node, with all its CPUs. `actors`, "N" or "MIN:MAX", divides
        the nodes otherwise; `workers` is how many CPUs an actor is to have.

        Raises:
            DeviceError: a GPU was asked for and Ray shows none, or it shows no CPU either.
        """
        first, _, second = (actors or "0").partition(":")
        least, most = int(first), int(second or first)
        all_gpus = sum(gpus for _, gpus in nodes)
        if device == "cpu" or (device == "auto" and not all_gpus and gpus_per_actor is None):
            share, why = 0.0, "on the CPU, as asked" if device == "cpu" else "on the CPU: Ray shows no GPU"
        elif not all_gpus:
            asked = f"--device {device}" if device != "auto" else "--gpus-per-actor"
            raise DeviceError(f"{asked}: Ray shows no GPU")
        else:
            share, why = gpus_per_actor or 1.0, f"on GPUs: Ray shows {all_gpus:g}"
        if share:
            places = [(int(cpus), int(gpus / share)) for cpus, gpus in nodes if gpus >= share]
            if not places:
                raise DeviceError(f"--gpus-per-actor {share:g}: no node has as many")
            cpus = workers or min(cpus // count for cpus, count in places)
            count = sum(count for _, count in places)
        else:
            sizes = [int(cpus) for cpus, _ in nodes if cpus >= 1]
            if not sizes:
                raise DeviceError("Ray shows neither a GPU nor a CPU")
            cpus = workers or (_largest(sizes, most) if most else min(sizes))
            count = sum(size // cpus for size in sizes)
        if not most:
            least = most = max(1, count)
        return cls(least, most, cpus, share), why


def _largest(sizes: Sequence[int], actors: int) -> int:
    """The most CPUs that each of so many actors can have on nodes of these sizes."""
    return next((cpus for cpus in range(max(sizes), 1, -1) if sum(size // cpus for size in sizes) >= actors), 1)


class RayLine:
    """Runs a line in each of several actors of a Ray cluster; see the top of this module.

    Args:
        recipe: called in each actor to build its line, in the driver's working directory if it is there.
        tell: told what the lines tell, each text once.
        address: of the cluster that this machine is a node of: `auto`, `HOST` or `HOST:PORT`; None starts one on
            this machine, for as long as this line is open. Where this process is connected to one already, that is
            used, and left.
        device, actors, gpus_per_actor, workers: as `Actors.choose`.

    Raises:
        ConfigError: Ray is not installed.
        DeviceError: no cluster answers, or it has not what was asked for.
    """

    def __init__(
        self,
        recipe: Recipe,
        tell: Tell,
        *,
        address: str | None = None,
        device: str = "auto",
        actors: str | None = None,
        gpus_per_actor: float | None = None,
        workers: int | None = None,
    ) -> None:
        self._recipe, self._tell, self._told = recipe, tell, set[str]()
        self._ray = _import_ray()
        self._own = not self._ray.is_initialized()
        self._restore = contextlib.ExitStack()
        if self._own:
            _connect(self._ray, address)
            self._restore.enter_context(_quiet_driver())
        try:
            nodes = [
                (float(node["Resources"].get("CPU", 0)), float(node["Resources"].get("GPU", 0)))
                for node in self._ray.nodes()
                if node["Alive"]
            ]
            self._nodes = len(nodes)
            self._actors, why = Actors.choose(
                nodes, device=device, actors=actors, gpus_per_actor=gpus_per_actor, workers=workers
            )
            most = max(cpus for cpus, _ in nodes)
            if self._own and address is None and self._actors.cpus > most:  # no other node will ever join
                raise DeviceError(
                    f"--workers {self._actors.cpus}: this machine has {_counted(int(most), 'CPU')} for Ray"
                )
        except BaseException:
            self.close()
            raise
        self.device = "cuda" if self._actors.gpus else "cpu"
        least, most = self._actors.least, self._actors.most
        many = _counted(most, "actor") if least == most else f"{least} to {most} actors"
        each = _counted(self._actors.cpus, "CPU")
        tell(f"{why}; by Ray, in {many} with {each}, over {_counted(self._nodes, 'node')}")

    def close(self) -> None:
        """Leave the cluster, or end it if it is this line's own."""
        if self._own and self._ray.is_initialized():
            self._ray.shutdown()
        self._restore.close()

    def run(self, samples: Iterable[Sample], stop: threading.Event | None = None) -> Generator[Outcome]:
        """Yield one outcome a sample, in the order in which blocks of them come back.

        When `stop` is set no more blocks are begun; what is being encoded is finished.

        Raises:
            GpupeakError: what building or running the line raised in an actor.
            RunError: an actor does not see the output or the videos; the job ended otherwise than by its samples.
        """
        everything = list(samples)
        if not everything:
            return
        stop = stop or threading.Event()
        size, calls = self._blocks(len(everything))
        blocks = [everything[at : at + size] for at in range(0, len(everything), size)]
        ledger = self._make_ledger()
        job = _Job(self._recipe, _places(everything), str(Path.cwd()), ledger, __version__)
        answers: queue.Queue[_Answer | BaseException | None] = queue.Queue()
        left = threading.Event()
        with _quiet_ray_data():
            dataset = self._dataset(blocks, job, calls)
            pump = threading.Thread(target=_pump, args=(dataset, answers, left), name="gpupeak-ray", daemon=True)
            executors = _executors(dataset)
            pump.start()
            try:
                yield from self._answered([len(block) for block in blocks], answers, ledger, stop)
            except self._ray.exceptions.RayError as error:
                raise RunError(f"the Ray cluster no longer answers: {_ends(error)}") from error
            finally:
                left.set()
                with contextlib.suppress(self._ray.exceptions.RayError):
                    self._ray.kill(ledger)  # what an actor asks now fails: none begins anything more
                pump.join(timeout=_POLL_SECONDS)
                if pump.is_alive():  # no actor was ever given, say: what Ray Data waits for does not come any more
                    for executor in executors:
                        with contextlib.suppress(Exception):
                            executor.shutdown(force=True)
                pump.join(timeout=_CONNECT_SECONDS)

    def _answered(
        self,
        sizes: list[int],
        answers: queue.Queue[_Answer | BaseException | None],
        ledger: Any,
        stop: threading.Event,
    ) -> Iterator[Outcome]:
        """The outcomes of the blocks that come back, until all have or, after `stop`, nothing is left that was begun.

        `sizes` are how many samples the blocks have.
        """
        seen: set[str] = set()  # hosts whose files have been looked for
        began, stopping = time.monotonic(), False
        while True:
            if stop.is_set() and not stopping:
                stopping = True
                self._ray.get(ledger.stop.remote())
            try:
                answer = answers.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                answer = _NOTHING
            if answer is None:
                return
            if isinstance(answer, BaseException):
                raise RunError(f"the Ray job ended: {_ends(answer)}") from answer
            if answer is not _NOTHING:
                for text in answer.notices:
                    self._say(text)
                if answer.error is not None:
                    raise self._located(answer.error, answer.host)
                if len(answer.outcomes) < sizes[answer.block] and not stopping:
                    self._ray.get(ledger.starts.remote())  # raises that the ledger is gone, if that is why
                    raise RunError(f"node {answer.host} has not finished a block of samples, and nothing says why")
                self._ray.get(ledger.received.remote(answer.block))
                self._look_for_a_file(answer, seen)
                yield from answer.outcomes
            elif not seen and not stopping and time.monotonic() - began > _IDLE_SECONDS:
                if self._ray.get(ledger.starts.remote()) == 0:
                    gpus = f" and {self._actors.gpus:g} GPU" if self._actors.gpus else ""
                    self._say(f"waiting for Ray to give an actor {_counted(self._actors.cpus, 'CPU')}{gpus}")
                began = time.monotonic()
            if stopping and self._ray.get(ledger.begun.remote()) == 0:
                return

    def _say(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._tell(text)

    def _located(self, error: GpupeakError, host: str) -> GpupeakError:
        """An error as it is to be raised here: of several nodes it says which one."""
        if self._nodes > 1:
            error.args = (f"node {host}: {error}",)
        return error

    def _look_for_a_file(self, answer: _Answer, seen: set[str]) -> None:
        """What the first block from a host says is saved has to be here: a directory of this name may be another one.

        Raises:
            RunError: it is not.
        """
        target = next((outcome.sample.target for outcome in answer.outcomes if isinstance(outcome, Saved)), None)
        if target is None or answer.host in seen:
            return
        seen.add(answer.host)
        if remote.url_of(target) is None and not _appears(target):
            raise RunError(
                f"node {answer.host} has saved {target}, and here it is not: "
                "the output has to be on a file system that all nodes share, or at a URL"
            )

    def _blocks(self, samples: int) -> tuple[int, int]:
        """Samples a block, and blocks that an actor has in hand at once: all lines are kept full, to the end."""
        actors = self._actors
        size = max(1, min(64 if actors.gpus else 16, samples // (8 * actors.most)))
        # A GPU's line takes up to 512 samples ahead; a CPU's as many as are decoded and encoded, and some more.
        ahead = 768 if actors.gpus else 2 * actors.cpus + 8
        return size, max(2, min(16, -(-ahead // size)))

    def _make_ledger(self) -> Any:
        strategies = import_module("ray.util.scheduling_strategies")
        here = strategies.NodeAffinitySchedulingStrategy(self._ray.get_runtime_context().get_node_id(), soft=False)
        return self._ray.remote(_Ledger).options(num_cpus=0, max_restarts=0, scheduling_strategy=here).remote()

    def _dataset(self, blocks: list[list[Sample]], job: _Job, calls: int) -> Any:
        """The Ray Data job, not begun: one row a block, one row an answer."""
        ray, actors = self._ray, self._actors
        table = import_module("pyarrow").table
        most = min(actors.most, len(blocks))
        strategy = ray.data.ActorPoolStrategy(
            min_size=min(actors.least, most),
            max_size=most,
            max_concurrent_calls_per_actor=calls,
            enable_true_multi_threading=True,
        )
        rows = ray.data.from_arrow(
            [table({"block": [number], "samples": [pickle.dumps(block)]}) for number, block in enumerate(blocks)]
        )
        dataset = rows.map_batches(
            _Worker,
            batch_size=1,
            batch_format="pyarrow",
            compute=strategy,
            fn_constructor_args=(job,),
            num_cpus=actors.cpus,
            num_gpus=actors.gpus or None,
        )
        dataset.context.enable_progress_bars = False
        dataset.context.print_on_execution_start = False
        return dataset


def _executors(dataset: Any) -> list[Any]:
    """What runs the job, once it is begun: nothing public ends a job that waits for its first actor."""
    executors: list[Any] = []
    create = getattr(dataset, "_create_executor", None)

    def created() -> Any:
        assert create is not None
        executors.append(create())
        return executors[-1]

    if create is not None:
        dataset._create_executor = created
    return executors


def _pump(dataset: Any, answers: queue.Queue[_Answer | BaseException | None], left: threading.Event) -> None:
    """Run the job and hand its answers on, None behind the last one; an error that ends it is handed on, too."""
    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for data in batch["answer"].to_pylist():
                answers.put(pickle.loads(data))
            if left.is_set():
                break
    except BaseException as error:
        answers.put(error)
    else:
        answers.put(None)


# What crosses


@dataclass(frozen=True, slots=True)
class _Job:
    """What an actor is given once. `places` are to be there where it runs, `directory` is the driver's current one."""

    recipe: Recipe
    places: tuple[Path, ...]
    directory: str
    ledger: Any
    version: str


@dataclass(frozen=True, slots=True)
class _Answer:
    """What became of a block; with an `error`, the job cannot go on. A stopped block's outcomes are not all there."""

    block: int
    outcomes: tuple[Outcome, ...]
    notices: tuple[str, ...]
    error: GpupeakError | None
    host: str


_NOTHING = _Answer(-1, (), (), None, "")


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One time that a block is begun: the how manieth, and what is known of its samples from the times before."""

    number: int
    outcomes: tuple[Outcome, ...]


# The ledger


@dataclass(slots=True)
class _Entry:
    attempts: int = 0
    outcomes: list[Outcome] = field(default_factory=list)
    alone: Sample | None = None


class _Ledger:
    """Remembers beside the driver what an actor that ends forgets. An asynchronous actor: each call is whole."""

    def __init__(self) -> None:
        self._blocks: dict[int, _Entry] = {}
        self._starts: dict[str, int] = {}
        self._stop = asyncio.Event()

    async def starting(self, actor: str) -> int:
        """An actor begins to build its line; how often it has ended since it last had one."""
        self._starts[actor] = self._starts.get(actor, -1) + 1
        return self._starts[actor]

    async def started(self, actor: str) -> None:
        """It has one."""
        self._starts[actor] = -1

    async def starts(self) -> int:
        """How many actors there have been."""
        return len(self._starts)

    async def begin(self, block: int) -> _Attempt | None:
        """A block is about to go into a line; None if no more are to."""
        if self._stop.is_set():
            return None
        entry = self._blocks.setdefault(block, _Entry())
        entry.attempts += 1
        if entry.alone is not None:
            entry.outcomes.append(Failed(entry.alone, "decode", "the process of its line ended, twice on this sample"))
            entry.alone = None
            entry.attempts = 2
        return _Attempt(entry.attempts, tuple(entry.outcomes))

    async def alone(self, block: int, sample: Sample) -> None:
        """A sample of a block is about to go into a line with nothing else in it."""
        self._blocks[block].alone = sample

    async def survived(self, block: int, outcome: Outcome) -> None:
        """It has come out."""
        entry = self._blocks[block]
        entry.outcomes.append(outcome)
        entry.alone = None

    async def received(self, block: int) -> None:
        """The driver has the outcomes of a block."""
        self._blocks.pop(block, None)

    async def begun(self) -> int:
        """How many blocks have been begun that the driver has not received."""
        return len(self._blocks)

    async def stop(self) -> None:
        """No block is to be begun any more."""
        self._stop.set()

    async def stopped(self) -> None:
        """Wait until that is so."""
        await self._stop.wait()


# The actor


class _Block:
    """A block in an actor: its samples, the outcomes there are, and whether that is all there will be."""

    def __init__(self, number: int, samples: list[Sample]) -> None:
        self.number, self.samples = number, samples
        self.outcomes: dict[Path, Outcome] = {}
        self.attempt: _Attempt | None = None
        self.over = threading.Event()

    def add(self, outcome: Outcome) -> None:
        """Take one outcome."""
        self.outcomes[outcome.sample.target] = outcome
        if len(self.outcomes) == len(self.samples):
            self.over.set()


class _Worker:
    """Holds one line for as long as its actor lives, and takes blocks through it. Called on several threads at once.

    The line is built, run and fed on a thread of its own. Whatever is raised there is an answer, not an exception:
    Ray would try again, or show where it arose.
    """

    def __init__(self, job: _Job) -> None:
        self._job = job
        self._ray = import_module("ray")
        self._host = platform.node()
        self._stop = threading.Event()
        self._change = threading.Condition()
        self._waiting: deque[_Block] = deque()
        self._open: dict[Path, _Block] = {}  # by target: the samples that are in the line
        self._again: _Block | None = None  # was begun before, and waits for the line to be empty
        self._notices: list[str] = []
        self._error: GpupeakError | None = None
        self._ended = False  # no block goes into the line any more
        threading.Thread(target=self._work, name="gpupeak-line", daemon=True).start()
        threading.Thread(target=self._await_stop, name="gpupeak-stop", daemon=True).start()

    def __call__(self, batch: Any) -> Any:
        """Take one block, a pyarrow table of one row, to its answer, another one."""
        block = _Block(batch["block"][0].as_py(), pickle.loads(batch["samples"][0].as_py()))
        with self._change:
            if not self._ended:
                self._waiting.append(block)
                self._change.notify_all()
            else:
                block.over.set()
        block.over.wait()
        with self._change:
            notices, self._notices = tuple(self._notices), []
        error = self._error if len(block.outcomes) < len(block.samples) else None
        answer = _Answer(block.number, tuple(block.outcomes.values()), notices, error, self._host)
        return import_module("pyarrow").table({"answer": [pickle.dumps(answer)]})

    def _work(self) -> None:
        try:
            line = self._build()
            while not self._stop.is_set():
                self._take_through(line)
        except GpupeakError as error:
            self._error = error
        except Exception as error:
            self._error = RunError(f"the line in an actor failed: {_first_line(error)}")
        with self._change:
            self._ended = True
            for block in (*self._waiting, *self._open.values(), *([self._again] if self._again else ())):
                block.over.set()

    def _build(self) -> Line:
        job = self._job
        if job.version != __version__:
            raise RunError(f"gpupeak is {__version__} there and {job.version} here: install the same on all nodes")
        actor = self._ray.get_runtime_context().get_actor_id()
        if (deaths := self._ray.get(job.ledger.starting.remote(actor))) >= MAX_DEATHS:
            raise RunError(f"an actor's process ended {deaths} times while it built its line")
        with contextlib.suppress(OSError):  # what of the settings is a relative path means the driver's
            os.chdir(job.directory)
        for place in job.places:
            if not _appears(place):
                raise RunError(
                    f"{Path(job.directory, place)} is not there, and the driver sees it: videos, action-unit files and "
                    "output have to be on a file system that all nodes share, or at URLs"
                )
        function, arguments = job.recipe
        line = function(*arguments, self._notices.append)
        self._ray.get(job.ledger.started.remote(actor))
        return line

    def _await_stop(self) -> None:
        with contextlib.suppress(Exception):  # the ledger is gone: so is the driver, and soon this process
            self._ray.get(self._job.ledger.stopped.remote())
        self._stop.set()
        with self._change:
            self._change.notify_all()

    def _take_through(self, line: Line) -> None:
        """Run the line until it is empty: over fresh blocks together, or over one that was begun before."""
        if self._again is None:
            for outcome in line.run(self._feed(), self._stop):
                block = self._open.pop(outcome.sample.target)
                block.add(outcome)
            return
        block, attempt = self._again, self._again.attempt
        assert attempt is not None
        if attempt.number > MAX_DEATHS:
            raise RunError(f"{attempt.number - 1} actors ended with the same samples, {block.samples[0]} the first")
        for outcome in attempt.outcomes:
            block.add(outcome)
        ledger = self._job.ledger
        for sample in block.samples:
            if sample.target in block.outcomes:
                continue
            self._ray.get(ledger.alone.remote(block.number, sample))
            for outcome in line.run([sample], self._stop):
                self._ray.get(ledger.survived.remote(block.number, outcome))
                block.add(outcome)
            if self._stop.is_set():
                return
        self._again = None

    def _feed(self) -> Iterator[Sample]:
        """The samples of the blocks that come, until none does for a moment, or one that was begun before."""
        patience = None  # an empty line waits as long as it takes
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting or self._stop.is_set(), timeout=patience)
                if self._stop.is_set() or not self._waiting:
                    return
                block = self._waiting.popleft()
            block.attempt = self._ray.get(self._job.ledger.begin.remote(block.number))
            if block.attempt is None:  # the driver has said stop, and that is about to be heard here, too
                block.over.set()
                continue
            if block.attempt.number > 1:
                self._again = block
                return
            patience = _LINGER_SECONDS
            self._open.update((sample.target, block) for sample in block.samples)
            yield from block.samples


# Ray


def _import_ray() -> Any:
    # Read when Ray is loaded; whoever wants to see what it writes sets them.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # what is left of a job when it ends joins no other cluster
    try:
        ray = import_module("ray")
        import_module("ray.data")
    except ImportError as error:
        raise ConfigError(f"--engine ray needs Ray ({error}): pip install 'gpupeak[ray]'") from error
    return ray


def _connect(ray: Any, address: str | None) -> None:
    """Start a cluster on this machine, or connect to the one at `address`.

    Raises:
        DeviceError: that cannot be done.
    """
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    where = "a Ray cluster on this machine"
    try:
        with _own_signals(), _silent_start():
            if address is None:
                cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
                options |= {"num_cpus": cores, "include_dashboard": False, "object_store_memory": _STORE_BYTES}
                with _same_package():
                    ray.init(address="local", **options)
            else:
                where = f"--address {address}"
                _within(_JOIN_SECONDS, partial(ray.init, address=_answering(address), **options))
    except GpupeakError:
        raise
    except Exception as error:
        if "InvalidAuthToken" in f"{error} {error.__cause__}":
            raise DeviceError(
                f"{where}: that cluster asks for a token, and there is none here or another one: expected "
                "RAY_AUTH_MODE=token and the cluster's token, in RAY_AUTH_TOKEN or ~/.ray/auth_token"
            ) from error
        raise DeviceError(f"{where}: {_ends(error.__cause__ or error)}") from error


def _within(seconds: float, call: Callable[[], object]) -> None:
    """Wait so long for a call to come back: Ray tries for ever what something else than Ray answers.

    Raises:
        TimeoutError: it has not.
    """
    done: Future[object] = Future()

    def run() -> None:
        try:
            done.set_result(call())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="gpupeak-connect", daemon=True).start()
    if not wait([done], timeout=seconds).done:
        raise TimeoutError(f"what listens there does not answer as Ray does, for {seconds:g} s")
    done.result()


def _answering(address: str) -> str:
    """The address with its port, if something listens there: Ray itself would try for long.

    Raises:
        DeviceError: nothing does.
    """
    if address == "auto":
        return address
    host, colon, port = address.rpartition(":")
    if not colon:
        host, port = address, str(_PORT)
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DeviceError(f"--address {address}: no Ray cluster answers at {host}:{port}: {reason}") from error
    return f"{host}:{port}"


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keep what SIGTERM and SIGINT do: Ray takes the first one for itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _silent_start() -> Iterator[None]:
    """Send standard error nowhere: Ray writes there that its log level has been set. Its errors are exceptions."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextlib.contextmanager
def _same_package() -> Iterator[None]:
    """Have the processes of a cluster that is started now import the gpupeak that this one has."""
    before = os.environ.get("PYTHONPATH")
    root = str(Path(__file__).parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join([root, *([before] if before else [])])
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


@contextlib.contextmanager
def _quiet_driver() -> Iterator[None]:
    """Keep Ray from printing among what gpupeak and its caller print what becomes of nodes and actors.

    It does so even with log_to_driver=False, and nothing public stops it; its log files have it all.
    """
    worker: Any = import_module("ray._private.worker")
    before = getattr(worker, "print_to_stdstream", None)
    if before is None:
        yield
        return
    worker.print_to_stdstream = lambda *data, **options: None
    try:
        yield
    finally:
        worker.print_to_stdstream = before


@contextlib.contextmanager
def _quiet_ray_data() -> Iterator[None]:
    """What Ray Data has to say of a job is told by the line itself; its log files have it all."""
    logger = logging.getLogger("ray.data")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _places(samples: Iterable[Sample]) -> tuple[Path, ...]:
    """What of the samples' files an actor has to see: of each dataset its output, a video, its action-unit directories.

    Those are looked for because a directory that is not there means no peak, and so other frames.
    """
    places: dict[Path, None] = {}
    with_video: set[str] = set()
    directories: set[tuple[Path, ...]] = set()
    for sample in samples:
        places[sample.target.parent] = None
        if sample.video is not None and sample.fetch is None and sample.dataset not in with_video:
            with_video.add(sample.dataset)
            places[sample.video] = None
        if sample.fetch is None and sample.au_dirs not in directories:
            directories.add(sample.au_dirs)
            places.update((directory, None) for directory in sample.au_dirs if directory.exists())
    return tuple(place for place in places if remote.url_of(place) is None)


def _appears(path: Path) -> bool:
    """Whether something is there, or is soon."""
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


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _ends(error: BaseException) -> str:
    """The first and the last line of an error of Ray's: what has happened, and what has led to it."""
    lines = [line.strip() for line in _COLOUR.sub("", str(error)).splitlines() if line.strip()]
    ends = dict.fromkeys([*lines[:1], *lines[-1:]])
    return ": ".join(
        [type(error).__name__, " ... ".join(line if len(line) < 300 else f"{line[:300]}..." for line in ends)]
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
