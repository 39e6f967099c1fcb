"""The vision transformer of CLIP, DINOv2 and SigLIP, for inference only: what open_clip and transformers compute, to
rounding, with less work.

QuickGELU, x * sigmoid(1.702 x), is SiLU(1.702 x) / 1.702: both factors go into the weights around it, as LayerScale
goes into those before it, and the patches' bias into the positions. Where the class token alone is read, the last block
is computed for it only.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from gpupeak.encode.kernels import Kernels
from gpupeak.encode.weights.fit import parameters
from gpupeak.encoders import TowerShape

_QUICK_GELU = 1.702
_UNIT = 1 << 22  # of which PIL's weights are whole multiples
_RENAMED = (  # open_clip's names, and this tower's
    ("transformer.resblocks", "blocks"),
    ("attn.in_proj_", "qkv."),
    ("attn.out_proj", "out"),
    ("mlp.c_fc", "fc1"),
    ("mlp.c_proj", "fc2"),
)


def expected_state(shape: TowerShape) -> dict[str, torch.Tensor]:
    """The `parameters` of a tower, without values (meta tensors)."""
    return {name: torch.empty(sizes, device="meta") for name, sizes in parameters(shape).items()}


class VisionTower(nn.Module):
    """uint8 RGB `[N, S, S, 3]` -> float32 `[N, dim]`, as `shape.family` pools it, not normalised."""

    scale_shift: torch.Tensor

    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self.shape = shape
        width, family = shape.width, shape.family
        pools = family.pooling == "class"
        # A multiple of 8 numbers keeps rows 16-byte aligned in half precision: 588 -> 592 for patches of 14.
        self.row = -(-3 * shape.patch**2 // 8) * 8
        self.embed = nn.Linear(self.row, width, bias=False)
        self.class_row = nn.Parameter(torch.empty(width)) if family.class_token else None
        self.positions = nn.Parameter(torch.empty(shape.grid**2, width))
        self.ln_pre = nn.LayerNorm(width, family.eps) if family.pre_norm else nn.Identity()
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.ln_post = nn.LayerNorm(width, family.eps) if pools else nn.Identity()
        self.project = nn.Linear(width, shape.dim, bias=False) if pools else nn.Identity()
        self.kernels = Kernels()
        self.register_buffer("scale_shift", torch.empty(2, 3))

    @classmethod
    def from_state(
        cls,
        state: Mapping[str, torch.Tensor],
        shape: TowerShape,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> VisionTower:
        """Build the tower from float32 parameters as in `expected_state`, whose memory it may share."""
        with torch.device("meta"):
            tower = cls(shape)
        values = {name: value.to(device, dtype) for name, value in _folded(state, tower).items()}
        std = torch.tensor(shape.std)
        values["scale_shift"] = torch.stack([1 / (255 * std), -torch.tensor(shape.mean) / std]).to(device)
        tower.load_state_dict(values, strict=True, assign=True)
        return tower.requires_grad_(False).eval()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.encode_rows(self.patch_rows(pixels))

    def patch_rows(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 `[N, S, S, 3]` -> the normalised pixels of each patch, `[N * grid * grid, row]`."""
        rows = self.embed.weight.new_empty(len(pixels) * self.shape.grid**2, self.row)
        images = torch.arange(len(pixels), dtype=torch.int32, device=pixels.device)
        self.write_rows(pixels.contiguous(), images, rows)
        return rows

    def write_rows(self, pixels: torch.Tensor, images: torch.Tensor, rows: torch.Tensor) -> None:
        """Write the patch rows of those of `pixels` whose numbers are in `images`, int32 `[N]`."""
        if {pixels.shape[1], self.shape.resize} != {self.shape.covered}:
            pixels = self.resized(pixels[images.long()])
            images = torch.arange(len(pixels), dtype=torch.int32, device=pixels.device)
        self.kernels.patch_rows(pixels, images, self.scale_shift, rows)

    def resized(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 `[N, S, S, 3]` -> uint8 `[N, covered, covered, 3]`: the bytes that the processor makes with PIL."""
        weights = _resampling(self.shape, pixels.shape[1], pixels.device)
        resized = []
        for some in torch.split(pixels, 32):  # 113 MB of 384 x 384 pixels
            lines = _bytes(some.permute(0, 3, 1, 2).double() @ weights.T)
            resized.append(_bytes(weights @ lines).permute(0, 2, 3, 1).to(torch.uint8).contiguous())
        return torch.cat(resized)

    def encode_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """`[N * grid * grid, row]` as from `patch_rows` -> float32 `[N, dim]`."""
        grid, width, pooling = self.shape.grid, self.shape.width, self.shape.family.pooling
        tokens = self.embed(rows).view(-1, grid * grid, width) + self.positions
        if self.class_row is not None:
            # Concatenated, as torch.compile takes no view for an output.
            tokens = torch.cat([self.class_row.expand(len(tokens), 1, width), tokens], 1)
        tokens = self.ln_pre(tokens)
        blocks = cast("list[Block]", list(self.blocks))
        normed = blocks[0].ln_1(tokens)
        for block, following in itertools.pairwise(blocks):
            tokens, normed = self._added(tokens, block.attention(normed), block.ln_2)
            tokens, normed = self._added(tokens, block.hidden(normed, self.kernels), following.ln_1)
        last, wanted = blocks[-1], 1 if pooling == "class" else None
        tokens, normed = self._added(tokens[:, :wanted].contiguous(), last.attention(normed, wanted), last.ln_2)
        tokens = tokens + last.hidden(normed, self.kernels)
        if pooling == "class":
            tokens = self.project(self.ln_post(tokens))
        # A sum of many tokens is beyond half precision.
        features: torch.Tensor = tokens.float().sum(1) if pooling == "sum" else tokens.float().mean(1)
        return features

    def _added(
        self, tokens: torch.Tensor, delta: torch.Tensor, norm: nn.LayerNorm
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.kernels.add_layer_norm(tokens, delta, norm.weight, norm.bias, norm.eps)


class Block(nn.Module):
    """One layer of the transformer, without its residual sums."""

    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        width, eps = shape.width, shape.family.eps
        self.heads, self.head_width = shape.heads, width // shape.heads
        self.activation = shape.family.activation
        self.ln_1 = nn.LayerNorm(width, eps)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.ln_2 = nn.LayerNorm(width, eps)
        self.fc1 = nn.Linear(width, shape.hidden)
        self.fc2 = nn.Linear(shape.hidden, width)

    def attention(self, normed: torch.Tensor, wanted: int | None = None) -> torch.Tensor:
        """`[N, T, width]` -> what attention adds to the first `wanted` tokens, or to all of them."""
        width = normed.shape[2]
        if wanted is None:
            query, key, value = self._heads(self.qkv(normed))
        else:
            (query,) = self._heads(F.linear(normed[:, :wanted], self.qkv.weight[:width], self.qkv.bias[:width]))
            key, value = self._heads(F.linear(normed, self.qkv.weight[width:], self.qkv.bias[width:]))
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        added: torch.Tensor = self.out(attended)
        return added

    def hidden(self, normed: torch.Tensor, kernels: Kernels) -> torch.Tensor:
        if self.activation == "quick_gelu":
            wide = kernels.linear_silu(normed, self.fc1.weight, self.fc1.bias)
        else:
            wide = F.gelu(self.fc1(normed), approximate="none" if self.activation == "gelu" else "tanh")
        added: torch.Tensor = self.fc2(wide)
        return added

    def _heads(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """`[N, T, k * width]` -> k times `[N, heads, T, width / heads]`, without copying."""
        n, count, _ = x.shape
        return x.view(n, count, -1, self.heads, self.head_width).permute(2, 0, 3, 1, 4).unbind()


def _folded(state: Mapping[str, torch.Tensor], tower: VisionTower) -> dict[str, torch.Tensor]:
    rest, shape = dict(state), tower.shape
    patches, positions = rest.pop("conv1.weight"), rest.pop("positional_embedding")
    patches = patches.permute(0, 2, 3, 1).flatten(1)  # to row, column, channel
    folded = {"embed.weight": F.pad(patches, (0, tower.row - patches.shape[1]))}
    if shape.family.class_token:
        folded["class_row"] = rest.pop("class_embedding") + positions[0]
        positions = positions[1:]
    folded["positions"] = _interpolated(positions, shape.grid) + rest.pop("conv1.bias", 0)
    if "proj" in rest:
        folded["project.weight"] = rest.pop("proj").T.contiguous()
    gains = {name.removesuffix(".gamma"): rest.pop(name) for name in list(rest) if name.endswith(".gamma")}
    for theirs, value in rest.items():
        name, part = theirs, theirs.rpartition(".")[0]
        for old, new in _RENAMED:
            name = name.replace(old, new)
        gain = gains.get(part.replace("attn.out_proj", "ls_1").replace("mlp.c_proj", "ls_2"))
        if gain is not None:
            value = value * gain.view(-1, *(1,) * (value.ndim - 1))
        if shape.family.activation == "quick_gelu":
            if ".fc1." in name:
                value = value * _QUICK_GELU
            elif name.endswith(".fc2.weight"):
                value = value / _QUICK_GELU
        folded[name] = value
    return folded


def _interpolated(positions: torch.Tensor, grid: int) -> torch.Tensor:
    """`[g * g, width]` -> `[grid * grid, width]`, as DINOv2 does it."""
    side = math.isqrt(len(positions))
    if side == grid:
        return positions.contiguous()
    squares = positions.T.reshape(1, -1, side, side)
    return F.interpolate(squares, (grid, grid), mode="bicubic").flatten(2)[0].T.contiguous()


@functools.cache
def _resampling(shape: TowerShape, size: int, device: torch.device) -> torch.Tensor:
    """What each of `size` pixels gives to each of those that the patches cover, in PIL's units, `[covered, size]`."""
    scale = size / shape.resize
    first = (shape.resize - shape.size) // 2
    centres = (torch.arange(first, first + shape.covered, dtype=torch.float64, device=device) + 0.5) * scale
    pixels = torch.arange(size, dtype=torch.float64, device=device) + 0.5
    x = (pixels - centres[:, None]).abs() / max(scale, 1)
    if shape.resample == "bilinear":
        weights = (1 - x).clamp(min=0)
    else:  # Keys' cubic with a = -0.5
        near, far = (1.5 * x - 2.5) * x * x + 1, -0.5 * (((x - 5) * x + 8) * x - 4)
        weights = torch.where(x < 1, near, far * (x < 2))
    return (weights / weights.sum(1, keepdim=True) * _UNIT).round()


def _bytes(sums: torch.Tensor) -> torch.Tensor:
    """Halves go up. Sums of products of whole numbers below 2 ** 53 are exact, in whatever order."""
    return (sums / _UNIT + 0.5).floor().clamp(0, 255)
