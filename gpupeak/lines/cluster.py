"""The Ray cluster that a line runs on: which one it is, what it has, and how many actors with what share suit it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import TimeoutError as NoAnswer
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, TextIO, cast

from gpupeak.child import cores
from gpupeak.errors import ConfigError, DeviceError

_PORT = 6379  # where a cluster's head listens: Ray's default
_CONNECT_SECONDS, _JOIN_SECONDS = 10.0, 60.0
_STORE_BYTES = 256 << 20  # of a cluster of our own: what lies in its store are lists of samples


@dataclass(frozen=True, slots=True)
class Actors:
    """How many actors: `least` at once, up to `most` while there is work, each with `cpus` and `gpus`."""

    least: int
    most: int
    cpus: int
    gpus: float

    @classmethod
    def choose(
        cls,
        nodes: Sequence[tuple[float, float]],
        *,
        device: str = "auto",
        actors: str | None = None,
        gpus_per_actor: float | None = None,
        workers: int | None = None,
    ) -> tuple[Actors, str]:
        """What suits a cluster of these nodes, each (CPUs, GPUs), and why.

        One actor a GPU where Ray shows any; else one a node, or `actors`, "N" or "MIN:MAX". `workers` is how many CPUs
        an actor is to have. Raises DeviceError if there is no such GPU.
        """
        first, _, second = (actors or "0").partition(":")
        least, most = int(first), int(second or first)
        all_gpus = sum(gpus for _, gpus in nodes)
        if device == "cpu" or (device == "auto" and not all_gpus and gpus_per_actor is None):
            share, why = 0.0, "on the CPU, as asked" if device == "cpu" else "on the CPU: Ray shows no GPU"
            sizes = [int(cpus) for cpus, _ in nodes if cpus >= 1]
            if not sizes:
                raise DeviceError("Ray shows neither a GPU nor a CPU")
            cpus = workers or (_largest(sizes, most) if most else min(sizes))
            count = sum(size // cpus for size in sizes)
        elif not all_gpus:
            asked = f"--device {device}" if device != "auto" else "--gpus-per-actor"
            raise DeviceError(f"{asked}: Ray shows no GPU")
        else:
            share, why = gpus_per_actor or 1.0, f"on GPUs: Ray shows {all_gpus:g}"
            places = [(int(cpus), int(gpus / share)) for cpus, gpus in nodes if gpus >= share]
            if not places:
                raise DeviceError(f"--gpus-per-actor {share:g}: no node has as many")
            cpus = workers or min(cpus // count for cpus, count in places)
            count = sum(count for _, count in places)
        if not most:
            least = most = max(1, count)
        return cls(least, most, cpus, share), why


def _largest(sizes: Sequence[int], actors: int) -> int:
    return next((cpus for cpus in range(max(sizes), 1, -1) if sum(size // cpus for size in sizes) >= actors), 1)


def import_ray() -> Any:
    """Ray, set to be quiet. Raises ConfigError if it is not installed."""
    for name, value in (("USAGE_STATS_ENABLED", "0"), ("DEDUP_LOGS", "0"), ("BACKEND_LOG_LEVEL", "fatal")):
        os.environ.setdefault(f"RAY_{name}", value)
    try:
        return import_module("ray")
    except ImportError as error:
        raise ConfigError(f"--engine ray needs Ray ({error}): pip install 'gpupeak[ray]'") from error


@contextlib.contextmanager
def connected(ray: Any, address: str | None) -> Iterator[None]:
    """Be connected to the cluster at `address`, or to one on this machine, for as long as this lasts."""
    with contextlib.redirect_stdout(cast("TextIO", _WithoutRay(sys.stdout))):
        try:
            _connect(ray, address)
            yield
        finally:
            ray.shutdown()


def _connect(ray: Any, address: str | None) -> None:
    where = "a Ray cluster on this machine" if address is None else f"--address {address}"
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options |= {"num_cpus": cores(), "include_dashboard": False, "object_store_memory": _STORE_BYTES}
    given = "local" if address is None else _answering(address)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with _silent_start():
            if address is None:
                ray.init(given, **options)
            else:  # on a thread: Ray tries for ever what something else than Ray answers
                ThreadPool(1).apply_async(ray.init, (given,), options).get(_JOIN_SECONDS)
    except NoAnswer as error:
        raise DeviceError(f"{where}: what listens there does not answer as Ray does") from error
    except Exception as error:
        if "InvalidAuthToken" in f"{error} {error.__cause__}":
            expected = "RAY_AUTH_MODE=token and the cluster's token, in RAY_AUTH_TOKEN or ~/.ray/auth_token"
            raise DeviceError(f"{where}: that cluster asks for another token; expected {expected}") from error
        raise DeviceError(f"{where}: {one_line(error.__cause__ or error)}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray takes it for itself


def _answering(address: str) -> str:
    """The address with its port, if something listens there: Ray itself would try for long."""
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


class _WithoutRay:
    """Standard output as it is, without what Ray's threads print there of nodes and actors: its log files have that."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        return len(text) if threading.current_thread().name.startswith("ray_") else self._stream.write(text)


@contextlib.contextmanager
def _silent_start() -> Iterator[None]:
    """Send standard error nowhere: Ray writes there that its log level has been set. Its errors are exceptions."""
    kept = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"
