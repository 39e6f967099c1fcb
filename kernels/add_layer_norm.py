"""A residual sum and its LayerNorm: as two operations they pass over device memory five times, as one four."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F

from gpupeak.kernels.compile import expect, load

AddLayerNorm: TypeAlias = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, float], tuple[torch.Tensor, torch.Tensor]
]

_WARPS = 4  # rows a block


def add_layer_norm(
    residual: torch.Tensor, delta: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The reference: `residual + delta`, `[..., width]` and not to be used again, and its LayerNorm."""
    total = residual + delta
    return total, F.layer_norm(total, weight.shape, weight, bias, eps)


def cuda_add_layer_norm(device: torch.device, width: int) -> AddLayerNorm:
    """`add_layer_norm` as one kernel, in place, for fp16 and widths that are multiples of 256. Raises DeviceError."""
    if width % 256:
        raise ValueError(f"width is {width}, expected a multiple of 256")
    kernel = load("add_layer_norm", device, WIDTH=width)

    def launch(
        residual: torch.Tensor, delta: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (*residual.shape[:-1], width)
        for tensor, wanted in ((residual, shape), (delta, shape), (weight, (width,)), (bias, (width,))):
            expect(tensor, torch.float16, wanted, residual.device)
        rows = residual.numel() // width
        kernel((-(-rows // _WARPS),), 32 * _WARPS, residual, delta, weight, bias, float(eps), rows)
        return residual, delta

    return launch
