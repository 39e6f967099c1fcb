"""What the encoder asks of CUDA, as far as it shows without a GPU; the rest is in test_graphs.py, by a stand-in."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest
import torch

from gpupeak.encode.gpu.device import Cuda
from gpupeak.errors import DeviceError


def test_what_is_put_on_a_stream_is_an_nvtx_range_on_whatever_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(torch.cuda.nvtx, "range_push", seen.append)
    monkeypatch.setattr(torch.cuda.nvtx, "range_pop", lambda: seen.append("end"))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: f"a stream of {device}")

    @contextlib.contextmanager
    def on(stream: object) -> Iterator[None]:
        seen.append(stream)
        yield

    monkeypatch.setattr(torch.cuda, "stream", on)
    stream = Cuda(torch.device("cuda:1")).stream()
    thread = threading.Thread(target=stream.run, args=("patch rows", lambda: seen.append("work")))
    thread.start()
    thread.join()
    assert seen == ["a stream of cuda:1", "patch rows", "work", "end"]


def test_a_device_without_memory_enough_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    monkeypatch.setattr(torch, "zeros", refuse)
    with pytest.raises(DeviceError, match=r"^the GPU has not memory enough .*2.00 GiB\.$"):
        Cuda(torch.device("cuda:1")).zeros((24, 8), torch.float16)
