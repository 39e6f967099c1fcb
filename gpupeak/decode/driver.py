"""What does NVIDIA's driver say: which CUDA does it take, is there a GPU, and what can its NVDEC decode?"""

from __future__ import annotations

import contextlib
import ctypes
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

from gpupeak.errors import DeviceError


class Ability(NamedTuple):
    """What NVDEC can do with one codec: coded sizes in pixels, the most blocks of 16x16, engines (0 if unknown)."""

    smallest: tuple[int, int]
    largest: tuple[int, int]
    blocks: int
    engines: int


Abilities: TypeAlias = dict[tuple[str, str], Ability]
"""By codec and pixel format, as libav calls them."""


_CODECS = {"mpeg4": 2, "h264": 4, "hevc": 8, "vp8": 9, "vp9": 10}  # cudaVideoCodec
KINDS = (*((codec, "yuv420p") for codec in _CODECS), ("hevc", "yuv420p10le"))
"""What DALI 2.4's `decoders.video` takes, without MJPEG, which is cheap on the CPU."""
_420 = 1  # cudaVideoChromaFormat
# CUVIDDECODECAPS as in cuviddec.h of Video Codec SDK 13.0: codec, chroma format, depth beyond 8 bits, three reserved;
# then what the driver fills in: supported, engines, output formats, largest sides, most blocks, smallest sides.
_ASKED, _ANSWERED, _CAPS_BYTES = struct.Struct("=6I"), struct.Struct("=BBHIIIHH"), 88


def cuda_version() -> tuple[int, int] | None:
    """The newest CUDA that the driver takes, such as (12, 8); None if there is no driver."""
    version = ctypes.c_int(0)
    try:
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except OSError:
        return None
    return version.value // 1000, version.value % 1000 // 10


def too_old(cuda: str | None) -> tuple[str, str] | None:
    """Why the driver runs no torch built for a CUDA such as "13.0", and what helps; None if it may run it."""
    has = cuda_version()
    if has is None or cuda is None or has[0] >= int(cuda.partition(".")[0]):
        return None
    newer = f"a driver for CUDA {cuda}"
    advice = f"pip install 'gpupeak[gpu-cuda12]', or {newer}" if has[0] == 12 else newer
    return f"the NVIDIA driver takes CUDA up to {has[0]}.{has[1]}, torch is built for CUDA {cuda}", advice


def abilities(gpu: int) -> Abilities:
    """What NVDEC of a GPU decodes. Raises DeviceError if that is nothing, or if it is not there or cannot be used."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise DeviceError("there is no NVIDIA driver: libcuda.so.1 does not load") from None
    count = ctypes.c_int(0)
    code = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
    if code or not count.value:
        raise DeviceError(f"the NVIDIA driver finds no usable GPU (CUDA error {code})")
    try:
        nvdec = ctypes.CDLL("libnvcuvid.so.1")
        with _context(cuda, gpu):
            found = {kind: ability for kind in KINDS if (ability := _ask(nvdec, *kind))}
    except OSError:
        raise DeviceError(
            "libnvcuvid.so.1 does not load: a container needs the driver's video capability, "
            "NVIDIA_DRIVER_CAPABILITIES=compute,video,utility"
        ) from None
    except AttributeError as error:  # so ctypes names the symbol that a library does not have
        raise DeviceError(f"the NVIDIA driver is too old for NVDEC: {error}") from None
    if not found:
        raise DeviceError(f"GPU {gpu} has no NVDEC for {', '.join(_CODECS)}")
    return found


def lacking(found: Abilities, codec: str, pix_fmt: str, size: tuple[int, int]) -> str | None:
    """What NVDEC lacks for a video of that coded size, which others may have; None if nothing."""
    ability = found.get((codec, pix_fmt))
    if ability is None:
        return f"{codec} in {pix_fmt}, which this GPU does not decode"
    sides = zip(ability.smallest, size, ability.largest, strict=True)
    if all(least <= side <= most for least, side, most in sides) and size[0] * size[1] <= 256 * ability.blocks:
        return None
    of, least, most = ("x".join(map(str, sides)) for sides in (size, ability.smallest, ability.largest))
    return f"{codec} of {of}, this GPU decodes {least} to {most}, at most {ability.blocks} blocks of 16x16"


@contextlib.contextmanager
def _context(cuda: Any, gpu: int) -> Iterator[None]:
    """The GPU's primary context, which torch and DALI use, too, as this thread's."""
    device, context = ctypes.c_int(0), ctypes.c_void_p()
    with contextlib.ExitStack() as undone:
        _expect(cuda.cuDeviceGet(ctypes.byref(device), gpu), "cuDeviceGet")
        _expect(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device), "cuDevicePrimaryCtxRetain")
        undone.callback(cuda.cuDevicePrimaryCtxRelease_v2, device)
        _expect(cuda.cuCtxPushCurrent_v2(context), "cuCtxPushCurrent")
        undone.callback(cuda.cuCtxPopCurrent_v2, ctypes.byref(context))
        yield


def _ask(nvdec: Any, codec: str, pix_fmt: str) -> Ability | None:
    asked = _ASKED.pack(_CODECS[codec], _420, 2 if "10" in pix_fmt else 0, 0, 0, 0)
    caps = ctypes.create_string_buffer(asked, _CAPS_BYTES)
    _expect(nvdec.cuvidGetDecoderCaps(ctypes.byref(caps)), "cuvidGetDecoderCaps")
    supported, engines, _, *largest, blocks, width, height = _ANSWERED.unpack_from(caps, _ASKED.size)
    return Ability((width, height), (largest[0], largest[1]), blocks, engines) if supported else None


def _expect(code: int, function: str) -> None:
    if code:
        raise DeviceError(f"NVDEC cannot be used: {function} gives CUDA error {code}")
