"""The vision tower against open_clip's own, every one of its parameters, and random weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import SHAPE, difference, images, reference, state

from gpupeak.encode.vit import VisionTower, expected_state
from gpupeak.encode.weights.random import random_state
from gpupeak.encoders import TowerShape

WITHIN = 1e-4  # of the features' largest value, in float32


@torch.inference_mode()
def encode(weights: dict[str, torch.Tensor], pixels: torch.Tensor, shape: TowerShape = SHAPE) -> torch.Tensor:
    return VisionTower.from_state(weights, shape)(pixels)  # type: ignore[no-any-return]


FULL = TowerShape(size=224, patch=14, width=1024, layers=24, heads=16, dim=768)


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(FULL, marks=pytest.mark.slow, id="ViT-L/14"),
        pytest.param(replace(FULL, layers=2), id="two blocks of it"),
        SHAPE,
        TowerShape(size=32, patch=16, width=48, layers=1, heads=3, dim=48),  # 3 * 16 * 16 needs no padding
        TowerShape(size=9, patch=3, width=16, layers=2, heads=1, dim=7),
    ],
)
def test_the_tower_agrees_with_open_clip(shape: TowerShape) -> None:
    weights, pixels = state(3, shape), images(2, shape.size)
    features = encode(weights, pixels, shape)
    assert features.shape == (2, shape.dim) and features.dtype == torch.float32
    assert difference(features[:1], reference(weights, pixels[:1], shape)) < WITHIN
    assert 0.1 < float(features.std()) < 10
    assert float(torch.cosine_similarity(features[0], features[1], dim=0)) < 0.999


def test_vit_l_14_has_its_parameters() -> None:
    assert sum(value.numel() for value in expected_state(FULL).values()) == 303_966_208


@pytest.mark.parametrize(("dtype", "cosine"), [(torch.float16, 0.99999), (torch.bfloat16, 0.999)])
def test_half_precision_gives_float32_features_close_by(dtype: torch.dtype, cosine: float) -> None:
    half = VisionTower.from_state(state(), SHAPE, dtype=dtype)
    assert {value.dtype for value in half.parameters()} == {dtype}
    assert half.scale_shift.dtype == torch.float32, "a rounded scale would shift every pixel"
    features = half(images(4))
    assert features.dtype == torch.float32
    assert float(torch.cosine_similarity(features, encode(state(), images(4)), dim=1).min()) > cosine


def test_random_weights_depend_on_seed_and_name_only() -> None:
    expected = expected_state(SHAPE)
    first, backwards = random_state(5, expected), random_state(5, dict(reversed(expected.items())))
    assert all(torch.equal(first[name], backwards[name]) for name in expected)
    other = random_state(6, expected)
    assert not any(torch.equal(first[name], other[name]) for name in expected)
    assert not torch.equal(first["ln_pre.bias"], first["ln_post.bias"])
