"""What the encoder asks of CUDA, as far as it shows without a GPU; the rest is in test_graphs.py, by a stand-in."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import pytest
import torch

from gpupeak.encode.gpu.device import _TorchStream


def test_what_is_put_on_a_stream_is_an_nvtx_range_on_whatever_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(torch.cuda.nvtx, "range_push", seen.append)
    monkeypatch.setattr(torch.cuda.nvtx, "range_pop", lambda: seen.append("end"))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext(seen.append(stream)))
    own: Any = "the stream"
    stream = _TorchStream(own, torch.device("cuda:0"))
    thread = threading.Thread(target=stream.run, args=("patch rows", lambda: seen.append("work")))
    thread.start()
    thread.join()
    assert seen == ["the stream", "patch rows", "work", "end"]
