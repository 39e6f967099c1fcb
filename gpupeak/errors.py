"""Every error gpupeak raises, and the exit code each one ends a command with.

    GpupeakError
    ├── UsageError      2   ConfigError, LabelError, AuError, WeightsError
    ├── RunError        3   DeviceError, WriteError
    └── SampleError     -   one sample's fault: becomes a `Failed` value and never ends a run

A bad video is data and a broken machine is an exception: `SampleError` is caught where a sample is
worked on and turned into `types.Failed`; only the other two leave a run.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import ClassVar

OUT_OF_MEMORY = "asks for more memory than it may have"
"""The reason of a sample whose file made the decoder ask for too much; the process that decoded it is replaced."""


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


def few(names: Iterable[str]) -> str:
    """The first three names, for a message."""
    shown = [repr(name[:80]) for name in itertools.islice(names, 4)]
    return ", ".join(shown[:3]) + (", ..." if len(shown) > 3 else "")
