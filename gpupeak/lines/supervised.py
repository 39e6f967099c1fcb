"""A line in a child process: what hangs or kills it costs one sample, not the run.

A driver, a hardware decoder or a CUDA context that a fault poisons cannot be made safe. Tensors never cross.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from queue import SimpleQueue
from typing import Any

from gpupeak.child import Child, Ended, Suspects, connect
from gpupeak.errors import GpupeakError, RunError
from gpupeak.lines import Recipe, Tell
from gpupeak.types import Failed, Outcome, Place, Sample

FETCH_SECONDS = 600.0  # until one sample has come from a slow store, sixteen at a time
START_SECONDS = 600.0  # weights from a cold network file system, kernels compiled, graphs captured
MAX_DEATHS = 10  # in a row with nothing done between: no sample's fault any more


class SupervisedLine:
    """Runs `pipeline.run` in a child process and starts it again when it dies or hangs.

    The samples it had then go one at a time, as `Suspects`; one that ends it twice is decoded on the CPU before it is
    called failed, unless all are (`on_cpu`). `tell` is told of both. `window` is how many are in the child at once;
    `time_limit` the seconds without any outcome after which it hangs, with `FETCH_SECONDS` for samples to fetch;
    `environment` what is set for it beside this process's own. Raises what building the line raised in the child,
    RunError if that died before it was ready.
    """

    def __init__(
        self,
        recipe: Recipe,
        tell: Tell,
        *,
        window: int = 512,
        time_limit: float = 120.0,
        on_cpu: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._recipe, self._tell, self._window, self._time_limit = recipe, tell, window, time_limit
        self._on_cpu, self._environment = on_cpu, environment
        self._start()

    def close(self) -> None:
        self._child.end()

    def run(self, samples: Iterable[Sample], stop: threading.Event | None = None) -> Generator[Outcome]:
        """Yield one outcome a sample; `stop` as in `pipeline.run`. Raises RunError as the line in the child did."""
        stop = stop or threading.Event()
        source = iter(samples)
        suspects: Suspects[Sample] = Suspects("the GPU line", MAX_DEATHS)
        while not stop.is_set():
            alone = bool(suspects)
            try:
                for outcome in self._through(iter([suspects.popleft()]) if alone else source, stop):
                    if not outcome.sample.on_cpu:
                        suspects.survived()
                    yield outcome
                if not alone:
                    return
            except Ended as ended:
                set_aside = suspects.ended(self._held.values(), alone, ended)
                if stop.is_set():
                    return
                if not alone:
                    self._tell(f"{self.device}: the line {ended}; it is started again, what it had goes one by one")
                self.close()
                self._start()
                for sample in set_aside:
                    if sample.on_cpu or self._on_cpu:
                        times = "the third time on this sample, then" if sample.on_cpu else "twice on this sample,"
                        yield Failed(sample, "decode", f"the GPU line {ended}, {times} decoded on the CPU")
                    else:
                        self._tell(f"{self.device}: {sample} is decoded on the CPU: the line {ended}, twice")
                        suspects.appendleft(replace(sample, on_cpu=True))

    def _through(self, samples: Iterator[Sample], stop: threading.Event) -> Iterator[Outcome]:
        self._held = held = dict[Place, Sample]()  # with the child and not yet answered for, by target
        ended = told = False
        patience = self._time_limit
        while True:
            while not (ended or stop.is_set()) and len(held) < self._window:
                sample = next(samples, None)
                self._child.send(sample)
                if sample is None:
                    ended = True
                else:
                    held[sample.target] = sample
                    if sample.remote:
                        patience = self._time_limit + FETCH_SECONDS
            if stop.is_set() and not told:
                told = True
                self._child.send(_STOP)
            kind, value = self._receive(patience)
            if kind == "done":
                return
            del held[value.sample.target]
            yield value

    def _start(self) -> None:
        self._child = Child(serve, environment=self._environment)
        self._child.send(self._recipe)
        try:
            _, self.device = self._receive(START_SECONDS)
        except Ended as ended:
            raise RunError(f"the GPU line cannot start: it {ended}{self._child.last_words()}") from ended

    def _receive(self, seconds: float) -> tuple[str, Any]:
        """The child's next message that is not for `tell` or an error to raise. Raises Ended, also of a fault."""
        while True:
            kind, value = self._child.receive(seconds)
            if kind == "error":
                raise value
            if kind == "fault":
                raise Ended(f"failed with {value}")
            if kind != "notice":
                return kind, value
            self._tell(value)


_STOP = "stop"


def serve() -> None:
    """What the child runs: build the line, then take samples through it, one run after another; None ends a run.

    A foreign error of the line that runs is a fault, and ends the process: once CUDA has met an illegal access, every
    later call fails, those that clean up, too.
    """
    connection, _ = connect()
    sending = threading.Lock()  # notices come from any thread

    def send(kind: str, value: object) -> None:
        with sending:
            connection.send((kind, value))

    samples, stop = SimpleQueue[Sample | None](), threading.Event()

    def receive() -> None:
        with contextlib.suppress(EOFError):  # the parent is gone
            while True:
                message = connection.recv()
                if message == _STOP:
                    stop.set()
                samples.put(None if message == _STOP else message)

    factory, arguments = connection.recv()
    running = False
    try:
        line = factory(*arguments, partial(send, "notice"))
        send("ready", line.device)
        running = True
        threading.Thread(target=receive, daemon=True).start()
        while not stop.is_set():
            for outcome in line.run(iter(samples.get, None), stop):
                send("outcome", outcome)
            send("done", None)
    except GpupeakError as error:
        send("error", error)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        if not running:
            send("error", RunError(f"the GPU line failed: {reason}"))
            return
        send("fault", reason)
        os._exit(1)
