"""Every error gpupeak raises, and the exit code each one ends a command with.

GpupeakError
├── UsageError      2   ConfigError, LabelError, AuError, WeightsError
├── RunError        3   DeviceError, WriteError
└── SampleError     -   one sample's fault: becomes a `types.Failed` where it is worked on, and never ends a run
"""

from __future__ import annotations

import contextlib
import itertools
import re
import resource
from collections.abc import Iterable, Iterator
from typing import ClassVar

_SHORT = re.compile("map segment|allocate memory|alloc_cpu", re.IGNORECASE)
OUT_OF_MEMORY = "asks for more memory than it may have"
"""The reason of a sample whose file made the decoder ask for too much; the process that decoded it is replaced."""
CUT_SHORT = re.compile("EOF|unpack requires a buffer|file not fully covered")
"""How Python, torch and safetensors say that a file ends too early."""

_MISTAKEN = {
    (b"version https://git-lfs.",): "is a pointer of Git LFS: `git lfs pull` fetches the file itself",
    (b"<!doctype html", b"<html", b"<head"): "is a web page (HTML): the download brought that instead of the file",
    (b"gif87a", b"gif89a"): "is a GIF: `ffmpeg -i IN.gif OUT.mp4` makes a video of it",
}


class GpupeakError(Exception):
    """The root: `str(error)` is the one line that a user is shown."""

    exit_code: ClassVar[int] = 3


class UsageError(GpupeakError):
    """The command, its configuration or one of its input lists is wrong."""

    exit_code = 2


class ConfigError(UsageError):
    """An option or a settings file is wrong, or settings contradict each other."""


class LabelError(UsageError):
    """A label file or a sample list is missing, unreadable or not of the documented form."""


class AuError(UsageError):
    """No action-unit file could be used where peaks were asked for."""


class WeightsError(UsageError):
    """Weights are missing or do not fit the encoder."""


class RunError(GpupeakError):
    """The run cannot go on."""


class DeviceError(RunError):
    """The device asked for is not there, or cannot do what was asked."""


class WriteError(RunError):
    """The output cannot be written."""


class SampleError(GpupeakError):
    """One sample cannot be used. `stage` is one of `types.STAGES`."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(reason)
        self.stage = stage
        self.reason = reason

    def __reduce__(self) -> tuple[type[SampleError], tuple[str, str]]:
        return type(self), (self.stage, self.reason)


@contextlib.contextmanager
def reading(where: object) -> Iterator[None]:
    """What cannot be read within, an OSError, is a RunError that names `where`."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{where}: cannot be read: {error.strerror or error}") from error


@contextlib.contextmanager
def writing(where: object) -> Iterator[None]:
    """What cannot be written within, an OSError, is a WriteError that names `where`."""
    try:
        yield
    except OSError as error:
        raise WriteError(f"{where}: cannot be written: {error.strerror or error}") from error


def out_of_memory(error: BaseException) -> str | None:
    """The line for an error that a lack of memory made, whatever it calls itself; None for any other."""
    if not isinstance(error, MemoryError) and not _SHORT.search(str(error)):
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    bound = f": this process may have {limit / 2**30:.1f} GiB of addresses (ulimit -v)"
    return f"out of memory{'' if limit == resource.RLIM_INFINITY else bound}"


def mistaken(start: bytes) -> str | None:
    """What a file is that begins so, where it is one of those that downloads leave in the place of any other."""
    start = start.lstrip(b"\xef\xbb\xbf \t\r\n")[:60].lower()
    return next((told for starts, told in _MISTAKEN.items() if start.startswith(starts)), None)


def counted(count: int, noun: str) -> str:
    """`1 sample`, `2 samples`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def sized(count: int) -> str:
    """A number of bytes: `123 bytes`, `24.7 kB`."""
    power = min((len(str(count)) - 1) // 3, 4)
    return f"{count / 1000**power:,.1f} {' kMGT'[power]}B" if power else counted(count, "byte")


def few(names: Iterable[str]) -> str:
    """The first three names, for a message."""
    shown = [name[:80] or "''" for name in itertools.islice(names, 4)]
    return ", ".join(shown[:3]) + ", ..." * (len(shown) > 3)
