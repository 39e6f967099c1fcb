"""The kernel of linear_silu.py, in Triton, which comes with torch for CUDA: importing this needs it.

`tl.dot` becomes wgmma on Hopper, tcgen05 on Blackwell. These load and store tiles by TMA, older chips by pointers.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from gpupeak.kernels.linear_silu import Tile

_GROUP = 8  # tiles of rows that share their columns while these are in the L2 cache


def launch(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, tile: Tile, *, tma: bool, multiprocessors: int
) -> torch.Tensor:
    """Put the kernel on torch's current stream: dense fp16 `[..., width]` -> `[..., outputs]`."""
    outputs, width = weight.shape
    out = x.new_empty(*x.shape[:-1], outputs)
    matrices = (x.view(-1, width), weight, out.view(-1, outputs))
    rows = len(matrices[0])
    tiles = triton.cdiv(rows, tile.rows) * (outputs // tile.columns)
    if tma:
        blocks = ((tile.rows, tile.depth), (tile.columns, tile.depth), (tile.rows, tile.columns))
        matrices = tuple(TensorDescriptor.from_tensor(*each) for each in zip(matrices, map(list, blocks), strict=True))
    linear_silu_kernel[(min(tiles, multiprocessors) if tile.overlapped else tiles,)](
        *matrices,
        bias,
        rows,
        **constants(tile, width, outputs, tma),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )
    return out


def constants(tile: Tile, width: int, outputs: int, tma: bool) -> dict[str, int | bool]:
    """What the kernel is compiled for."""
    sizes = {"WIDTH": width, "OUTPUTS": outputs, "ROWS": tile.rows, "COLUMNS": tile.columns, "DEPTH": tile.depth}
    return {**sizes, "GROUP": _GROUP, "TMA": tma, "OVERLAPPED": tile.overlapped}


@triton.jit(do_not_specialize=["rows"])  # type: ignore[untyped-decorator]  # one binary for every batch
def linear_silu_kernel(  # type: ignore[no-untyped-def]
    x,
    weight,
    out,
    bias,
    rows,
    WIDTH: tl.constexpr,
    OUTPUTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
    TMA: tl.constexpr,
    OVERLAPPED: tl.constexpr,
):
    down = tl.cdiv(rows, ROWS)
    across: tl.constexpr = OUTPUTS // COLUMNS
    for tile in tl.range(tl.program_id(0), down * across, tl.num_programs(0), flatten=OVERLAPPED):
        first = tile // (GROUP * across) * GROUP
        height = tl.minimum(down - first, GROUP)
        row = (first + tile % (GROUP * across) % height) * ROWS
        column = tile % (GROUP * across) // height * COLUMNS
        columns = column + tl.arange(0, COLUMNS)
        of_tile = row + tl.arange(0, ROWS)
        # What is beyond the last row is read from the first ones, and not written.
        x_rows = x if TMA else x + (of_tile % rows).to(tl.int64)[:, None] * WIDTH
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        for k in range(0, WIDTH, DEPTH):
            if TMA:
                left = x.load([row, k])
                right = weight.load([column, k])
            else:
                depth = k + tl.arange(0, DEPTH)[None, :]
                left = tl.load(x_rows + depth)
                right = tl.load(weight + columns[:, None] * WIDTH + depth)
            total = tl.dot(left, right.T, total)
        total += tl.load(bias + columns).to(tl.float32)[None, :]
        result = (total * tl.sigmoid(total)).to(tl.float16)
        if TMA:
            out.store([row, column], result)
        else:
            places = out + of_tile.to(tl.int64)[:, None] * OUTPUTS + columns[None, :]
            tl.store(places, result, mask=of_tile[:, None] < rows)
