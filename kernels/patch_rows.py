"""How do pictures become the rows that a vision tower's patch product takes?

One row a patch, patches in reading order; in a row the 3 * patch * patch numbers of the patch in the order
line, column, channel, each `value * scale + shift` of its channel, then zeros up to the row's width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch

from gpupeak.kernels.compile import expect, load

PatchRows: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], None]

_THREADS = 256


def patch_rows(pixels: torch.Tensor, images: torch.Tensor, scale_shift: torch.Tensor, out: torch.Tensor) -> None:
    """The reference: rows of those images of `pixels`, uint8 RGB `[R, size, size, 3]`, that are in `images`.

    `images` are int32 `[N]`, N >= 1; `scale_shift` is float32 `[2, 3]`; all of `out`, `[N * grid * grid, row]`, is
    written, row being 3 * patch * patch or more. Numbers are rounded to its dtype once, from float32.
    """
    grid = math.isqrt(len(out) // len(images))
    patch = pixels.shape[1] // grid
    numbers = pixels[images.long()] * scale_shift[0] + scale_shift[1]
    lines = numbers.view(-1, grid, patch, grid, 3 * patch).transpose(2, 3)
    out[:, : 3 * patch**2] = lines.reshape(len(out), -1)
    out[:, 3 * patch**2 :] = 0


def cuda_patch_rows(device: torch.device, size: int, patch: int) -> PatchRows:
    """`patch_rows` as one kernel, for fp16 rows of the least multiple of 8; the same to the bit. Raises DeviceError."""
    kernel = load("patch_rows", device, SIZE=size, PATCH=patch)
    row, patches = -(-3 * patch**2 // 8) * 8, (size // patch) ** 2
    blocks = -(-patches * row // 8 // _THREADS)

    def launch(pixels: torch.Tensor, images: torch.Tensor, scale_shift: torch.Tensor, out: torch.Tensor) -> None:
        expect(pixels, torch.uint8, (len(pixels), size, size, 3), out.device)
        expect(images, torch.int32, (len(images),), out.device)
        expect(scale_shift, torch.float32, (2, 3), out.device)
        expect(out, torch.float16, (len(images) * patches, row), out.device)
        kernel((blocks, len(images)), _THREADS, pixels, images, scale_shift, out)

    return launch
