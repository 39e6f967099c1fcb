"""A linear layer and its SiLU: as two operations they write and read all numbers between them once more."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F

from gpupeak.errors import DeviceError
from gpupeak.kernels.compile import expect, first_line, writable_cache

LinearSilu: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Tile(NamedTuple):
    """What a block computes at once, `rows` x `columns`, over `depth` numbers a step; the rest is Triton's.

    `overlapped`: as many blocks as multiprocessors, which load the next tile while they store one.
    """

    rows: int
    columns: int
    depth: int
    num_warps: int
    num_stages: int
    overlapped: bool


TILES = (
    Tile(128, 256, 64, 8, 3, overlapped=True),
    Tile(128, 256, 64, 8, 3, overlapped=False),
    Tile(128, 128, 64, 4, 3, overlapped=False),
    # Below 100 KiB of shared memory: all that some chips have; on others one block stores while a second multiplies.
    Tile(128, 128, 32, 4, 4, overlapped=False),
)
_TIMED_ROWS = 64 * 257  # of 64 pictures of ViT-L/14: enough to fill every chip some times over


def linear_silu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The reference: `silu(x @ weight.T + bias)` of `[..., width]`, `[outputs, width]` and `[outputs]`."""
    return F.silu(F.linear(x, weight, bias), inplace=True)


def triton_linear_silu(device: torch.device, width: int, outputs: int) -> LinearSilu:
    """`linear_silu` as one kernel for fp16, in the tile that is the fastest on this chip, rounded once.

    Widths are multiples of 64, outputs of 256. Raises DeviceError.
    """
    if width % 64 or outputs % 256:
        raise ValueError(f"{width} numbers to {outputs}: expected multiples of 64 and 256")
    try:
        writable_cache("TRITON_CACHE_DIR", "~/.triton/cache")
        from gpupeak.kernels.linear_silu_triton import launch

        of_chip = torch.cuda.get_device_properties(device)
        on_chip = partial(launch, tma=of_chip.major >= 9, multiprocessors=of_chip.multi_processor_count)
        tile = fastest(on_chip, device, width, outputs)
    except Exception as error:  # Triton's, the C compiler's, the driver's: they have no base of their own
        raise DeviceError(f"linear_silu cannot be compiled: {first_line(error)}") from error

    def checked(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        for tensor, shape in ((x, (*x.shape[:-1], width)), (weight, (outputs, width)), (bias, (outputs,))):
            expect(tensor, torch.float16, shape, x.device)
        return on_chip(x, weight, bias, tile)

    return checked


def fastest(launch: Callable[..., object], device: torch.device, width: int, outputs: int) -> Tile:
    """The tile of the least time here; one that the chip has no room for is passed over."""
    shapes = ((_TIMED_ROWS, width), (outputs, width), (outputs,))
    x, weight, bias = (torch.randn(shape, dtype=torch.float16, device=device) for shape in shapes)
    milliseconds = {tile: _milliseconds(partial(launch, x, weight, bias, tile)) for tile in TILES}
    tile = min(TILES, key=lambda tile: milliseconds[tile])
    launch(x, weight, bias, tile)  # raises why, if none could be launched
    return tile


def _milliseconds(work: Callable[[], object]) -> float:
    """The least of several runs; infinity if it cannot be launched."""
    from triton.testing import do_bench

    try:
        return float(do_bench(work, return_mode="min"))
    except Exception:  # OutOfResources is of no public module
        return math.inf
