"""Which of torch's attention kernels does a tower run with? Chosen here and said, not left to torch."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpupeak.encode.vit import VisionTower

APART = 1e-2
"""Relative L2 between two ways to compute a picture's features in fp16 that is more than rounding.

Measured for ViT-L/14 with drawn weights on a CPU: flash to math attention 1.5e-3, either to float32 1.5e-3. A key left
out is 1.1e-2, a tile of queries unwritten 0.55, zeros read behind the last key 0.39.
"""
_CUDNN = 91600
"""9.15 and older fail under a graph's capture at lengths that are no multiple of 128; a picture is 257 tokens."""


class Attention(NamedTuple):
    backend: SDPBackend
    name: str


def choose_attention(tower: nn.Module, size: int) -> Attention:
    """The first of cuDNN, flash and efficient attention that makes of pictures, uint8 `[N, size, size, 3]`, what the
    plain one does; else that one."""
    cudnn: int = torch.backends.cudnn.version() or 0  # type: ignore[no-untyped-call]
    told = f"cuDNN {cudnn // 10_000}.{cudnn // 100 % 100}.{cudnn % 100}"
    fast = (
        # Not for open_clip's towers: torch.nn.MultiheadAttention knows flash and efficient attention only.
        *([Attention(SDPBackend.CUDNN_ATTENTION, told)] if cudnn >= _CUDNN and isinstance(tower, VisionTower) else []),
        Attention(SDPBackend.FLASH_ATTENTION, "flash"),
        Attention(SDPBackend.EFFICIENT_ATTENTION, "efficient"),
    )
    device = next(tower.parameters()).device
    drawn = torch.randint(256, (2, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels, plain = drawn.to(device), Attention(SDPBackend.MATH, "math")
    wanted = _features(tower, pixels, plain)
    return next((each for each in fast if apart(_features(tower, pixels, each), wanted) <= APART), plain)


def apart(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest relative L2 of a row, not a number if one of it is none."""
    return float(((found - wanted).norm(dim=1) / wanted.norm(dim=1)).max())


@torch.inference_mode()
def _features(tower: nn.Module, pixels: torch.Tensor, attention: Attention) -> torch.Tensor:
    """Not a number where the tower asks what that attention does not take."""
    try:
        with sdpa_kernel(attention.backend), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's reasons, one line each
            features: torch.Tensor = tower(pixels)
    except RuntimeError:
        return torch.full((len(pixels), 1), torch.nan, device=pixels.device)
    return features
