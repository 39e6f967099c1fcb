"""Random weights, for tests, demonstrations and measurements: what they encode means nothing."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import numpy as np
import torch


def random_state(seed: int, expected: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Random float32 values for tensors of the names and shapes of `expected`, each from the seed and its own name.

    None is neutral: a tower which forgets one tensor shows. Whole numbers stay as they are.
    """
    return {
        name: _values(seed, name, tuple(like.shape)) if like.is_floating_point() else like
        for name, like in expected.items()
    }


def _values(seed: int, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    centre, deviation = _distribution(name, shape)
    source = np.random.default_rng(int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:16], "big"))
    # Uniform: the 304 million parameters of ViT-L/14 in a quarter of the time that normal ones take.
    values = np.asarray(source.random(shape, np.float32))
    values -= np.float32(0.5)
    values *= np.float32(math.sqrt(12) * deviation)
    values += np.float32(centre)
    return torch.from_numpy(values)


def _distribution(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    last = name.rpartition(".")[2]
    if last.endswith(("bias", "running_mean")):
        return 0.0, 0.1
    if last.endswith(("embed", "embedding", "token", "latent", "probe")):
        return 0.0, 0.5  # beside patches of standard deviation 1
    if sum(length > 1 for length in shape) <= 1:
        return 1.0, 0.4 / math.sqrt(12)
    # An open_clip projection is multiplied from the right: its inputs come first.
    fan_in = shape[0] if last in ("proj", "projection") else math.prod(shape[1:])
    return 0.0, fan_in**-0.5
