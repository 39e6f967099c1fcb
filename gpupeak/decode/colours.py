"""How are DALI's colours made those of libav's swscale?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import numpy.typing as npt
import torch

from gpupeak.types import VideoFacts

# The weights of R, G and B in luma. Cb and Cr are B - luma and R - luma, scaled so that the largest is 1/2.
_BT601, _BT709 = (0.299, 0.587, 0.114), (0.2126, 0.7152, 0.0722)
# By how much swscale's SIMD code rounds down, on average, by matrix, of limited and of full range: flat pictures of
# every colour, FFmpeg 8, x86.
_ROUNDED_DOWN = {
    _BT601: ((1.8, 1.1, 1.5), (0.0, -0.6, -0.3)),
    _BT709: ((2.3, 1.8, 2.1), (-0.1, 0.9, 0.0)),
}
# All channels alike, there is no colour to round: 1.77, nearest in whole numbers with 1.9; of full range it is exact.
_GREY_ROUNDED_DOWN = (1.9, 0.0)
# How much more R, G and B, of 255, DALI's decoder on the GPU makes of every colour, of limited and of full range: it
# takes 0.0625 or 0 from Y/255 and 0.5 from C/255 (its code for sm_90, DALI 2.4), not 16/255 and 128/255.
BIAS_ON_GPU = ((0.8707873655, -0.5295909960, 1.0813900440), (0.7010000000, -0.5291362862, 0.8860000000))
_GREY = 0.9  # from its luma: rounding takes a channel of a grey no farther, one step of Cb or Cr takes one 1.6
_AT_ONCE = 8  # samples: correcting them takes 14 times their memory


def as_swscale(pixels: torch.Tensor, videos: Sequence[VideoFacts], *, by_gpu: bool) -> None:
    """Bring what DALI made of some videos close to what libav's swscale would have made of them, in place.

    DALI takes every video for BT.601, so those of BT.709 are converted once more. swscale squashes Cb and Cr to half
    the width when it makes RGB, and rounds down. `pixels` are uint8 RGB `[videos * n, size, size, 3]`, `size` even, on
    any device; `by_gpu` says which of DALI's decoders made them.
    """
    n = len(pixels) // len(videos)
    start = 0
    for (bt709, full), same in groupby((video.bt709, video.full_range) for video in videos):
        bias = BIAS_ON_GPU[int(full)] if by_gpu else (0.0, 0.0, 0.0)
        weights = _BT709 if bt709 else _BT601
        rounded_down, grey_rounded_down = _ROUNDED_DOWN[weights][int(full)], _GREY_ROUNDED_DOWN[int(full)]
        stop = start + n * len(list(same))
        for frames in torch.split(pixels[start:stop], n * _AT_ONCE):
            rgb = _less(frames.float(), bias)
            if bt709:
                rgb = _mixed(rgb, np.linalg.inv(_to_ycbcr(_BT709)) @ _to_ycbcr(_BT601))
            pairs = rgb.view(*rgb.shape[:2], -1, 2, 3)
            luma = _mixed(pairs, np.array([weights]))
            colour = (pairs - luma).mean(3, keepdim=True)
            grey = colour.abs().amax(-1, keepdim=True) < _GREY
            rgb = torch.where(grey, luma - grey_rounded_down, _less(luma + colour, rounded_down))
            frames.copy_(rgb.view(frames.shape).round_().clamp_(0, 255))
        start = stop


def _less(rgb: torch.Tensor, amounts: Sequence[float]) -> torch.Tensor:
    """Each channel by a number: a tensor of them would be copied to the device, and that waits for the decoder."""
    return torch.stack([channel - amount for channel, amount in zip(rgb.unbind(-1), amounts, strict=True)], -1)


def _mixed(rgb: torch.Tensor, matrix: npt.NDArray[np.float64]) -> torch.Tensor:
    """`rgb @ matrix.T`; not as a matrix product, which the encoder may have allowed to be one of TF32."""
    red, green, blue = rgb.unbind(-1)
    return torch.stack([float(r) * red + float(g) * green + float(b) * blue for r, g, b in matrix], -1)


def _to_ycbcr(weights: tuple[float, float, float]) -> npt.NDArray[np.float64]:
    (red, _, blue), luma = weights, np.array(weights)
    cb = (np.array([0, 0, 1]) - luma) / (2 * (1 - blue))
    cr = (np.array([1, 0, 0]) - luma) / (2 * (1 - red))
    return np.stack([luma, cb, cr])
