"""How many images a second does gpupeak's tower encode, beside the libraries that compute the same?

What bounds all of them is products of matrices, so each figure comes with its share of what one large product
reaches on the same machine. float32 on the CPU's cores, as many images at once as a sample has frames: on a GPU the
line replays graphs of the tower, which bench/gpu_check.py measures. The others are given pixels that are normalised
already: what processors take is no part of this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
from gpu_encode import described, drawn, fidelity, flop, open_clip_tower, worst
from peers.baseline import loaded, vision_config
from record import NOISE, Record, Row, alternated, beside, timed
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
from workload import Scale

from gpupeak.encode.vit import VisionTower, expected_state
from gpupeak.encode.weights.random import random_state
from gpupeak.encoders import CLIP_VIT_LARGE, TowerShape

VIT_B_32 = TowerShape(size=224, patch=32, width=768, layers=12, heads=12, dim=512)
assert CLIP_VIT_LARGE.tower is not None
VIT_L_14 = CLIP_VIT_LARGE.tower

OURS, THEIRS = "gpupeak", "transformers"
IMAGES = 8
FAR = 1e-4
"""Relative L2 of features less their mean that is more than another order of sums."""


def encoding(record: Record, scale: Scale, work: Path) -> None:
    """Towers of the same drawn weights: ViT-B/32 and, in full, ViT-L/14."""
    ceiling = record.row("ceiling: product of matrices", product, scale.rounds).get("flop_per_s", float("nan"))
    record.row("ViT-B/32", rate, VIT_B_32, IMAGES, ceiling, scale.rounds)
    if not scale.quick:
        record.row("ViT-L/14", rate, VIT_L_14, IMAGES, ceiling, 3)  # a round takes half a minute


def product(rounds: int, side: int = 2048) -> Row:
    """One large product, which no tower can beat."""
    a, b = torch.randn(2, side, side)
    row = timed(alternated({"mm": partial(torch.mm, a, b)}, rounds)["mm"])
    flop_per_s = 2 * side**3 / row["median_s"]
    says = f"{flop_per_s / 1e9:.0f} GFLOP/s, {side} a side"
    return {**row, "side": side, "torch_threads": torch.get_num_threads(), "flop_per_s": flop_per_s, "says": says}


@torch.inference_mode()
def rate(shape: TowerShape, images: int, ceiling: float, rounds: int) -> Row:
    """Images/s of every side; what it encodes is held against gpupeak's, and `ok` says that it is the same."""
    pixels = torch.from_numpy(drawn(4 * images)[::4].copy())
    sides = dict(encoders(shape, random_state(0, expected_state(shape)), pixels))
    features = {side: encode().double().numpy() for side, encode in sides.items()}
    wanted = features.pop(OURS)
    differences = {side: worst(fidelity(each, wanted, wanted.mean(0))) for side, each in features.items()}
    compared = beside(OURS, alternated(sides, rounds, warm=0))  # they have all been called
    rates = {side: images / seconds["median_s"] for side, seconds in compared["seconds"].items()}
    shares = {side: per_s * sum(flop(shape).values()) / ceiling for side, per_s in rates.items()}
    figure = compared["ratios"][THEIRS]["median"]
    farthest = max(differences.values(), key=lambda each: each["centred_relative_l2"])
    told = (f"{side} {per_s:.3g} ({100 * shares[side]:.0f} %)" for side, per_s in rates.items())
    return {
        "shape": {"patch": shape.patch, "width": shape.width, "layers": shape.layers, "dim": shape.dim},
        "images": images,
        "rounds": rounds,
        "torch_threads": torch.get_num_threads(),
        **compared,
        "images_per_s": rates,
        "of_ceiling": shares,
        "differences": differences,
        "ok": farthest["centred_relative_l2"] < FAR,
        "targets": [{"what": f"{THEIRS} / {OURS}", "figure": figure, "sign": ">=", "limit": NOISE}],
        "says": f"images/s (of the ceiling): {', '.join(told)}; {THEIRS}/{OURS} {figure:.2f}; {described(farthest)}",
    }


def encoders(
    shape: TowerShape, state: Mapping[str, torch.Tensor], pixels: torch.Tensor
) -> Iterator[tuple[str, Callable[[], torch.Tensor]]]:
    """Every side by name, given the same pixels; `state` is named as in open_clip."""
    yield OURS, partial(VisionTower.from_state(state, shape, device=pixels.device, dtype=torch.float32), pixels)
    images = ((pixels / 255 - torch.tensor(shape.mean)) / torch.tensor(shape.std)).permute(0, 3, 1, 2).contiguous()
    visual = open_clip_tower(shape)
    visual.load_state_dict(state, strict=True, assign=True)
    yield "open_clip", partial(visual.eval(), images)
    model = loaded(CLIPVisionModelWithProjection, CLIPVisionConfig(**vision_config(shape)), state)
    yield THEIRS, lambda: model(pixel_values=images).image_embeds
