"""linear_silu: compiled for the chips it is meant for, interpreted beside its reference, the fastest tile chosen."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from gpupeak.errors import DeviceError
from gpupeak.kernels import linear_silu as module
from gpupeak.kernels import linear_silu_triton
from gpupeak.kernels.linear_silu import TILES, Tile, linear_silu, triton_linear_silu

PRODUCTS = {80: "mma.sync.aligned.m16n8k16", 90: "wgmma.mma_async", 100: "tcgen05.mma"}
WIDTH, OUTPUTS = 1024, 4096
CUDA = torch.device("cuda", 0)


@pytest.mark.parametrize("capability", PRODUCTS)
@pytest.mark.parametrize("tile", [TILES[0], *(pytest.param(tile, marks=pytest.mark.slow) for tile in TILES[1:])])
def test_compiles_to_the_chips_own_products_and_keeps_everything_in_registers(
    tile: Tile, capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    tma = capability >= 90
    blocks = ((tile.rows, tile.depth), (tile.columns, tile.depth), (tile.rows, tile.columns))
    matrices = [f"tensordesc<fp16[{rows},{columns}]>" if tma else "*fp16" for rows, columns in blocks]
    constants = linear_silu_triton.constants(tile, WIDTH, OUTPUTS, tma)
    signature = dict(zip(("x", "weight", "out", "bias", "rows"), (*matrices, "*fp16", "i32"), strict=True))
    aligned: Any = {(place,): [["tt.divisibility", 16]] for place in ((3,) if tma else range(4))}
    source = ASTSource(
        linear_silu_triton.linear_silu_kernel,
        signature={**signature, **dict.fromkeys(constants, "constexpr")},
        constexprs=constants,
        attrs=aligned,
    )
    options = {"num_warps": tile.num_warps, "num_stages": tile.num_stages}
    compiled = compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    assert PRODUCTS[capability] in compiled.asm["ptx"]
    loads = "cp.async.bulk.tensor" if tma else "cp.async.cg.shared"
    assert loads in compiled.asm["ptx"]
    assert compiled.metadata.shared <= (227 if tma else 163) << 10, "of a multiprocessor's shared memory"
    (file := tmp_path / "linear_silu.cubin").write_bytes(compiled.asm["cubin"])
    (triton,) = find_spec("triton").submodule_search_locations  # type: ignore[union-attr,misc]
    tool = Path(triton, "backends", "nvidia", "bin", "cuobjdump")
    usage = subprocess.run([tool, "-res-usage", file], check=True, capture_output=True, text=True).stdout
    assert re.search(r"linear_silu_kernel:\s+REG:\d+ STACK:0 .*LOCAL:0 ", usage), usage


def test_one_tile_fits_into_chips_with_little_shared_memory() -> None:
    assert any(2 * (tile.rows + tile.columns) * tile.depth * tile.num_stages <= 99 << 10 for tile in TILES)


def test_the_kernel_interpreted_is_its_reference() -> None:
    script = Path(__file__).with_name("interpreted_linear_silu.py")
    one_core = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # products of a tile are too small to share
    environment = {**os.environ, **one_core, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3 * 4


@pytest.mark.parametrize(
    ("milliseconds", "best"),
    [((1.0, 2.0, 3.0, 4.0), 0), ((2.0, 2.0, 1.0, 4.0), 2), ((None, 3.0, None, None), 1), ((None,) * 4, None)],
)
def test_the_fastest_tile_that_the_chip_has_room_for_is_taken(
    milliseconds: tuple[float | None, ...], best: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    took = dict(zip(TILES, milliseconds, strict=True))

    def launch(x: object, weight: object, bias: object, tile: Tile) -> float:
        if took[tile] is None:
            raise RuntimeError("out of resource: shared memory")
        return took[tile]  # type: ignore[return-value]

    monkeypatch.setattr("triton.testing.do_bench", lambda work, return_mode: work())
    if best is None:
        with pytest.raises(RuntimeError, match="shared memory"):
            module.fastest(launch, torch.device("cpu"), 64, 256)
    else:
        assert module.fastest(launch, torch.device("cpu"), 64, 256) == TILES[best]


def test_it_refuses_what_it_would_misread(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(major=9, multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(module, "fastest", lambda *given: TILES[0])
    monkeypatch.setattr(
        linear_silu_triton, "launch", lambda x, weight, bias, tile, **chip: linear_silu(x, weight, bias)
    )
    kernel = triton_linear_silu(CUDA, 64, 256)
    x, weight, bias = torch.zeros(2, 3, 64).half(), torch.zeros(256, 64).half(), torch.zeros(256).half()
    assert kernel(x, weight, bias).shape == (2, 3, 256)
    for wrong in ((x.float(), weight, bias), (x, weight.T, bias), (x, weight, bias[:128]), (x[..., ::2], weight, bias)):
        with pytest.raises(ValueError, match="expected dense"):
            kernel(*wrong)


def test_what_it_cannot_be_made_for_is_told() -> None:
    for width, outputs in ((100, 256), (64, 100)):
        with pytest.raises(ValueError, match="multiples of 64 and 256"):
            triton_linear_silu(CUDA, width, outputs)
    with pytest.raises(DeviceError, match=r"^linear_silu cannot be compiled: "):  # there is no GPU
        triton_linear_silu(CUDA, 64, 256)
