"""Where a device chooses classes: who asks for a GPU gets it or is told why not; only auto falls back, and says so."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from frames import SHAPE, tower
from lazy_cuda import LazyCuda
from synthetic_lines import make_seeing_line
from torch import nn
from torch.nn.attention import SDPBackend
from wrong_kernels import no_numbers

from gpupeak import ExtractConfig
from gpupeak.decode import dali
from gpupeak.encode.gpu import device
from gpupeak.encode.kernels import Kernels
from gpupeak.encoders import encoder_spec
from gpupeak.errors import DeviceError
from gpupeak.lines import build as building
from gpupeak.lines.build import build, choose_decoder, choose_device
from gpupeak.pipeline import Line

NO_GPU = f"torch {torch.__version__} is built without CUDA"
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def sums_in_half_precision() -> Iterator[None]:
    """As torch begins."""
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = True
    yield
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = True


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")


def test_without_a_gpu_auto_says_why_and_a_gpu_asked_for_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert choose_device("auto") == (CPU, f"on the CPU: {NO_GPU}")
    assert choose_device("cpu") == (CPU, "on the CPU, as asked")
    for asked in ("cuda", "cuda:0", "cuda:5"):
        with pytest.raises(DeviceError, match=re.escape(f"--device {asked}: {NO_GPU}; use --device auto")):
            choose_device(asked)


def test_a_gpu_left_idle_by_an_old_driver_is_said_aloud(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(pointer: Any) -> int:
        pointer._obj.value = 12_080
        return 0

    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(cuDriverGetVersion=version))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    told = "the NVIDIA driver takes CUDA up to 12.8, torch is built for CUDA 13.0: pip install 'gpupeak[gpu-cuda12]'"
    device, why = choose_device("auto")
    assert (device, why) == (CPU, f"WARNING: on the CPU: {told}, or a driver for CUDA 13.0")
    with pytest.raises(DeviceError, match="--device cuda: the NVIDIA driver takes"):
        choose_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", "12.8")  # so it may be the GPU itself that is not there
    assert choose_device("auto")[1].startswith("on the CPU: torch")


def test_with_gpus_auto_takes_the_first_and_a_number_that_is_not_there_is_an_error(two_gpus: None) -> None:
    assert choose_device("auto") == (CUDA, "on GPU 0")
    assert choose_device("cuda") == (CUDA, "on GPU 0")
    assert choose_device("cuda:1") == (torch.device("cuda", 1), "on GPU 1")
    assert choose_device("cpu")[0] == CPU
    with pytest.raises(DeviceError, match=r"--device cuda:2: this machine has 2 GPU\(s\), numbered from 0"):
        choose_device("cuda:2")


@pytest.mark.parametrize("asked", ["nvdec", "hybrid"])
def test_a_decoder_asked_for_is_there_or_an_error(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    with pytest.raises(DeviceError, match=f"--decoder {asked} decodes into a GPU's memory"):
        choose_decoder(asked, CPU)
    monkeypatch.setattr(building, "nvdec_abilities", lambda gpu: "libnvcuvid.so.1 does not load")
    with pytest.raises(DeviceError, match=rf"--decoder {asked}: libnvcuvid\.so\.1 does not load"):
        choose_decoder(asked, CUDA)
    monkeypatch.setattr(building, "nvdec_abilities", lambda gpu: {})
    assert choose_decoder(asked, CUDA)[0] == asked


def test_auto_decodes_on_the_cpu_where_nvdec_is_missing_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "nvdec_abilities", lambda gpu: "no DALI")
    assert choose_decoder("auto", CUDA) == ("cpu", "decoding on the CPU: no DALI")
    assert choose_decoder("auto", CPU)[0] == choose_decoder("cpu", CUDA)[0] == "cpu"
    monkeypatch.setattr(building, "nvdec_abilities", lambda gpu: {})
    assert choose_decoder("auto", CUDA)[0] == "auto", "measured in the run"


def test_the_gpu_line_runs_in_a_supervised_process(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(building, "nvdec_abilities", lambda gpu: {})
    made: list[tuple[Any, Any, Any]] = []
    monkeypatch.setattr(
        building, "SupervisedLine", lambda recipe, tell, **options: made.append((recipe, tell, options))
    )
    told: list[str] = []
    config, spec = ExtractConfig(device="cuda:1", decoder="hybrid", time_limit=7), encoder_spec("CLIP_VIT_LARGE")
    build(config, spec, 8, told.append)
    recipe = (building.cuda_line, (config, spec, 8, "cuda:1", "hybrid"))
    assert made == [
        (recipe, told.append, {"time_limit": 7, "on_cpu": False, "environment": {"CUDA_VISIBLE_DEVICES": "1"}})
    ]
    assert told == ["on GPU 1; decoding on NVDEC and the CPU, as asked"]


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        (None, ("0", "1")),
        ("3,5", ("3", "5")),
        ("GPU-8f2c, MIG-1b,7", ("GPU-8f2c", "MIG-1b")),
    ],
)
def test_each_gpus_process_sees_its_own_alone(
    given: str | None, seen: tuple[str, str], two_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And from before torch is imported there, which may ask the driver at once."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given or "")
    if given is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(building, "nvdec_abilities", lambda gpu: {})
    monkeypatch.setattr(building, "cuda_line", make_seeing_line)
    line = build(ExtractConfig(device="cuda:0,cuda:1"), encoder_spec("CLIP_VIT_LARGE"), 8, print)
    line.close()
    assert line.device == f"cuda:0 sees {seen[0]},cuda:1 sees {seen[1]}"
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == given, "this process sees what it saw"


FLASH = SDPBackend.FLASH_ATTENTION


def gpu_line(
    monkeypatch: pytest.MonkeyPatch, told: list[str], encoder: nn.Module, decoder: str = "cpu", workers: int = 1
) -> Line:
    """A GPU's line as its process builds it, as far as that goes without one: `LazyCuda` captures."""
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(building, "load_tower", lambda *given: encoder)
    monkeypatch.setattr(device, "Cuda", lambda device: LazyCuda())
    spec = replace(encoder_spec("CLIP_VIT_LARGE"), size=28, dim=8, tower=SHAPE)
    return building.cuda_line(ExtractConfig(workers=workers), spec, 8, "cuda:1", decoder, told.append)


def test_a_gpus_line_says_what_it_computes_with(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    line = gpu_line(monkeypatch, told, tower())
    line.close()
    attention, without = told
    assert line.device == "cuda:1"
    assert without.startswith(
        "cuda:1: without the kernel patch_rows, which is slower: patch_rows.cu cannot be compiled"
    )
    assert attention == "cuda:1: attention by flash"
    assert not torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction


@pytest.mark.parametrize(("is_wrong", "name", "backend"), [(False, "flash", FLASH), (True, "math", SDPBackend.MATH)])
def test_another_encoders_attention_is_chosen_too(
    monkeypatch: pytest.MonkeyPatch, is_wrong: bool, name: str, backend: SDPBackend
) -> None:
    """Flash attention, and nothing else, unless it computes something else than the plain one."""
    backends: list[int] = []

    class Attending(nn.Linear):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            query = super().forward(pixels[:, 0, :8, 0].float()).view(-1, 1, 1, 8)
            backends.append(torch._fused_sdp_choice(query, query, query))
            off = 2 if is_wrong and backends[-1] == FLASH.value else 1
            return off * nn.functional.scaled_dot_product_attention(query, query, query).flatten(1)

    monkeypatch.setattr(building, "TowerEncoder", lambda tower, *rest: SimpleNamespace(features=tower))
    told: list[str] = []
    line: Any = gpu_line(monkeypatch, told, Attending(8, 8))
    line.close()
    assert told == [f"cuda:1: attention by {name}"]
    backends.clear()
    line.encoder.features(torch.zeros(2, 28, 28, 3, dtype=torch.uint8))
    assert backends == [backend.value]


@pytest.mark.parametrize(("workers", "planners"), [(16, 3), (2, 2)])
def test_a_few_processes_plan_for_nvdec_beside_those_that_decode(
    monkeypatch: pytest.MonkeyPatch, workers: int, planners: int
) -> None:
    made: list[int] = []
    monkeypatch.setattr(building, "WorkerPool", lambda workers, *shape, **options: made.append(workers))
    monkeypatch.setattr(building, "abilities", lambda gpu: {})
    monkeypatch.setattr(dali, "DaliDecoder", lambda *parts, **options: None)
    gpu_line(monkeypatch, [], tower(), "nvdec", workers)
    assert made == [workers, planners]


def test_a_gpus_line_whose_graphs_are_wrong_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpupeak.encode.kernels.compile_kernels", lambda *given: Kernels(linear_silu=no_numbers))
    with pytest.raises(DeviceError, match=r"^the graph of \d+ images is wrong"):
        gpu_line(monkeypatch, [], tower())
