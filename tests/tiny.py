"""A CLIP image tower small enough to be tried in every way, and the same one as open_clip builds it."""

from __future__ import annotations

from typing import Any

import numpy as np
import open_clip
import torch
import transformers
from gpu_encode import open_clip_tower
from peers.baseline import NO_TEXT, vision_config

from gpupeak.encode.vit import expected_state
from gpupeak.encode.weights.random import random_state
from gpupeak.encoders import DINO2, SIGLIP, EncoderSpec, TowerShape

# Small products on several threads are mostly waiting, on a busy machine for seconds.
torch.set_num_threads(1)

SHAPE = TowerShape(size=28, patch=14, width=32, layers=3, heads=2, dim=24)
SPEC = EncoderSpec("TINY", "TINY", SHAPE.dim, SHAPE.size, "ViT-L-14-quickgelu", "openai", SHAPE)

DINO2_SHAPE = TowerShape(28, 14, 32, 2, 2, 32, 128, DINO2, trained=42, resize=36)
SIGLIP_SHAPE = TowerShape(40, 14, 32, 2, 2, 32, 80, SIGLIP, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
"""Of pictures of 28 pixels, as of all others here, the processor makes larger ones."""


def state(seed: int = 0, shape: TowerShape = SHAPE) -> dict[str, torch.Tensor]:
    """Random weights in open_clip's naming."""
    return random_state(seed, expected_state(shape))


def model_of(shape: TowerShape, **changes: Any) -> Any:
    """A model of transformers, the same every time, no parameter of which is neutral; `changes` in its words."""
    vision = {**vision_config(shape), "image_size": shape.trained, "intermediate_size": shape.hidden}
    vision |= {"hidden_act": shape.family.activation, **changes}
    make: Any = transformers.CLIPModel
    config: Any
    if shape.family.kind == "dinov2":
        make = transformers.Dinov2Model
        config = transformers.Dinov2Config(**vision, mlp_ratio=shape.hidden // shape.width)
    elif shape.family.kind == "siglip":
        make = transformers.SiglipModel
        config = transformers.SiglipConfig(text_config={**NO_TEXT, "projection_size": 32}, vision_config=vision)
    else:
        config = transformers.CLIPConfig(text_config=NO_TEXT, vision_config=vision, projection_dim=shape.dim)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        model = make(config)
        for parameter in model.parameters():
            deviation = 0.2 if parameter.squeeze().ndim < 2 else parameter[0].numel() ** -0.5
            parameter.add_(deviation * torch.randn(parameter.shape))
    return model.eval()


def images(count: int = 2, size: int = SHAPE.size) -> torch.Tensor:
    """Noise over a brightness of its own for each image, uint8 `[count, size, size, 3]`."""
    source = np.random.default_rng(count)
    base = source.integers(0, 200, (count, 1, 1, 3))
    return torch.from_numpy((base + source.integers(0, 56, (count, size, size, 3))).astype(np.uint8))


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    """What open_clip's and transformers' preprocessing makes of pixels of the right size."""
    mean, std = torch.tensor(open_clip.OPENAI_DATASET_MEAN), torch.tensor(open_clip.OPENAI_DATASET_STD)
    return ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2)


@torch.inference_mode()
def reference(weights: dict[str, torch.Tensor], pixels: torch.Tensor, shape: TowerShape = SHAPE) -> torch.Tensor:
    """The features that open_clip's own image tower gives."""
    tower = open_clip_tower(shape)
    tower.load_state_dict(weights, strict=True, assign=True)
    return tower.eval()(normalised(pixels))  # type: ignore[no-any-return]


def difference(features: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, as a part of the largest feature."""
    return float((features - expected).abs().max() / expected.abs().max())
