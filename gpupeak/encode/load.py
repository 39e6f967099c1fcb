"""From an encoder and its weights to a module that encodes."""

from __future__ import annotations

import torch
from torch import nn

from gpupeak.encode.vit import VisionTower, expected_state
from gpupeak.encode.weights.checkpoint import load_state
from gpupeak.encode.weights.fit import fitting, tower_shape
from gpupeak.encode.weights.identity import WeightsId, locate
from gpupeak.encoders import EncoderSpec


def fetched(spec: EncoderSpec, weights: str | None) -> WeightsId:
    """`locate`, after open_clip has fetched what it has to fetch. Raises WeightsError."""
    found = locate(spec, weights)
    if found.tag is None or found.files:
        return found
    from gpupeak.encode.openclip import fetch

    return fetch(spec, found)


def load_tower(
    spec: EncoderSpec,
    weights: str | None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """Build the tower of `spec`: uint8 `[N, size, size, 3]` -> float32 `[N, dim]`. Raises WeightsError."""
    found = fetched(spec, weights)
    if spec.tower is None:
        from gpupeak.encode.openclip import load_open_clip

        return load_open_clip(spec, found, device, dtype)
    with fitting(spec, found):
        shape = spec.tower if found.seed is not None else tower_shape(spec.tower, found)
    state = load_state(spec, found, expected_state(shape), quick_gelu=shape.family.activation == "quick_gelu")
    return VisionTower.from_state(state, shape, device=device, dtype=dtype)
