"""What a driver's libraries answer, and what is made of it; their stand-ins write bytes where cuviddec.h has them."""

from __future__ import annotations

import ctypes
import struct
import sys
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import pytest

from gpupeak.decode.driver import Ability, abilities, cuda_version, lacking, too_old
from gpupeak.decode.nvdec import nvdec_abilities
from gpupeak.errors import DeviceError

H264, HEVC, VP9 = 4, 8, 10  # cudaVideoCodec
ABILITY = Ability((48, 16), (4096, 2304), 36864, 7)


class FakeDriver:
    """Both libraries; `codes` are what some functions return, `without` names what does not load or is no symbol."""

    def __init__(
        self, *, version: int = 13_000, gpus: int = 1, codecs: Collection[int] = (H264, HEVC, VP9), without: str = ""
    ) -> None:
        self.version, self.gpus, self.codecs, self.without = version, gpus, codecs, without
        self.codes: dict[str, int] = {}
        self.calls: list[str] = []
        self.current: list[int] = []  # contexts of this thread

    def load(self, name: str) -> FakeDriver:
        if name == self.without:
            raise OSError(f"{name}: cannot open shared object file")
        return self

    def __getattr__(self, name: str) -> Any:
        if name == self.without:
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            self.calls.append(name)
            code = self.codes.get(name, 0)
            if not code:
                self._answer(name, *(getattr(argument, "_obj", argument) for argument in arguments))
            return code

        return call

    def _answer(self, name: str, *given: Any) -> None:
        match name:
            case "cuDeviceGetCount":
                given[0].value = self.gpus
            case "cuDriverGetVersion":
                given[0].value = self.version
            case "cuDeviceGet":
                given[0].value = 40 + given[1]
            case "cuDevicePrimaryCtxRetain":
                given[0].value = 1000 + given[1].value
            case "cuCtxPushCurrent_v2":
                self.current.append(given[0].value)
            case "cuCtxPopCurrent_v2":
                given[0].value = self.current.pop()
            case "cuvidGetDecoderCaps":
                self._caps(given[0])

    def _caps(self, caps: Any) -> None:
        """CUVIDDECODECAPS is 88 bytes: 24 are read, the rest is written."""
        assert self.current == [1040], "within the context of GPU 0"
        at = ctypes.addressof(caps)
        assert ctypes.sizeof(caps) == 88
        codec, chroma, depth, *reserved = struct.unpack("<6I", ctypes.string_at(at, 24))
        assert (chroma, reserved) == (1, [0, 0, 0])
        if codec not in self.codecs or (depth and codec != HEVC):
            return
        written = struct.pack("<BBHIIIHHBBH40x", 1, 7, 3, 4096, 2304, 36864, 48, 16, 1, 32, 256)
        ctypes.memmove(at + 24, written, len(written))


def install(monkeypatch: pytest.MonkeyPatch, driver: FakeDriver) -> FakeDriver:
    monkeypatch.setattr(ctypes, "CDLL", driver.load)
    monkeypatch.setitem(sys.modules, "nvidia.dali", SimpleNamespace())
    return driver


def test_what_nvdec_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = install(monkeypatch, FakeDriver())
    kinds = [("h264", "yuv420p"), ("hevc", "yuv420p"), ("vp9", "yuv420p"), ("hevc", "yuv420p10le")]
    assert abilities(0) == nvdec_abilities(0) == dict.fromkeys(kinds, ABILITY)
    assert driver.current == []
    assert driver.calls[-1] == "cuDevicePrimaryCtxRelease_v2"


@pytest.mark.parametrize(
    ("driver", "codes", "told"),
    [
        (FakeDriver(without="libcuda.so.1"), {}, "there is no NVIDIA driver: libcuda.so.1 does not load"),
        (FakeDriver(gpus=0), {}, "the NVIDIA driver finds no usable GPU (CUDA error 0)"),
        (FakeDriver(), {"cuInit": 100}, "the NVIDIA driver finds no usable GPU (CUDA error 100)"),
        (FakeDriver(without="libnvcuvid.so.1"), {}, "NVIDIA_DRIVER_CAPABILITIES=compute,video,utility"),
        (FakeDriver(without="cuvidGetDecoderCaps"), {}, "the NVIDIA driver is too old for NVDEC: "),
        (FakeDriver(without="cuCtxPushCurrent_v2"), {}, "the NVIDIA driver is too old for NVDEC: "),
        (FakeDriver(), {"cuDeviceGet": 101}, "NVDEC cannot be used: cuDeviceGet gives CUDA error 101"),
        (FakeDriver(), {"cuDevicePrimaryCtxRetain": 2}, "cuDevicePrimaryCtxRetain gives CUDA error 2"),
        (FakeDriver(), {"cuCtxPushCurrent_v2": 201}, "cuCtxPushCurrent gives CUDA error 201"),
        (FakeDriver(), {"cuvidGetDecoderCaps": 801}, "cuvidGetDecoderCaps gives CUDA error 801"),
        (FakeDriver(codecs=()), {}, "GPU 0 has no NVDEC for mpeg4, h264, hevc, vp8, vp9"),
    ],
)
def test_why_nvdec_is_missing(
    monkeypatch: pytest.MonkeyPatch, driver: FakeDriver, codes: dict[str, int], told: str
) -> None:
    install(monkeypatch, driver).codes = codes
    with pytest.raises(DeviceError) as error:
        abilities(0)
    assert told in str(error.value)
    assert nvdec_abilities() == str(error.value)
    retained = driver.calls.count("cuDevicePrimaryCtxRetain") if "cuDevicePrimaryCtxRetain" not in codes else 0
    assert driver.calls.count("cuDevicePrimaryCtxRelease_v2") == retained
    assert driver.current == []


def test_what_nvdec_lacks_for_a_video() -> None:
    found = {("h264", "yuv420p"): ABILITY}
    assert lacking(found, "h264", "yuv420p", (1920, 1088)) is None
    assert lacking(found, "vp9", "yuv420p", (1920, 1088)) == "vp9 in yuv420p, which this GPU does not decode"
    assert lacking(found, "h264", "yuv420p10le", (1920, 1088)) is not None
    for size in ((32, 480), (480, 8), (4112, 480), (480, 2320)):
        told = f"h264 of {size[0]}x{size[1]}, this GPU decodes 48x16 to 4096x2304, at most 36864 blocks of 16x16"
        assert lacking(found, "h264", "yuv420p", size) == told
    few = {("h264", "yuv420p"): ABILITY._replace(blocks=8159)}
    assert "at most 8159 blocks" in str(lacking(few, "h264", "yuv420p", (1920, 1088)))


@pytest.mark.parametrize(
    ("version", "built", "advice"),
    [
        (13_000, "13.0", None),
        (13_010, "12.8", None),
        (12_000, "12.8", None),
        (12_080, None, None),
        (12_080, "13.0", "pip install 'gpupeak[gpu-cuda12]', or a driver for CUDA 13.0"),
        (11_080, "13.0", "a driver for CUDA 13.0"),
    ],
)
def test_a_driver_too_old_for_torch(
    monkeypatch: pytest.MonkeyPatch, version: int, built: str | None, advice: str | None
) -> None:
    install(monkeypatch, FakeDriver(version=version))
    assert cuda_version() == (version // 1000, version % 1000 // 10)
    found = too_old(built)
    assert (found and found[1]) == advice
    install(monkeypatch, FakeDriver(without="libcuda.so.1"))
    assert (cuda_version(), too_old(built)) == (None, None)
