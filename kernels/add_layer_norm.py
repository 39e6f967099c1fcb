"""What does a residual block need between two products? A sum, and the LayerNorm of the sum.

As two operations they pass over device memory five times (read, read, write; read, write); as one, four.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import torch
import torch.nn.functional as F

from gpupeak.kernels.compile import Kernel, expect, load

AddLayerNorm: TypeAlias = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, float], tuple[torch.Tensor, torch.Tensor]
]
"""`add_layer_norm`, or the kernel that does the same."""

_WARPS = 4  # rows a block


def add_layer_norm(
    residual: torch.Tensor, delta: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The reference, on any device: `residual + delta`, and its LayerNorm, which may lie in the memory of the two.

    Both are `[..., width]`, `weight` and `bias` `[width]`, all of one dtype.
    """
    total = residual + delta
    return total, F.layer_norm(total, weight.shape, weight, bias, eps)


def cuda_add_layer_norm(device: torch.device, width: int) -> AddLayerNorm:
    """`add_layer_norm` as one kernel, in place, for fp16 and widths that are multiples of 256.

    The sum is the same to the bit; its LayerNorm differs by float32 rounding. Raises DeviceError as `compile.load`.
    """
    if width % 256:
        raise ValueError(f"width is {width}, expected a multiple of 256")
    return partial(_launch, load("add_layer_norm", device, WIDTH=width), width)


def _launch(
    kernel: Kernel,
    width: int,
    residual: torch.Tensor,
    delta: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    for tensor, shape in ((residual, residual.shape), (delta, residual.shape), (weight, (width,)), (bias, (width,))):
        expect(tensor, torch.float16, (*shape[:-1], width), residual.device)
    rows = residual.numel() // width
    kernel((-(-rows // _WARPS),), 32 * _WARPS, residual, delta, weight, bias, float(eps), rows)
    return residual, delta
