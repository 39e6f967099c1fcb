"""Kernels that compute something else than they should, for what has to notice it."""

from __future__ import annotations

from typing import Any

import torch

from gpupeak.kernels.add_layer_norm import add_layer_norm
from gpupeak.kernels.linear_silu import linear_silu
from gpupeak.kernels.patch_rows import patch_rows


def wrong_channels(pixels: torch.Tensor, images: torch.Tensor, scale_shift: torch.Tensor, out: torch.Tensor) -> None:
    patch_rows(pixels.flip(3).contiguous(), images, scale_shift, out)


def wrong_image(pixels: torch.Tensor, images: torch.Tensor, scale_shift: torch.Tensor, out: torch.Tensor) -> None:
    patch_rows(pixels, images.clamp(max=14), scale_shift, out)


def wrong_norm(*given: Any) -> Any:
    total, normed = add_layer_norm(*given)
    return total, normed * 1.05


def wrong_tile(*given: Any) -> Any:
    out = linear_silu(*given)
    out[-1] = 0
    return out


def no_numbers(*given: Any) -> Any:
    return linear_silu(*given) * torch.nan


WRONG = [
    ("patch_rows", wrong_channels),
    ("patch_rows", wrong_image),
    ("add_layer_norm", wrong_norm),
    ("linear_silu", wrong_tile),
    ("linear_silu", no_numbers),
]
"""Names of kernels, and what is wrong in their place."""
