"""How many images a second does gpupeak's tower encode, beside the libraries that compute the same?

What bounds all of them is products of matrices, so each figure comes with its share of what one large product
reaches on the same machine. float32 on the CPU's cores, as many images at once as a sample has frames; fp16 on a
GPU, where the line replays graphs of the tower and bench/gpu_check.py measures it so. The others are given pixels
that are normalised already: what processors take is no part of this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TypeAlias

import torch
from gpu_encode import described, drawn, fidelity, flop, open_clip_tower, worst
from peers.baseline import loaded, vision_config
from record import NOISE, Record, Row, alternated, beside, timed
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
from workload import Scale

from gpupeak.encode.vit import MEAN, STD, VisionTower, expected_state
from gpupeak.encode.weights.random import random_state
from gpupeak.encoders import CLIP_VIT_LARGE, TowerShape

Encode: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""uint8 RGB `[N, size, size, 3]` -> features `[N, dim]`."""

VIT_B_32 = TowerShape(size=224, patch=32, width=768, layers=12, heads=12, dim=512)
assert CLIP_VIT_LARGE.tower is not None
VIT_L_14 = CLIP_VIT_LARGE.tower

OURS, THEIRS = "gpupeak", "transformers"
FAR = {torch.float32: 1e-4, torch.float16: 2e-2}
"""Relative L2 of features less their mean that is more than another order of sums, by dtype."""


def encoding(record: Record, scale: Scale, work: Path) -> None:
    """Towers of the same drawn weights: ViT-B/32 and, in full, ViT-L/14."""
    gpu = torch.cuda.is_available()
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False  # as on the line
    images = 256 if gpu else 8
    ceiling = record.row("ceiling: product of matrices", product, scale.rounds).get("flop_per_s", float("nan"))
    rates = partial(rate, images=images, ceiling=ceiling)
    record.row("ViT-B/32", rates, VIT_B_32, rounds=scale.rounds)
    if not scale.quick:
        # On a CPU a round takes half a minute.
        record.row("ViT-L/14", rates, VIT_L_14, rounds=scale.rounds if gpu else 3)


def device_and_dtype() -> tuple[torch.device, torch.dtype]:
    if torch.cuda.is_available():
        return torch.device("cuda"), torch.float16
    return torch.device("cpu"), torch.float32


def product(rounds: int, side: int = 2048) -> Row:
    """One large product, which no tower can beat."""
    device, dtype = device_and_dtype()
    side *= 4 if device.type == "cuda" else 1
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    row = timed(alternated({"mm": lambda: finished(torch.mm(a, b))}, rounds)["mm"])
    flop_per_s = 2 * side**3 / row["median_s"]
    says = f"{flop_per_s / 1e9:.0f} GFLOP/s, {side} a side, {dtype}"
    return {**row, "side": side, "torch_threads": torch.get_num_threads(), "flop_per_s": flop_per_s, "says": says}


@torch.inference_mode()
def rate(shape: TowerShape, *, images: int, ceiling: float, rounds: int) -> Row:
    """Images/s of every side; what it encodes is held against gpupeak's, and `ok` says that it is the same."""
    device, dtype = device_and_dtype()
    pixels = torch.from_numpy(drawn(4 * images)[::4].copy()).to(device)
    sides = dict(encoders(shape, random_state(0, expected_state(shape)), device, dtype))
    features = {side: finished(encode(pixels)).float().cpu().double().numpy() for side, encode in sides.items()}
    wanted = features.pop(OURS)
    differences = {side: worst(fidelity(each, wanted, wanted.mean(0))) for side, each in features.items()}
    works = {side: partial(lambda run: finished(run(pixels)), encode) for side, encode in sides.items()}
    compared = beside(OURS, alternated(works, rounds, warm=0))  # they have all been called
    rates = {side: images / seconds["median_s"] for side, seconds in compared["seconds"].items()}
    shares = {side: per_s * sum(flop(shape).values()) / ceiling for side, per_s in rates.items()}
    figure = compared["ratios"][THEIRS]["median"]
    farthest = max(differences.values(), key=lambda each: each["centred_relative_l2"])
    told = (f"{side} {per_s:.3g} ({100 * shares[side]:.0f} %)" for side, per_s in rates.items())
    return {
        "shape": {"patch": shape.patch, "width": shape.width, "layers": shape.layers, "dim": shape.dim},
        "dtype": str(dtype),
        "images": images,
        "rounds": rounds,
        "torch_threads": torch.get_num_threads(),
        **compared,
        "images_per_s": rates,
        "of_ceiling": shares,
        "differences": differences,
        "ok": farthest["centred_relative_l2"] < FAR[dtype],
        "targets": [{"what": f"{THEIRS} / {OURS}", "figure": figure, "sign": ">=", "limit": NOISE}],
        "says": f"images/s (of the ceiling): {', '.join(told)}; {THEIRS}/{OURS} {figure:.2f}; {described(farthest)}",
    }


def encoders(
    shape: TowerShape, state: Mapping[str, torch.Tensor], device: torch.device, dtype: torch.dtype
) -> Iterator[tuple[str, Encode]]:
    """Every side by name, with parameters named as in open_clip."""
    yield OURS, VisionTower.from_state(state, shape, device=device, dtype=dtype)
    visual = open_clip_tower(shape)
    visual.load_state_dict(state, strict=True, assign=True)
    yield "open_clip", Normalised(visual.to(device, dtype).eval())
    model = loaded(CLIPVisionModelWithProjection, CLIPVisionConfig(**vision_config(shape)), state).to(device, dtype)
    yield THEIRS, Normalised(lambda images: model(pixel_values=images).image_embeds)


class Normalised:
    """A tower that takes normalised images `[N, 3, size, size]`, which are made of the same pixels only once."""

    def __init__(self, tower: Encode) -> None:
        self._tower = tower
        self._pixels, self._images = torch.empty(0), torch.empty(0)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        if pixels is not self._pixels:
            mean, std = (torch.tensor(each, device=pixels.device) for each in (MEAN, STD))
            images = ((pixels / 255 - mean) / std).permute(0, 3, 1, 2)
            self._pixels, self._images = pixels, images.to(device_and_dtype()[1]).contiguous()
        return self._tower(self._images)


def finished(features: torch.Tensor) -> torch.Tensor:
    if features.is_cuda:
        torch.cuda.synchronize()
    return features
