"""How are DALI's colours made those of libav's swscale?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import numpy.typing as npt
import torch

# The weights of R, G and B in luma. Cb and Cr are B - luma and R - luma, scaled so that the largest is 1/2.
_BT601, _BT709 = (0.299, 0.587, 0.114), (0.2126, 0.7152, 0.0722)
# By how much swscale's SIMD code rounds down, on average, by matrix: flat pictures of every colour, FFmpeg 8, x86.
_ROUNDED_DOWN = {_BT601: (1.8, 1.2, 1.5), _BT709: (2.3, 1.8, 2.1)}
_AT_ONCE = 8  # samples: correcting them takes 12 times their memory


def as_swscale(pixels: torch.Tensor, bt709: Sequence[bool]) -> None:
    """Bring what DALI made of some videos close to what libav's swscale would have made of them, in place.

    DALI takes every video for BT.601, so those of BT.709 are converted once more. swscale squashes Cb and Cr to half
    the width when it makes RGB, and rounds down. `pixels` are uint8 RGB `[videos * n, size, size, 3]`, `size` even, on
    any device.
    """
    n = len(pixels) // len(bt709)
    start = 0
    for tagged, same in groupby(bt709):
        stop = start + n * len(list(same))
        for frames in torch.split(pixels[start:stop], n * _AT_ONCE):
            rgb = frames.float()
            if tagged:
                rgb = _mixed(rgb, np.linalg.inv(_to_ycbcr(_BT709)) @ _to_ycbcr(_BT601))
            weights = _BT709 if tagged else _BT601
            pairs = rgb.view(*rgb.shape[:2], -1, 2, 3)
            luma = _mixed(pairs, np.array([weights]))
            colour = (pairs - luma).mean(3, keepdim=True)
            # Each by a number: a tensor of them would be copied to the device, and that waits for the decoder.
            channels = zip((luma + colour).unbind(-1), _ROUNDED_DOWN[weights], strict=True)
            rgb = torch.stack([channel - down for channel, down in channels], -1).view(rgb.shape)
            frames.copy_(rgb.round_().clamp_(0, 255))
        start = stop


def _mixed(rgb: torch.Tensor, matrix: npt.NDArray[np.float64]) -> torch.Tensor:
    """`rgb @ matrix.T`; not as a matrix product, which the encoder may have allowed to be one of TF32."""
    red, green, blue = rgb.unbind(-1)
    return torch.stack([float(r) * red + float(g) * green + float(b) * blue for r, g, b in matrix], -1)


def _to_ycbcr(weights: tuple[float, float, float]) -> npt.NDArray[np.float64]:
    (red, _, blue), luma = weights, np.array(weights)
    cb = (np.array([0, 0, 1]) - luma) / (2 * (1 - blue))
    cr = (np.array([1, 0, 0]) - luma) / (2 * (1 - red))
    return np.stack([luma, cb, cr])
