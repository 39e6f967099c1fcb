"""Which of torch's attention kernels does a tower run with? Chosen here and said, not left to torch."""

from __future__ import annotations

import warnings
from typing import NamedTuple, cast

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpupeak.encode.vit import Block, VisionTower

_CUDNN = 91600
"""9.15 and older fail under a graph's capture at lengths that are no multiple of 128; a picture is 257 tokens."""


class Attention(NamedTuple):
    backend: SDPBackend
    name: str


def choose_attention(tower: VisionTower) -> Attention:
    """The first of cuDNN, flash and efficient attention that takes what the tower asks of it; else the plain one."""
    cudnn: int = torch.backends.cudnn.version() or 0  # type: ignore[no-untyped-call]
    told = f"cuDNN {cudnn // 10_000}.{cudnn // 100 % 100}.{cudnn % 100}"
    fast = (
        *([Attention(SDPBackend.CUDNN_ATTENTION, told)] if cudnn >= _CUDNN else []),
        Attention(SDPBackend.FLASH_ATTENTION, "flash"),
        Attention(SDPBackend.EFFICIENT_ATTENTION, "efficient"),
    )
    return next((each for each in fast if _takes(tower, each.backend)), Attention(SDPBackend.MATH, "math"))


@torch.inference_mode()
def _takes(tower: VisionTower, backend: SDPBackend) -> bool:
    block, tokens = cast(Block, tower.blocks[0]), tower.shape.grid**2 + 1
    normed = block.qkv.weight.new_zeros(2, tokens, tower.shape.width)
    try:
        with sdpa_kernel(backend), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's reasons, one line each
            for wanted in (None, 1):
                block.attention(normed, wanted)
    except RuntimeError:
        return False
    return True
