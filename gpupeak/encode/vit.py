"""The CLIP vision transformer, for inference only: what open_clip's with QuickGELU computes, to rounding, with less
work.

QuickGELU, x * sigmoid(1.702 x), is SiLU(1.702 x) / 1.702: both factors go into the weights around it. The last block is
computed for the class token only, as nothing else of it is read.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from gpupeak.encode.kernels import Kernels
from gpupeak.encoders import TowerShape

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""What OpenAI's CLIP subtracts from RGB in 0 .. 1, and divides by."""

_QUICK_GELU = 1.702
_RENAMED = (  # open_clip's names, and this tower's
    ("transformer.resblocks", "blocks"),
    ("attn.in_proj_", "qkv."),
    ("attn.out_proj", "out"),
    ("mlp.c_fc", "fc1"),
    ("mlp.c_proj", "fc2"),
)


def expected_state(shape: TowerShape) -> dict[str, torch.Tensor]:
    """The parameters of a tower, named and shaped as in open_clip's visual tower; without values (meta tensors)."""
    width = shape.width
    shapes: dict[str, tuple[int, ...]] = {
        "class_embedding": (width,),
        "positional_embedding": (shape.grid**2 + 1, width),
        "conv1.weight": (width, 3, shape.patch, shape.patch),
        "proj": (width, shape.dim),
    }
    norms = ["ln_pre", "ln_post"]
    for layer in range(shape.layers):
        block = f"transformer.resblocks.{layer}"
        norms += [f"{block}.ln_1", f"{block}.ln_2"]
        for name, outputs, inputs in (
            ("attn.in_proj_", 3 * width, width),
            ("attn.out_proj.", width, width),
            ("mlp.c_fc.", 4 * width, width),
            ("mlp.c_proj.", width, 4 * width),
        ):
            shapes |= {f"{block}.{name}weight": (outputs, inputs), f"{block}.{name}bias": (outputs,)}
    for norm in norms:
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    return {name: torch.empty(sizes, device="meta") for name, sizes in shapes.items()}


class VisionTower(nn.Module):
    """uint8 RGB `[N, size, size, 3]` -> float32 `[N, dim]`, the projected image embedding, not normalised."""

    scale_shift: torch.Tensor

    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self.shape = shape
        # A multiple of 8 numbers keeps rows 16-byte aligned in half precision: 588 -> 592 for patches of 14.
        self.row = -(-3 * shape.patch**2 // 8) * 8
        self.embed = nn.Linear(self.row, shape.width, bias=False)
        self.class_row = nn.Parameter(torch.empty(shape.width))
        self.positions = nn.Parameter(torch.empty(shape.grid**2, shape.width))
        self.ln_pre = nn.LayerNorm(shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.ln_post = nn.LayerNorm(shape.width)
        self.project = nn.Linear(shape.width, shape.dim, bias=False)
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
        parameters = {name: value.to(device, dtype) for name, value in _folded(state, tower.row).items()}
        std = torch.tensor(STD)
        parameters["scale_shift"] = torch.stack([1 / (255 * std), -torch.tensor(MEAN) / std]).to(device)
        tower.load_state_dict(parameters, strict=True, assign=True)
        return tower.requires_grad_(False).eval()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.encode_rows(self.patch_rows(pixels))

    def patch_rows(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 `[N, size, size, 3]` -> the normalised pixels of each patch, `[N * grid * grid, row]`."""
        rows = self.embed.weight.new_empty(len(pixels) * self.shape.grid**2, self.row)
        images = torch.arange(len(pixels), dtype=torch.int32, device=pixels.device)
        self.kernels.patch_rows(pixels.contiguous(), images, self.scale_shift, rows)
        return rows

    def encode_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """`[N * grid * grid, row]` as from `patch_rows` -> float32 `[N, dim]`."""
        grid, width = self.shape.grid, self.shape.width
        patches = self.embed(rows).view(-1, grid * grid, width)
        # Concatenated, as torch.compile takes no view for an output.
        tokens = torch.cat([self.class_row.expand(len(patches), 1, width), patches + self.positions], 1)
        tokens = self.ln_pre(tokens)
        blocks = cast("list[Block]", list(self.blocks))
        normed = blocks[0].ln_1(tokens)
        for block, following in itertools.pairwise(blocks):
            tokens, normed = self._added(tokens, block.attention(normed), block.ln_2)
            tokens, normed = self._added(tokens, block.hidden(normed, self.kernels), following.ln_1)
        last = blocks[-1]
        tokens, normed = self._added(tokens[:, :1].contiguous(), last.attention(normed, 1), last.ln_2)
        tokens = tokens + last.hidden(normed, self.kernels)
        features: torch.Tensor = self.project(self.ln_post(tokens[:, 0]))
        return features.float()

    def _added(
        self, tokens: torch.Tensor, delta: torch.Tensor, norm: nn.LayerNorm
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.kernels.add_layer_norm(tokens, delta, norm.weight, norm.bias, norm.eps)


class Block(nn.Module):
    """One layer of the transformer, without its residual sums."""

    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        width = shape.width
        self.heads, self.head_width = shape.heads, width // shape.heads
        self.ln_1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.ln_2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

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
        added: torch.Tensor = self.fc2(kernels.linear_silu(normed, self.fc1.weight, self.fc1.bias))
        return added

    def _heads(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """`[N, T, k * width]` -> k times `[N, heads, T, width / heads]`, without copying."""
        n, count, _ = x.shape
        return x.view(n, count, -1, self.heads, self.head_width).permute(2, 0, 3, 1, 4).unbind()


def _folded(state: Mapping[str, torch.Tensor], row: int) -> dict[str, torch.Tensor]:
    rest = dict(state)
    patches, positions = rest.pop("conv1.weight"), rest.pop("positional_embedding")
    patches = patches.permute(0, 2, 3, 1).flatten(1)  # to row, column, channel
    folded = {
        "embed.weight": F.pad(patches, (0, row - patches.shape[1])),
        "class_row": rest.pop("class_embedding") + positions[0],
        "positions": positions[1:].contiguous(),
        "project.weight": rest.pop("proj").T.contiguous(),
    }
    for theirs, value in rest.items():
        name = theirs
        for old, new in _RENAMED:
            name = name.replace(old, new)
        if ".fc1." in name:
            value = value * _QUICK_GELU
        elif name.endswith(".fc2.weight"):
            value = value / _QUICK_GELU
        folded[name] = value
    return folded
