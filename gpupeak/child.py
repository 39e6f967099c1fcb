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
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import gpupeak
from gpupeak.errors import RunError

__all__ = ["Child", "Ended", "connect"]

_ORPHAN_CHECK_SECONDS = 1.0


class Ended(Exception):
    """The child is gone, or was killed because it gave no answer; the text says how, as the end of a sentence."""


class Child:
    """A process that runs `entry`, "module:function", in a session of its own: Ctrl-C is for the parent to act on.

    `arguments` and the numbers of `descriptors`, which it inherits, reach it through `connect`.

    Raises:
        RunError: the system gives no process, or no descriptors for it.
    """

    def __init__(self, entry: str, *arguments: int, descriptors: tuple[int, ...] = ()) -> None:
        module, _, function = entry.partition(":")
        root = str(Path(gpupeak.__file__).parent.parent)
        # The package's own directory instead of the current one, which python -c would search first.
        code = f"import sys; sys.path[0] = {root!r}; from {module} import {function}; {function}()"
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
    """In the child: the connection to the parent, and the descriptors and arguments it was given.

    From now on this process ends when its parent does, and leaves no core file.
    """
    socket_number, *arguments = map(int, sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    return Connection(socket_number), tuple(arguments)


def _end_with(parent: int) -> None:
    """Also while foreign code hangs: libav, DALI and CUDA give up the GIL when they are called."""
    while os.getppid() == parent:
        time.sleep(_ORPHAN_CHECK_SECONDS)
    os._exit(1)
