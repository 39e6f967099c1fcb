"""Run by test_linear_silu.py under TRITON_INTERPRET=1: the kernel on the CPU beside its reference, in small tiles."""

from __future__ import annotations

import torch

from gpupeak.kernels.linear_silu import Tile, linear_silu
from gpupeak.kernels.linear_silu_triton import launch

# A tower's tokens, one picture's and the class token's alone; more tiles than multiprocessors, and fewer.
SHAPES = (((257, 256), 256), ((2, 17, 64), 256), ((3, 1, 128), 256))


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    for (*images, width), outputs in SHAPES:
        x = torch.randn(*images, width, generator=generator).half()
        weight = (torch.randn(outputs, width, generator=generator) / width**0.5).half()
        bias = torch.randn(outputs, generator=generator).half()
        exact = torch.nn.functional.silu(x.double() @ weight.double().T + bias.double())
        for tma in (True, False):
            for overlapped in (True, False):
                tile = Tile(64, 128, 64, 4, 3, overlapped)
                found = launch(x, weight, bias, tile, tma=tma, multiprocessors=5)
                assert found.shape == (*images, outputs) and found.dtype == torch.float16
                # Rounded to fp16 once, where the reference is twice.
                torch.testing.assert_close(found.double(), exact, rtol=2**-10, atol=2**-12)
                torch.testing.assert_close(found, linear_silu(x, weight, bias), rtol=2**-8, atol=2**-9)
                print(f"{images} {width} {outputs} {tma} {overlapped}")


if __name__ == "__main__":
    main()
