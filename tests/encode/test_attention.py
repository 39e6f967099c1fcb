"""Which attention a tower runs with: the fastest that takes it, in warm-up and capture alike, held to the plain one.

There is no GPU: what a backend takes is said by the test, and LazyCuda captures.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from frames import SHAPE, tower
from lazy_cuda import LazyCuda
from torch.nn.attention import SDPBackend, sdpa_kernel
from wrong_kernels import WRONG

from gpupeak.encode.gpu import attention as module
from gpupeak.encode.gpu.attention import Attention, choose_attention
from gpupeak.encode.gpu.graphs import EagerRunner, GraphRunner
from gpupeak.encode.kernels import Kernels
from gpupeak.errors import DeviceError

TOWER = tower()
BUCKETS = (4, 16, 24)
CUDNN, FLASH, EFFICIENT, MATH = (
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)
attend = F.scaled_dot_product_attention


@pytest.mark.parametrize(
    ("cudnn", "takes", "chosen"),
    [
        (91600, {CUDNN, FLASH, MATH}, Attention(CUDNN, "cuDNN 9.16.0")),
        (92401, {CUDNN, EFFICIENT, MATH}, Attention(CUDNN, "cuDNN 9.24.1")),
        (92401, {FLASH, EFFICIENT, MATH}, Attention(FLASH, "flash")),
        (91501, {CUDNN, FLASH, MATH}, Attention(FLASH, "flash")),
        (8907, {CUDNN, EFFICIENT, MATH}, Attention(EFFICIENT, "efficient")),
        (None, {CUDNN}, Attention(MATH, "math")),
    ],
)
def test_the_fastest_that_takes_the_tower_is_chosen(
    cudnn: int | None, takes: set[SDPBackend], chosen: Attention, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def only(backend: SDPBackend) -> Iterator[None]:
        if backend not in takes:
            raise RuntimeError("No available kernel. Aborting execution.")
        yield

    monkeypatch.setattr(module, "sdpa_kernel", only)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: cudnn)
    assert choose_attention(TOWER, SHAPE.size) == chosen


def enabled() -> set[SDPBackend]:
    of: Any = torch.backends.cuda
    backends = {CUDNN: of.cudnn_sdp_enabled, FLASH: of.flash_sdp_enabled, MATH: of.math_sdp_enabled}
    backends[EFFICIENT] = of.mem_efficient_sdp_enabled
    return {backend for backend, is_enabled in backends.items() if is_enabled()}


@pytest.mark.parametrize("backend", [CUDNN, FLASH, EFFICIENT, MATH])
def test_it_is_the_only_one_in_warm_up_and_capture(backend: SDPBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, seen = LazyCuda(), list[tuple[str, set[SDPBackend]]]()

    def watched(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        seen.append((cuda.log[-1], enabled()))
        with sdpa_kernel(MATH):
            return attend(query, key, value)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    runner = GraphRunner(EagerRunner(TOWER, cuda, 4, attention=Attention(backend, "one")), (4,))
    runner.run(3)
    assert {what for what, _ in seen} == {"stream 1: warm up", "replays 4"}
    assert all(backends == {backend} for _, backends in seen)


def checked(kernels: Kernels | None = None) -> None:
    GraphRunner(
        EagerRunner(TOWER, LazyCuda(), max(BUCKETS), kernels, choose_attention(TOWER, SHAPE.size)), BUCKETS
    ).check()


@pytest.mark.parametrize(("kernel", "wrong"), WRONG)
def test_a_kernel_that_is_wrong_is_refused(kernel: str, wrong: Any) -> None:
    with pytest.raises(DeviceError, match=r"^the graph of \d+ images is wrong: \S+ off"):
        checked(Kernels(**{kernel: wrong}))


@pytest.mark.parametrize("images", BUCKETS)
def test_attention_that_is_wrong_is_refused_in_whatever_graph(images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when queries behind the last whole tile are left as they were."""

    def attended(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        out = attend(query, key, value)
        if enabled() != {MATH} and len(query) == images:
            out = out.clone()
            out[:, :, -1] = 0
        return out

    monkeypatch.setattr(F, "scaled_dot_product_attention", attended)
    with pytest.raises(DeviceError, match=rf"^the graph of {images} images is wrong"):
        checked()
    monkeypatch.setattr(F, "scaled_dot_product_attention", attend)
    checked()
