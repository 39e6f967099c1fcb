"""Is NVDEC there, and which videos may it be given?"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from gpupeak.types import Sample, VideoFacts
from gpupeak.video.container import Clip

MAX_BYTES = 1 << 28  # DALI wants a whole file in memory; libav reads the packets it needs


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
# DALI seeks by timestamps in memory, which MPEG-TS and program streams have no index for.
_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")


def examine(clip: Clip) -> tuple[VideoFacts, str | None]:
    """What DALI's caller has to know of a video, and why NVDEC must not be given it; None if it may."""
    size, bt709 = clip.path.stat().st_size, clip.colorspace == 1
    facts = VideoFacts(clip.width, clip.height, bt709, clip.rotation, clip.pix_fmt, clip.profile, bytes=size)
    return facts, next((reason for reason, holds in _obstacles(clip, size) if holds), None)


def _obstacles(clip: Clip, size: int) -> Iterator[tuple[str, bool]]:
    """What may speak against NVDEC, and whether it does; each is asked only if none before does."""
    codec, suffix, width, height = clip.codec, clip.path.suffix.lower(), clip.width, clip.height
    yield f"codec {codec}", codec not in _TAKEN
    formats, smallest, largest = _TAKEN[codec]
    yield f"{codec} in {clip.pix_fmt}", clip.pix_fmt not in formats
    yield f"{codec} in {suffix}", suffix not in _SUFFIXES
    # DALI reads the range from the bitstream only, libav from the container, too.
    colours = f"colours of matrix {clip.colorspace}, range {clip.color_range}"
    yield colours, clip.colorspace not in _MATRICES or clip.color_range == _FULL_RANGE
    # DALI's colour kernel works on 2x2 pixels and writes past the last odd one.
    yield "odd width or height", width % 2 + height % 2 > 0
    fits = smallest[0] <= width <= largest and smallest[1] <= height <= largest
    yield f"{codec} of {width}x{height}", not fits
    yield f"larger than {MAX_BYTES >> 20} MiB", size > MAX_BYTES
    yield "timestamps do not tell the frames", not clip.timed
    # A picture that is decoded and not shown, or shown and not decoded, would shift the timestamps of all after it.
    unshown = clip.frames != clip.packets or clip.pts(0) < 0 or clip.key_frames[:1] != [0]
    yield "packets that are no frames", unshown
    # AVI has no timestamps of presentation; there are no B pictures in the Simple Profile (ISO/IEC 14496-2, annex N).
    yield f"{codec} {clip.profile} in .avi", suffix == ".avi" and clip.profile != "Simple Profile"
    yield "open GOPs of hevc", codec == "hevc" and _has_leading_pictures(clip)


def _has_leading_pictures(clip: Clip) -> bool:
    """DALI takes the picture after a key frame for one that leads it. No picture leads H.264's IDR pictures."""
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
