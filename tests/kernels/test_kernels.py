"""Every kernel: compiled for the GPUs it is meant for, run on the host, and held against its torch reference."""

from __future__ import annotations

import contextlib
import ctypes
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from cuda.bindings import nvrtc  # type: ignore[import-untyped]

from gpupeak.encoders import CLIP_VIT_LARGE
from gpupeak.kernels import add_layer_norm, compile, patch_rows

KERNELS = {"patch_rows": {"SIZE": 224, "PATCH": 14}, "add_layer_norm": {"WIDTH": 1024}}
ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
POISON = float("nan")


def host_compile(source: Path, target: Path, *flags: str) -> None:
    compiler = shutil.which("g++") or shutil.which("clang++")
    assert compiler, "a C++ compiler is needed to run kernels on the host"
    headers = Path(__file__).parents[1].joinpath("host_cuda")
    subprocess.run([compiler, *flags, f"-I{headers}", str(source), "-o", str(target)], check=True)


class HostKernel:
    """`compile.Kernel` on the host: the same source by the host's compiler, threads one after another."""

    def __init__(self, name: str, directory: Path, options: tuple[str, ...]) -> None:
        body = f"launch({name}, x, y, threads, arguments);"
        main = directory / f"{name}.cpp"
        main.write_text(
            f'#include "{compile.source(name)}"\n'
            f'extern "C" void run(unsigned x, unsigned y, unsigned threads, void **arguments) {{ {body} }}\n'
        )
        flags = ["-O1", "-ffp-contract=off", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
        library = directory / f"{name}.so"
        host_compile(main, library, *flags, *options)
        self._run = ctypes.CDLL(str(library)).run

    def __call__(self, grid: tuple[int, ...], threads: int, *arguments: torch.Tensor | int | float) -> None:
        values = [_by_value(argument) for argument in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        self._run(*(*grid, 1)[:2], threads, pointers)


def _by_value(argument: torch.Tensor | int | float) -> ctypes.c_void_p | ctypes.c_int | ctypes.c_float:
    if isinstance(argument, torch.Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    return ctypes.c_int(argument) if isinstance(argument, int) else ctypes.c_float(argument)


@pytest.fixture(scope="module")
def host_kernels(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., HostKernel]:
    """`compile.load` for the host."""

    @cache
    def load(name: str, device: torch.device, **sizes: int) -> HostKernel:
        return HostKernel(name, tmp_path_factory.mktemp(name), compile.options(**sizes))

    return load


@pytest.fixture
def on_host(monkeypatch: pytest.MonkeyPatch, host_kernels: Callable[..., HostKernel]) -> None:
    monkeypatch.setattr(patch_rows, "load", host_kernels)
    monkeypatch.setattr(add_layer_norm, "load", host_kernels)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", KERNELS)
def test_compiles_without_a_warning_and_keeps_everything_in_registers(name: str, architecture: str) -> None:
    log, binary = nvrtc_compile(name, architecture, *compile.options(**KERNELS[name]), "--ptxas-options=-warn-spills")
    assert log == ""
    assert name.encode() in binary


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("width", [256, 1024])
def test_add_layer_norm_has_all_its_loads_under_way_before_it_sums(
    width: int, architecture: str, tmp_path: Path
) -> None:
    _, binary = nvrtc_compile("add_layer_norm", architecture, *compile.options(WIDTH=width))
    (file := tmp_path / "add_layer_norm.cubin").write_bytes(binary)
    code = re.findall(r"^\s+/\*\w{4}\*/ +(?:@\S+ +)?([A-Z]\S*)", triton_tool("cuobjdump", "-sass", str(file)), re.M)
    first_use = next(i for i, operation in enumerate(code) if operation.startswith(("HADD", "FADD", "HFMA", "STG")))
    assert code[:first_use].count("LDG.E.128") == 2 * width // 256, code


def triton_tool(name: str, *arguments: str) -> str:
    """What one of the CUDA tools says that Triton brings."""
    (triton,) = find_spec("triton").submodule_search_locations  # type: ignore[union-attr,misc]
    tool = Path(triton, "backends", "nvidia", "bin", name)
    return subprocess.run([tool, *arguments], check=True, capture_output=True, text=True).stdout


def test_every_source_is_in_these_tests() -> None:
    assert set(KERNELS) == {path.stem for path in compile.source("any").parent.glob("*.cu")}


def nvrtc_compile(name: str, architecture: str, *options: str) -> tuple[str, bytes]:
    """What the compiler has to say, and the binary. It needs no driver."""
    (nvidia,) = find_spec("nvidia").submodule_search_locations  # type: ignore[union-attr,misc]
    headers = [f"-I{nvidia}/{place}/include" for place in ("cu13", "cuda_runtime")]  # of CUDA 13, and of 12
    flat = [*options, f"-arch={architecture}", *headers]
    _, program = nvrtc.nvrtcCreateProgram(compile.source(name).read_bytes(), name.encode(), 0, [], [])
    (result,) = nvrtc.nvrtcCompileProgram(program, len(flat), [flag.encode() for flag in flat])
    _, size = nvrtc.nvrtcGetProgramLogSize(program)
    log = bytearray(size)
    nvrtc.nvrtcGetProgramLog(program, log)
    text = log.rstrip(b"\0").decode().strip()
    assert result == nvrtc.nvrtcResult.NVRTC_SUCCESS, text
    _, size = nvrtc.nvrtcGetCUBINSize(program)
    binary = bytearray(size)
    nvrtc.nvrtcGetCUBIN(program, binary)
    return text, bytes(binary)


def clip_scale_shift() -> torch.Tensor:
    clip = CLIP_VIT_LARGE.tower
    assert clip is not None
    std = torch.tensor(clip.std)
    return torch.stack([1 / (255 * std), -torch.tensor(clip.mean) / std])


def poisoned(rows: int, columns: int) -> torch.Tensor:
    return torch.full((rows, columns), POISON, dtype=torch.float16)


PIXELS: dict[str, Callable[[tuple[int, ...]], torch.Tensor]] = {
    "random": lambda shape: torch.from_numpy(np.random.default_rng(len(shape)).integers(0, 256, shape, np.uint8)),
    "black": partial(torch.zeros, dtype=torch.uint8),
    "white": lambda shape: torch.full(shape, 255, dtype=torch.uint8),
}


@pytest.mark.parametrize("pixels", PIXELS)
@pytest.mark.parametrize(("size", "patch", "row"), [(224, 14, 592), (28, 14, 592), (48, 16, 768), (35, 7, 152)])
@pytest.mark.usefixtures("on_host")
def test_patch_rows_are_the_same_to_the_bit(pixels: str, size: int, patch: int, row: int) -> None:
    frames = PIXELS[pixels]((5, size, size, 3))
    images = torch.tensor([4, 0, 0, 4, 1, 2], dtype=torch.int32)  # some twice, one never
    rows = len(images) * (size // patch) ** 2
    wanted, got = poisoned(rows, row), poisoned(rows + 8, row)
    patch_rows.patch_rows(frames, images, clip_scale_shift(), wanted)
    patch_rows.cuda_patch_rows(torch.device("cpu"), size, patch)(frames, images, clip_scale_shift(), got[4:-4])
    assert not wanted.isnan().any()
    assert torch.equal(got[4:-4], wanted)
    assert got[:4].isnan().all() and got[-4:].isnan().all(), "nothing is written beyond its own rows"


@pytest.mark.parametrize(
    "change",
    [
        {"pixels": torch.zeros(2, 28, 28, 3)},
        {"pixels": torch.zeros(2, 28, 27, 3, dtype=torch.uint8)},
        {"pixels": torch.zeros(2, 28, 3, 28, dtype=torch.uint8).transpose(2, 3)},
        {"images": torch.zeros(2, dtype=torch.int64)},
        {"images": torch.zeros(3, dtype=torch.int32)},
        {"scale_shift": torch.zeros(3, 2)},
        {"out": torch.zeros(8, 600, dtype=torch.float16)},
        {"out": torch.zeros(8, 592)},
        {"out": torch.zeros(8 * 592 + 1, dtype=torch.float16)[1:].view(8, 592)},
        {"out": torch.zeros(7, 592, dtype=torch.float16)},
    ],
)
@pytest.mark.usefixtures("on_host")
def test_the_patch_kernel_refuses_what_it_would_misread(change: dict[str, torch.Tensor]) -> None:
    arguments = {
        "pixels": torch.zeros(2, 28, 28, 3, dtype=torch.uint8),
        "images": torch.zeros(2, dtype=torch.int32),
        "scale_shift": torch.zeros(2, 3),
        "out": torch.zeros(8, 592, dtype=torch.float16),
    }
    kernel = patch_rows.cuda_patch_rows(torch.device("cpu"), 28, 14)
    kernel(*arguments.values())
    with pytest.raises(ValueError, match="expected dense"):
        kernel(*(arguments | change).values())


@pytest.mark.parametrize("rows", [1, 4, 7])
@pytest.mark.parametrize("width", [256, 1024])
@pytest.mark.usefixtures("on_host")
def test_add_layer_norm_agrees_with_torch(rows: int, width: int) -> None:
    random = torch.Generator().manual_seed(rows)
    residual, delta = (torch.randn(rows + 1, width, generator=random).mul(4).add(1).half() for _ in range(2))
    weight, bias = (torch.randn(width, generator=random).half() for _ in range(2))
    residual[0] /= 1000  # a variance that eps matters to
    delta[0] /= 1000
    wanted, wanted_normed = add_layer_norm.add_layer_norm(residual[:rows], delta[:rows], weight, bias, 1e-5)
    beyond = residual[rows].clone(), delta[rows].clone()
    kernel = add_layer_norm.cuda_add_layer_norm(torch.device("cpu"), width)
    total, normed = kernel(residual[:rows], delta[:rows], weight, bias, 1e-5)
    assert torch.equal(total, wanted)
    # Float32 sums in another order: at most the last bit of fp16, on numbers up to about 10.
    torch.testing.assert_close(normed, wanted_normed, rtol=2**-10, atol=2**-12)
    assert torch.equal(residual[rows], beyond[0])
    assert torch.equal(delta[rows], beyond[1])


@pytest.mark.usefixtures("on_host")
def test_add_layer_norm_of_a_large_mean_is_not_cancelled_away() -> None:
    residual = (1000 + torch.randn(2, 1024, generator=torch.Generator().manual_seed(3))).half()
    exact = torch.nn.functional.layer_norm(residual.double(), (1024,))
    kernel = add_layer_norm.cuda_add_layer_norm(torch.device("cpu"), 1024)
    zeros, ones = torch.zeros(1024).half(), torch.ones(1024).half()
    _, normed = kernel(residual, torch.zeros_like(residual), ones, zeros, 1e-5)
    torch.testing.assert_close(normed.double(), exact, rtol=2e-3, atol=2e-3)


@pytest.mark.usefixtures("on_host")
def test_add_layer_norm_refuses_what_it_would_misread() -> None:
    kernel = add_layer_norm.cuda_add_layer_norm(torch.device("cpu"), 256)
    good = torch.zeros(2, 256).half()
    vector = torch.zeros(256).half()
    for bad in (good.float(), torch.zeros(3, 256).half(), torch.zeros(256, 2).half().T, torch.zeros(2, 512).half()):
        with pytest.raises(ValueError, match="expected dense"):
            kernel(good, bad, vector, vector, 1e-5)
    with pytest.raises(ValueError, match="multiple of 256"):
        add_layer_norm.cuda_add_layer_norm(torch.device("cpu"), 1000)


class FakeCupy:
    """CuPy as far as a kernel needs it: what it is asked for, in order."""

    def __init__(self) -> None:
        self.calls: list[object] = []
        self.cuda = self
        self.Stream = self

    def Device(self, index: int) -> contextlib.nullcontext[None]:
        self.calls.append(("device", index))
        return contextlib.nullcontext()

    def RawModule(self, code: str, options: tuple[str, ...]) -> FakeCupy:
        self.calls.append(("compile", code, options))
        return self

    def get_function(self, name: str) -> Callable[..., None]:
        return lambda *arguments: self.calls.append((name, *arguments))

    def from_external(self, stream: Any) -> contextlib.nullcontext[None]:
        self.calls.append(("stream", stream.__cuda_stream__()))
        return contextlib.nullcontext()


def test_a_kernel_is_launched_once_a_call_on_torchs_current_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = FakeCupy()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    handles = iter([1234, 1234, 5678])
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=next(handles)))
    kernel = compile.Kernel("patch_rows", torch.device("cuda:1"), SIZE=28)
    code = compile.source("patch_rows").read_text()
    assert cupy.calls == [("device", 1), ("compile", code, ("--std=c++17", "-DSIZE=28"))]
    cupy.calls.clear()
    tensor = torch.zeros(3)
    for _ in range(3):
        kernel((2, 3), 256, tensor, 7, 0.5)
    launch = ("patch_rows", (2, 3), (256,), (tensor.data_ptr(), 7, 0.5))
    device, first, other = ("device", 1), ("stream", (0, 1234)), ("stream", (0, 5678))
    assert cupy.calls == [device, first, launch, device, launch, device, other, launch]
    assert [type(value) for value in cupy.calls[-1][3]] == [np.uint64, np.int32, np.float32]  # type: ignore[index]
