"""A Python process of gpupeak's own at the other end of a pipe: how it is started, talked to and ended."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import gpupeak
from gpupeak.errors import RunError

T = TypeVar("T")

_ORPHAN_CHECK_SECONDS = 1.0


class Ended(Exception):
    """The child is gone, or was killed because it gave no answer; the text says how, as the end of a sentence."""


class Child:
    """A process that runs `entry`, a module's function, in a session of its own: Ctrl-C is for the parent to act on.

    It gets `arguments` and the numbers of `descriptors`, which it inherits, by `connect`; its environment is this one
    and `environment`. RunError if it cannot start.
    """

    def __init__(
        self,
        entry: Callable[[], None],
        *arguments: int,
        descriptors: tuple[int, ...] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        root = str(Path(gpupeak.__file__).parent.parent)
        # The package's own directory instead of the current one, which python -c would search first.
        code = f"import sys; sys.path[0] = {root!r}; from {entry.__module__} import {entry.__name__} as run; run()"
        try:
            ours, theirs = socket.socketpair()
            self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
            with theirs:
                inherited = (theirs.fileno(), *descriptors)
                self.process = subprocess.Popen(
                    [sys.executable, "-c", code, *map(str, (*inherited, *arguments))],
                    pass_fds=inherited,
                    stdin=subprocess.DEVNULL,
                    stdout=self._log,
                    stderr=self._log,
                    start_new_session=True,
                    env={**os.environ, **(environment or {})},
                )
        except OSError as error:
            raise RunError(f"a process cannot be started: {error.strerror or error}") from error
        self.connection = Connection(ours.detach())

    def send(self, message: Any) -> None:
        """Send one message; that the child is gone is found out by `receive`."""
        with contextlib.suppress(OSError):
            self.connection.send(message)

    def receive(self, seconds: float) -> Any:
        """The next message. Raises Ended if the child is gone, or kills it if none comes within `seconds`."""
        try:
            if self.connection.poll(seconds):
                return self.connection.recv()
        except (EOFError, OSError):
            code = self.process.wait()
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
            raise Ended(how) from None
        self.process.kill()
        raise Ended("gave no answer within the time limit")

    def last_words(self) -> str:
        """The last line that it printed, after a colon; empty if it printed none."""
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1]}" if lines else ""

    def end(self) -> None:
        """Kill it: it holds nothing that is not the parent's."""
        self.process.kill()
        self.process.wait()
        self.connection.close()
        self._log.close()


def connect() -> tuple[Connection, tuple[int, ...]]:
    """In the child, which from now on ends when its parent does: the connection to it, descriptors and arguments."""
    socket_number, *arguments = map(int, sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    return Connection(socket_number), tuple(arguments)


class Suspects(deque[T]):
    """What processes held that have ended: each goes through another one alone, and is set aside if that ends, too.

    After `most_deaths` in a row with nothing done between, it is no suspect's fault: RunError. `who` begins its text.
    """

    def __init__(self, who: str, most_deaths: int | None = None) -> None:
        super().__init__()
        self._who, self._most, self._deaths = who, most_deaths, 0

    def survived(self) -> None:
        self._deaths = 0

    def ended(self, held: Iterable[T], alone: bool, how: object) -> list[T]:
        """A process ended while it held this; what of it is to be set aside."""
        self._deaths += 1
        if self._deaths == self._most:
            raise RunError(f"{self._who} failed {self._deaths} times in a row, the last time it {how}")
        if alone:
            return list(held)
        self.extend(held)
        return []


def cores() -> int:
    return len(os.sched_getaffinity(0))


def _end_with(parent: int) -> None:
    """Also while foreign code hangs: libav, DALI and CUDA give up the GIL when they are called."""
    while os.getppid() == parent:
        time.sleep(_ORPHAN_CHECK_SECONDS)
    os._exit(1)
