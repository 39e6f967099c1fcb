"""From an encoder and its weights to a module that encodes."""

from __future__ import annotations

import re
from dataclasses import asdict

import torch
from torch import nn

from gpupeak.encode.vit import VisionTower, expected_state
from gpupeak.encode.weights.checkpoint import load_state
from gpupeak.encode.weights.identity import WeightsId, locate
from gpupeak.encoders import EncoderSpec, TowerShape, hf_tower
from gpupeak.errors import ConfigError, WeightsError

_TRANSFORMERS = re.compile(r"(pytorch_)?model(-\d+-of-\d+)?\.(safetensors|bin)")  # as it names files


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
    shape = spec.tower if found.seed is not None else _shape(spec, spec.tower, found)
    state = load_state(spec, found, expected_state(shape), quick_gelu=shape.family.activation == "quick_gelu")
    return VisionTower.from_state(state, shape, device=device, dtype=dtype)


def _shape(spec: EncoderSpec, named: TowerShape, found: WeightsId) -> TowerShape:
    """`named`, but for pictures as the files beside transformers' weights tell of them."""
    home = found.files[0].parent
    if not _TRANSFORMERS.fullmatch(found.files[0].name) or not (home / "config.json").exists():
        return named
    try:
        told = hf_tower(home, named)
        for name, value in _compared(told).items():
            if value != (wanted := _compared(named)[name]):
                raise ConfigError(f"config.json says {name} {value}, expected {wanted}")
    except ConfigError as error:
        raise WeightsError(f"weights {found.source} do not fit {spec.name}: {error}") from error
    return told


def _compared(shape: TowerShape) -> dict[str, object]:
    sizes = ("patch", "width", "layers", "heads", "dim", "hidden")
    return {**asdict(shape.family), **{name: getattr(shape, name) for name in sizes}}
