"""Is NVDEC there, and which videos may it be given?"""

from __future__ import annotations

import ctypes
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from gpupeak.types import Sample, VideoFacts
from gpupeak.video.container import Clip

MAX_BYTES = 1 << 28
"""DALI wants a whole file in memory; libav, which larger files are left to, reads the packets it needs."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A sample that is left to libav. `reason` is one of a few, for counting; `detail` is what DALI said, or ""."""

    sample: Sample
    reason: str
    detail: str = ""


class _Limits(NamedTuple):
    formats: Collection[str]
    smallest: tuple[int, int]
    largest: tuple[int, int]


# What both DALI 2.4's `decoders.video` and NVDEC from Turing to Hopper (NVDEC Application Note of Video Codec SDK 13.0;
# sizes by cuvidGetDecoderCaps) take, without MJPEG, of which each picture is cheap on the CPU. AV1 not everywhere;
# 10-bit H.264 from Blackwell on.
_TAKEN = {
    "h264": _Limits(("yuv420p",), (48, 16), (4096, 4096)),
    "hevc": _Limits(("yuv420p", "yuv420p10le"), (144, 144), (8192, 8192)),
    "vp8": _Limits(("yuv420p",), (48, 16), (4096, 4096)),
    "vp9": _Limits(("yuv420p",), (128, 128), (8192, 8192)),
    "mpeg4": _Limits(("yuv420p",), (48, 16), (2032, 2032)),
}
# DALI converts with BT.601, which BT.709 is made from afterwards (ITU-T H.273: 1 is BT.709, 2 unspecified).
_MATRICES = (1, 2, 5, 6)
_FULL_RANGE = 2
# DALI seeks by timestamps in memory, which MPEG-TS and program streams have no index for.
_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")


def examine(clip: Clip) -> tuple[VideoFacts, str | None]:
    """What DALI's caller has to know of a video, and why NVDEC must not be given it; None if it may.

    DALI tells frames by their packets' timestamps. Where those do not number the frames as `clip` does, it gives
    other frames, and black ones past the last, without an error.
    """
    size = clip.path.stat().st_size
    video = VideoFacts(
        clip.width, clip.height, clip.colorspace == 1, clip.rotation, clip.pix_fmt, clip.profile, bytes=size
    )
    return video, _unfit(clip, size)


def _unfit(clip: Clip, size: int) -> str | None:
    limits, width, height = _TAKEN.get(clip.codec), clip.width, clip.height
    if limits is None:
        return f"codec {clip.codec}"
    if clip.pix_fmt not in limits.formats:
        return f"{clip.codec} in {clip.pix_fmt}"
    if clip.path.suffix.lower() not in _SUFFIXES:
        return f"{clip.codec} in {clip.path.suffix.lower()}"
    # DALI reads the range from the bitstream only, libav from the container, too.
    if clip.colorspace not in _MATRICES or clip.color_range == _FULL_RANGE:
        return f"colours of matrix {clip.colorspace}, range {clip.color_range}"
    # DALI's colour kernel works on 2x2 pixels and writes past the last odd one.
    if width % 2 or height % 2:
        return "odd width or height"
    if not (limits.smallest[0] <= width <= limits.largest[0] and limits.smallest[1] <= height <= limits.largest[1]):
        return f"{clip.codec} of {width}x{height}"
    if size > MAX_BYTES:
        return f"larger than {MAX_BYTES >> 20} MiB"
    if not clip.timed:
        return "timestamps do not tell the frames"
    # A picture that is decoded and not shown, or shown and not decoded, would shift the timestamps of all after it.
    if clip.frames != clip.packets or clip.pts(0) < 0 or clip.key_frames[:1] != [0]:
        return "packets that are no frames"
    # AVI has no timestamps of presentation; there are no B pictures in the Simple Profile (ISO/IEC 14496-2, annex N).
    if clip.path.suffix.lower() == ".avi" and clip.profile != "Simple Profile":
        return f"{clip.codec} {clip.profile} in .avi"
    if clip.codec == "hevc" and _has_leading_pictures(clip):
        return "open GOPs of hevc"
    return None


def _has_leading_pictures(clip: Clip) -> bool:
    """Whether a decoder that starts at a key frame leaves out pictures that follow it.

    DALI would start there and take the next picture's timestamp for theirs. Of H.264 it starts at IDR pictures
    only, which no picture leads.
    """
    return any(clip.needed([key - 1])[-1] > clip.needed([key])[-1] for key in clip.key_frames if key)


def nvdec_missing() -> str | None:
    """Why this machine cannot decode on NVDEC, as one line; None if nothing speaks against it."""
    try:
        import nvidia.dali  # noqa: F401 - takes half a second, so not before someone asks
    except (ImportError, OSError, RuntimeError) as error:
        reason = f"{error}".partition("\n")[0] or type(error).__name__
        return f"DALI cannot be imported ({reason}): pip install 'gpupeak[gpu]'"
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no NVIDIA driver: libcuda.so.1 does not load"
    count = ctypes.c_int(0)
    code = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if code or not count.value:
        return f"the NVIDIA driver finds no usable GPU (CUDA error {code})"
    try:
        ctypes.CDLL("libnvcuvid.so.1")
    except OSError:
        return (
            "libnvcuvid.so.1 does not load: a container needs the driver's video capability, "
            "NVIDIA_DRIVER_CAPABILITIES=compute,video,utility"
        )
    return None
