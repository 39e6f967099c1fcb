"""What the encoder asks of CUDA. Everything asynchronous goes through here, so that a test can stand in for it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch

from gpupeak.errors import DeviceError

Work = Callable[[], object]  # puts work on the current stream and returns at once, as a captured graph's replay does


class Event(Protocol):
    """A point in a stream's work, as `torch.cuda.Event`; `elapsed_time` is in milliseconds."""

    def query(self) -> bool: ...
    def synchronize(self) -> None: ...
    def elapsed_time(self, later: Any, /) -> float: ...


class Cuda:
    """Streams, memory and graphs on one device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def stream(self) -> Stream:
        return Stream(torch.cuda.Stream(self._device))  # type: ignore[no-untyped-call]

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Memory on the device, zero before any work put on any stream from now on."""
        with _enough_memory():
            memory = torch.zeros(shape, dtype=dtype, device=self._device)
        torch.cuda.synchronize(self._device)
        return memory

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Page-locked memory on the host: copies between it and the device need not wait for either side."""
        with torch.cuda.device(self._device):  # pinning opens a context on the current device
            return torch.zeros(shape, dtype=dtype, pin_memory=True)

    def pool(self) -> object:
        """Memory for captured work. Graphs in one pool share it: only one of them may run at a time."""
        return torch.cuda.graph_pool_handle()

    def capture(self, stream: Stream, pool: Any, work: Work) -> Work:
        """Record work that has run on `stream` before; it is not run now."""
        graph = torch.cuda.CUDAGraph()
        # Thread-local: another thread may allocate meanwhile, which would break a global capture.
        with (
            _enough_memory(),
            torch.cuda.device(self._device),
            torch.cuda.graph(graph, pool=pool, stream=stream.torch, capture_error_mode="thread_local"),
        ):
            work()
        return graph.replay


class Stream:
    """Work that runs in the order in which it was put here, beside that of other streams."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self.torch = stream

    def run(self, label: str, work: Work) -> None:
        """Put work here; its label, without braces, names it in profiles."""
        # NVTX and not record_function, which torch's profiler sees on the thread that started it only, and takes 8 us.
        with _enough_memory(), torch.cuda.stream(self.torch), torch.cuda.nvtx.range(label):
            work()

    def wait(self, event: Event) -> None:
        """What is put here from now on waits for the event; the caller does not."""
        self.torch.wait_event(event)  # type: ignore[arg-type]

    def record(self) -> Event:
        # Blocking: a thread that waits for it sleeps and leaves its core to the decoders.
        event = torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]
        event.record(self.torch)
        return event


@contextlib.contextmanager
def _enough_memory() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = f"{error}".partition("\n")[0]
        raise DeviceError(f"the GPU has not memory enough for batches of this size: {reason}") from error
