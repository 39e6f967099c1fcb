"""Kernels on a machine that they have not met: caches that cannot be written, compilers that fail."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gpupeak.encode.kernels import KERNELS, Kernels, compile_kernels
from gpupeak.encoders import TowerShape
from gpupeak.kernels import add_layer_norm
from gpupeak.kernels.compile import load, writable_cache

CUDA, SHAPE = torch.device("cuda", 0), TowerShape(size=224, patch=14, width=1024, layers=24, heads=16, dim=768)

COMPILE = """
import os, torch
from gpupeak.encode.kernels import compile_kernels
from gpupeak.encoders import CLIP_VIT_LARGE
compile_kernels(("patch_rows", "linear_silu"), torch.device("cuda", 0), CLIP_VIT_LARGE.tower, print)
for name in ("CUPY_CACHE_DIR", "TRITON_CACHE_DIR"):
    print(os.environ.get(name))
"""


@pytest.mark.slow
@pytest.mark.parametrize("home", ["below a file", "read-only", "as usual"])
def test_a_home_that_cannot_be_written_costs_no_kernel(home: str, tmp_path: Path) -> None:
    """CuPy itself is imported, and compiles up to where it needs a driver."""
    (tmp_path / "file").touch()
    homes = {"below a file": tmp_path / "file" / "home", "read-only": Path("/proc/self"), "as usual": tmp_path / "home"}
    environment = {key: value for key, value in os.environ.items() if "CACHE_DIR" not in key}
    environment |= {"HOME": str(homes[home]), "TMPDIR": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    patch_rows, linear_silu, *caches = done.stdout.splitlines()
    assert patch_rows.startswith("without the kernel patch_rows, which is slower: patch_rows.cu cannot be compiled: ")
    assert linear_silu.startswith("without the kernel linear_silu, which is slower: linear_silu cannot be compiled: ")
    assert "cuda" in patch_rows.lower() and "NVIDIA" in linear_silu, "it is the GPU that is missing"
    mine = tmp_path / f"gpupeak-{os.getuid()}"
    if home == "as usual":
        assert caches == ["None", "None"]
        assert (tmp_path / "home/.cupy/kernel_cache").is_dir()
    else:
        assert caches == [str(mine / "cupy_cache_dir"), str(mine / "triton_cache_dir")]
        assert Path(caches[0]).is_dir() and stat.S_IMODE(mine.stat().st_mode) == 0o700


def test_a_cache_that_is_set_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_CACHE_DIR", "/nowhere")
    writable_cache("SOME_CACHE_DIR", "/dev/null/cache")
    assert os.environ["SOME_CACHE_DIR"] == "/nowhere"


@pytest.mark.parametrize("what", ["open to others", "a link", "nobody's home"])
def test_a_cache_that_others_could_write_is_not_taken(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("SOME_CACHE_DIR", "")  # so that it is as before in the end
    monkeypatch.delenv("SOME_CACHE_DIR")
    theirs = tmp_path / f"gpupeak-{os.getuid()}"
    if what == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        theirs.symlink_to(tmp_path / "elsewhere")
    elif what == "open to others":
        theirs.mkdir()
        theirs.chmod(0o777)
    default = "~nobody-of-that-name/cache" if what == "nobody's home" else "/dev/null/cache"
    writable_cache("SOME_CACHE_DIR", default)
    cache = Path(os.environ["SOME_CACHE_DIR"])
    assert (cache.parent == theirs) is (what == "nobody's home")
    assert cache.parent.parent == tmp_path and stat.S_IMODE(cache.parent.stat().st_mode) == 0o700


class Nvrtc:
    """CuPy whose compiler fails."""

    class cuda:
        Device = contextlib.nullcontext

    @staticmethod
    def RawModule(code: str, options: tuple[str, ...]) -> None:
        raise RuntimeError("nvrtc: error: invalid value for --gpu-architecture (-arch)\nand more")


@pytest.mark.parametrize(
    ("cupy", "why"),
    [
        (Nvrtc, "{0}.cu cannot be compiled: nvrtc: error: invalid value for --gpu-architecture (-arch)"),
        (None, "CuPy is not installed: pip install 'gpupeak[gpu]'"),
    ],
)
def test_a_kernel_that_cannot_be_compiled_is_its_reference_and_that_is_said_once(
    cupy: object, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_compiler(device: torch.device) -> Any:
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(torch.cuda, "get_device_properties", no_compiler)
    told: list[str] = []
    assert compile_kernels(KERNELS, CUDA, SHAPE, told.append) == Kernels()
    reasons = {name: why.format(name) for name in ("patch_rows", "add_layer_norm")}
    reasons["linear_silu"] = "linear_silu cannot be compiled: Failed to find C compiler"
    assert told == [f"without the kernel {name}, which is slower: {reason}" for name, reason in reasons.items()]


def test_kernels_are_taken_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cupy(Nvrtc):
        @staticmethod
        def RawModule(code: str, options: tuple[str, ...]) -> Any:
            return SimpleNamespace(get_function=lambda name: name)

    monkeypatch.setitem(sys.modules, "cupy", Cupy)
    monkeypatch.setattr(add_layer_norm, "load", load.__wrapped__)  # no later test is to have these
    kernels = compile_kernels(("add_layer_norm",), CUDA, SHAPE, pytest.fail)
    assert kernels.add_layer_norm is not Kernels().add_layer_norm
    assert (kernels.patch_rows, kernels.linear_silu) == (Kernels().patch_rows, Kernels().linear_silu)
