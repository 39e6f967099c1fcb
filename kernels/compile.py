"""How does a `.cu` file beside this module become a kernel? CuPy compiles it with NVRTC on the machine that runs it."""

from __future__ import annotations

import os
import stat
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from gpupeak.errors import DeviceError


def source(name: str) -> Path:
    """The CUDA source of a kernel; it holds one `extern "C"` function, named like the file."""
    return Path(__file__).with_name(f"{name}.cu")


def options(**sizes: int) -> tuple[str, ...]:
    """What a source is compiled with; `sizes` are macros, as in `PATCH=14`."""
    return ("--std=c++17", *(f"-D{name}={value}" for name, value in sizes.items()))


def writable_cache(variable: str, default: str) -> None:
    """Let a compiler keep its binaries where it can: HOME may be `/`, missing or read-only.

    `variable` names its directory, `default` is taken where that is not set. Raises OSError if no directory is found.
    """
    if variable in os.environ:
        return
    home = Path(os.path.expanduser(default))  # noqa: PTH111 - leaves ~ where pathlib raises
    try:
        if home.is_absolute():
            home.mkdir(parents=True, exist_ok=True)
            if os.access(home, os.W_OK | os.X_OK):
                return
    except OSError:
        pass
    mine = Path(tempfile.gettempdir(), f"gpupeak-{os.getuid()}")
    mine.mkdir(mode=0o700, exist_ok=True)
    here = mine.lstat()
    if here.st_uid != os.getuid() or stat.S_IMODE(here.st_mode) != 0o700 or not stat.S_ISDIR(here.st_mode):
        mine = Path(tempfile.mkdtemp(prefix="gpupeak-"))  # who can write there chooses what runs here
    os.environ[variable] = str(mine / variable.lower())


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def gpu_extra() -> str:
    """What to install for the CUDA that the installed torch is built for."""
    return "gpupeak[gpu-cuda12]" if (torch.version.cuda or "").startswith("12.") else "gpupeak[gpu]"


def expect(tensor: torch.Tensor, dtype: torch.dtype, shape: tuple[int, ...], device: torch.device) -> None:
    """ValueError unless a tensor is as a kernel takes it: it believes whatever pointer it is given."""
    dense = tensor.is_contiguous() and (dtype != torch.float16 or tensor.data_ptr() % 16 == 0)
    if tensor.dtype != dtype or tensor.shape != shape or tensor.device != device or not dense:
        raise ValueError(
            f"a tensor is {tensor.dtype} {list(tensor.shape)} on {tensor.device}, expected dense {dtype} {list(shape)}"
        )


class Kernel:
    """The kernel `name` compiled for one GPU: a call is one launch on torch's current stream; a graph may capture it.

    CuPy keeps the binary on disk. Raises DeviceError.
    """

    def __init__(self, name: str, device: torch.device, **sizes: int) -> None:
        try:
            writable_cache("CUPY_CACHE_DIR", "~/.cupy/kernel_cache")
            import cupy
        except ModuleNotFoundError as error:
            raise DeviceError(f"CuPy is not installed: pip install '{gpu_extra()}'") from error
        except Exception as error:  # a broken installation may raise anything
            raise DeviceError(f"CuPy cannot be imported: {first_line(error)}") from error
        self._cupy = cupy
        self._streams: dict[_Stream, Any] = {}
        self._device = torch.device(device.type, device.index or 0)
        try:
            with cupy.cuda.Device(self._device.index):
                module = cupy.RawModule(code=source(name).read_text(encoding="utf-8"), options=options(**sizes))
                # Compiles and loads it: no later call does, as none may under a graph's capture.
                self._function = module.get_function(name)
        except Exception as error:  # NVRTC, driver and file errors have no base of their own
            raise DeviceError(f"{name}.cu cannot be compiled: {first_line(error)}") from error

    def __call__(self, grid: tuple[int, ...], threads: int, *arguments: torch.Tensor | int | float) -> None:
        """Launch `grid` blocks of `threads`; an int is passed as int32, a float as float32."""
        with self._cupy.cuda.Device(self._device.index), self._current_stream():
            self._function(grid, (threads,), tuple(map(_by_value, arguments)))

    def _current_stream(self) -> Any:
        stream = _Stream(torch.cuda.current_stream(self._device).cuda_stream)
        if stream not in self._streams:
            self._streams[stream] = self._cupy.cuda.Stream.from_external(stream)
        return self._streams[stream]


load = cache(Kernel)
"""A `Kernel`, compiled once."""


class _Stream(NamedTuple):
    """The CUDA stream protocol, which torch's own class follows only in its newest versions."""

    handle: int

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.handle


def _by_value(argument: torch.Tensor | int | float) -> np.generic:
    if isinstance(argument, torch.Tensor):
        return np.uint64(argument.data_ptr())
    return np.int32(argument) if isinstance(argument, int) else np.float32(argument)
