"""How do pictures become the rows that a vision tower's patch product takes?

One row a patch, patches in reading order; in a row the 3 * patch * patch numbers of the patch in the order
line, column, channel, each `value * scale + shift` of its channel, then zeros up to the row's width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import torch

from gpupeak.kernels.compile import Kernel, load

PatchRows: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], None]
"""`patch_rows`, or the kernel that does the same."""

_THREADS = 256


def patch_rows(pixels: torch.Tensor, images: torch.Tensor, scale_shift: torch.Tensor, out: torch.Tensor) -> None:
    """The reference, on any device.

    Args:
        pixels: uint8 RGB `[R, size, size, 3]`.
        images: int32 `[N]`, N >= 1: which rows of `pixels` to take.
        scale_shift: float32 `[2, 3]`: what each channel is multiplied by, and what is then added.
        out: `[N * grid * grid, row]`, all of it written; row is 3 * patch * patch or more. Any float dtype:
            numbers are rounded to it once, from float32.
    """
    grid, patch = _geometry(pixels, images, scale_shift, out)
    numbers = pixels[images.long()] * scale_shift[0] + scale_shift[1]
    lines = numbers.view(-1, grid, patch, grid, 3 * patch).transpose(2, 3)
    out[:, : 3 * patch**2] = lines.reshape(len(out), -1)
    out[:, 3 * patch**2 :] = 0


def cuda_patch_rows(device: torch.device, size: int, patch: int) -> PatchRows:
    """`patch_rows` as one kernel, for fp16 rows of the least multiple of 8 numbers; the same numbers to the bit.

    It reads every pixel and writes every row once, in stores of 16 bytes: for 256 images of 224 pixels
    38.5 MB and 77.6 MB. The reference passes over them several times more, in float32.

    Raises:
        DeviceError: see `compile.load`.
    """
    return partial(_launch, load("patch_rows", device, SIZE=size, PATCH=patch), size, patch)


def _launch(
    kernel: Kernel,
    size: int,
    patch: int,
    pixels: torch.Tensor,
    images: torch.Tensor,
    scale_shift: torch.Tensor,
    out: torch.Tensor,
) -> None:
    row = -(-3 * patch**2 // 8) * 8
    if _geometry(pixels, images, scale_shift, out) != (size // patch, patch) or out.shape[1] != row:
        raise ValueError(
            f"pixels are {tuple(pixels.shape)} and out is {tuple(out.shape)}, "
            f"expected {size} pixels a side and rows of {row}"
        )
    if out.dtype != torch.float16 or out.data_ptr() % 16:
        raise ValueError(f"out is {out.dtype} at {out.data_ptr():#x}, expected float16 at a multiple of 16 bytes")
    vectors = (size // patch) ** 2 * row // 8
    kernel((-(-vectors // _THREADS), len(images)), _THREADS, pixels, images, scale_shift, out)


def _geometry(
    pixels: torch.Tensor, images: torch.Tensor, scale_shift: torch.Tensor, out: torch.Tensor
) -> tuple[int, int]:
    """(grid, patch) of arguments that fit together: a kernel believes whatever pointer it is given."""
    for name, tensor, dtype in (
        ("pixels", pixels, torch.uint8),
        ("images", images, torch.int32),
        ("scale_shift", scale_shift, torch.float32),
        ("out", out, out.dtype),
    ):
        if tensor.dtype != dtype or not tensor.is_contiguous() or tensor.device != out.device:
            raise ValueError(
                f"{name} is {tensor.dtype} on {tensor.device}, strides {tensor.stride()}; "
                f"expected dense {dtype} on {out.device}"
            )
    size = pixels.shape[1]
    if pixels.shape[1:] != (size, size, 3) or images.ndim != 1 or scale_shift.shape != (2, 3) or out.ndim != 2:
        shapes = [tuple(t.shape) for t in (pixels, images, scale_shift, out)]
        raise ValueError(f"shapes are {shapes}, expected [R, size, size, 3], [N], [2, 3] and [N * grid * grid, row]")
    grid = math.isqrt(len(out) // max(1, len(images)))
    if grid == 0 or len(out) != len(images) * grid**2 or size % grid or out.shape[1] < 3 * (size // grid) ** 2:
        raise ValueError(f"out is {tuple(out.shape)} for {len(images)} images of {size} pixels a side")
    return grid, size // grid
