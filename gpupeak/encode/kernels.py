"""What a tower computes with beside torch: by name a kernel of the GPU, or the reference of the same signature."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields

import torch

from gpupeak.encoders import TowerShape
from gpupeak.errors import DeviceError
from gpupeak.kernels.add_layer_norm import AddLayerNorm, add_layer_norm, cuda_add_layer_norm
from gpupeak.kernels.linear_silu import LinearSilu, linear_silu, triton_linear_silu
from gpupeak.kernels.patch_rows import PatchRows, cuda_patch_rows, patch_rows


@dataclass(frozen=True, slots=True)
class Kernels:
    """The references, which run anywhere, or what takes their place."""

    patch_rows: PatchRows = patch_rows
    add_layer_norm: AddLayerNorm = add_layer_norm
    linear_silu: LinearSilu = linear_silu


KERNELS = tuple(field.name for field in fields(Kernels))
FASTEST = ("patch_rows",)
"""What the GPU line takes. The others wait for a record in which all combinations are compared."""


def compile_kernels(
    names: Iterable[str], device: torch.device, shape: TowerShape, tell: Callable[[str], None]
) -> Kernels:
    """The kernels of these names for a GPU, ready to be captured; `tell` hears of each that cannot be had, and why."""
    width, hidden = shape.width, shape.hidden
    makers: dict[str, Callable[[], object]] = {
        "patch_rows": lambda: cuda_patch_rows(device, shape.covered, shape.patch),
        "add_layer_norm": lambda: cuda_add_layer_norm(device, width),
        "linear_silu": lambda: triton_linear_silu(device, width, hidden),
    }

    def made(name: str) -> object:
        try:
            return makers[name]()
        except (DeviceError, ValueError) as error:  # the second: a width that it is not made for
            tell(f"without the kernel {name}, which is slower: {error}")
            return getattr(Kernels(), name)

    return Kernels(**{name: made(name) for name in names})  # type: ignore[arg-type]
