"""Is NVDEC there, and which videos may it be given?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gpupeak.decode.driver import KINDS, Abilities, abilities
from gpupeak.errors import DeviceError
from gpupeak.types import Sample, VideoFacts
from gpupeak.video.container import FULL_RANGE, Clip
from gpupeak.video.orientation import mirrors
from gpupeak.video.remake import Remade, Unsafe, remake


@dataclass(frozen=True, slots=True)
class Refused:
    """A sample that is left to libav. `reason` is one of a few, for counting; `detail` is what DALI said, or ""."""

    sample: Sample
    reason: str
    detail: str = ""


# DALI converts with BT.601, which BT.709 is made from afterwards (ITU-T H.273: 1 is BT.709, 2 unspecified).
_MATRICES = (1, 2, 5, 6)


def examine(clip: Clip, indices: Sequence[int]) -> tuple[VideoFacts, Remade | str]:
    """What DALI's caller has to know of a video, and what NVDEC is given for frames `indices`, or why nothing.

    Whether the GPU at hand takes the codec and the size is for `driver.lacking` to say.
    """
    pix_fmt = (clip.pix_fmt or "").replace("yuvj", "yuv")  # J: full range
    facts = VideoFacts(clip.colorspace == 1, clip.tagged_full_range, clip.rotation, pix_fmt)
    if all(clip.codec != codec for codec, _ in KINDS):
        return facts, f"codec {clip.codec}"
    if (clip.codec, pix_fmt) not in KINDS:
        return facts, f"{clip.codec} in {clip.pix_fmt}"
    # libav takes the container's word for full range, too, DALI the bitstream's only: what it clips cannot be mended.
    is_full = clip.color_range == FULL_RANGE or clip.pix_fmt != pix_fmt
    if clip.colorspace not in _MATRICES or is_full != clip.tagged_full_range:
        return facts, f"colours of matrix {clip.colorspace}, range {clip.color_range}"
    if mirrors(clip.matrix):
        return facts, "mirrored pictures"
    try:
        made = remake(clip, indices)
    except Unsafe as error:
        return facts, str(error)
    # DALI's colour kernel works on 2x2 pixels and writes past the last odd one.
    return facts, "odd width or height" if made.coded[0] % 2 + made.coded[1] % 2 else made


def nvdec_abilities(gpu: int = 0) -> Abilities | str:
    """What a GPU's NVDEC decodes, or why this machine cannot decode on it, as one line."""
    try:
        import nvidia.dali  # noqa: F401 - takes half a second, so not before someone asks
    except (ImportError, OSError, RuntimeError) as error:
        reason = f"{error}".partition("\n")[0] or type(error).__name__
        from gpupeak.kernels.compile import gpu_extra  # imports torch

        return f"DALI cannot be imported ({reason}): pip install '{gpu_extra()}'"
    try:
        return abilities(gpu)
    except DeviceError as error:
        return str(error)
