"""Is NVDEC there, and which videos may it be given?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gpupeak.decode.driver import abilities
from gpupeak.errors import DeviceError
from gpupeak.types import Sample, VideoFacts
from gpupeak.video.container import Clip
from gpupeak.video.orientation import mirrors
from gpupeak.video.remake import Remade, Unsafe, remake


@dataclass(frozen=True, slots=True)
class Refused:
    """A sample that is left to libav. `reason` is one of a few, for counting; `detail` is what DALI said, or ""."""

    sample: Sample
    reason: str
    detail: str = ""


class _Limits(NamedTuple):
    formats: tuple[str, ...]
    smallest: tuple[int, int]
    largest: int


# What DALI 2.4's `decoders.video` and NVDEC from Turing to Hopper take (NVDEC Application Note of Video Codec SDK 13.0;
# sizes by cuvidGetDecoderCaps), without MJPEG, which is cheap on the CPU.
_TAKEN = {
    "h264": _Limits(("yuv420p",), (48, 16), 4096),
    "hevc": _Limits(("yuv420p", "yuv420p10le"), (144, 144), 8192),
    "vp8": _Limits(("yuv420p",), (48, 16), 4096),
    "vp9": _Limits(("yuv420p",), (128, 128), 8192),
    "mpeg4": _Limits(("yuv420p",), (48, 16), 2032),
}
# DALI converts with BT.601, which BT.709 is made from afterwards (ITU-T H.273: 1 is BT.709, 2 unspecified).
_MATRICES = (1, 2, 5, 6)
_FULL_RANGE = 2


def examine(clip: Clip, indices: Sequence[int]) -> tuple[VideoFacts, Remade | str]:
    """What DALI's caller has to know of a video, and what NVDEC is given for frames `indices`, or why nothing."""
    given = next((reason for reason, holds in _obstacles(clip) if holds), None) or _remade(clip, indices)
    return VideoFacts(clip.colorspace == 1, clip.rotation, clip.pix_fmt), given


def _remade(clip: Clip, indices: Sequence[int]) -> Remade | str:
    try:
        made = remake(clip, indices)
    except Unsafe as error:
        return str(error)
    (width, height), (_, smallest, largest) = made.coded, _TAKEN[clip.codec]
    if width % 2 + height % 2:
        return "odd width or height"  # DALI's colour kernel works on 2x2 pixels and writes past the last odd one
    fits = smallest[0] <= width <= largest and smallest[1] <= height <= largest
    return made if fits else f"{clip.codec} of {width}x{height}"


def _obstacles(clip: Clip) -> Iterator[tuple[str, bool]]:
    """What may speak against NVDEC, and whether it does; each is asked only if none before does."""
    yield f"codec {clip.codec}", clip.codec not in _TAKEN
    yield f"{clip.codec} in {clip.pix_fmt}", clip.pix_fmt not in _TAKEN[clip.codec].formats
    # DALI reads the range from the bitstream only, libav from the container, too.
    colours = f"colours of matrix {clip.colorspace}, range {clip.color_range}"
    yield colours, clip.colorspace not in _MATRICES or clip.color_range == _FULL_RANGE
    yield "mirrored pictures", mirrors(clip.matrix)


def nvdec_missing(gpu: int = 0) -> str | None:
    """Why this machine cannot decode on a GPU's NVDEC, as one line; None if nothing speaks against it."""
    try:
        import nvidia.dali  # noqa: F401 - takes half a second, so not before someone asks
    except (ImportError, OSError, RuntimeError) as error:
        reason = f"{error}".partition("\n")[0] or type(error).__name__
        from gpupeak.kernels.compile import gpu_extra  # imports torch

        return f"DALI cannot be imported ({reason}): pip install '{gpu_extra()}'"
    try:
        abilities(gpu)
    except DeviceError as error:
        return str(error)
    return None
