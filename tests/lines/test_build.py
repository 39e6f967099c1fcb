"""Where a device chooses classes: who asks for a GPU gets it or is told why not; only auto falls back, and says so."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

import pytest
import torch
from synthetic_lines import make_seeing_line

from gpupeak import ExtractConfig
from gpupeak.encoders import encoder_spec
from gpupeak.errors import DeviceError
from gpupeak.lines import build as building
from gpupeak.lines.build import build, choose_decoder, choose_device

NO_GPU = f"torch {torch.__version__} is built without CUDA"
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")


def test_without_a_gpu_auto_says_why_and_a_gpu_asked_for_is_an_error(no_gpu: None) -> None:
    assert choose_device("auto") == (CPU, f"on the CPU: {NO_GPU}")
    assert choose_device("cpu") == (CPU, "on the CPU, as asked")
    for asked in ("cuda", "cuda:0", "cuda:5"):
        with pytest.raises(DeviceError, match=re.escape(f"--device {asked}: {NO_GPU}; use --device auto")):
            choose_device(asked)


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
    monkeypatch.setattr(building, "nvdec_missing", lambda: "libnvcuvid.so.1 does not load")
    with pytest.raises(DeviceError, match=rf"--decoder {asked}: libnvcuvid\.so\.1 does not load"):
        choose_decoder(asked, CUDA)
    monkeypatch.setattr(building, "nvdec_missing", lambda: None)
    assert choose_decoder(asked, CUDA)[0] == asked


def test_auto_decodes_on_the_cpu_where_nvdec_is_missing_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "nvdec_missing", lambda: "no DALI")
    assert choose_decoder("auto", CUDA) == ("cpu", "decoding on the CPU: no DALI")
    assert choose_decoder("auto", CPU)[0] == choose_decoder("cpu", CUDA)[0] == "cpu"
    monkeypatch.setattr(building, "nvdec_missing", lambda: None)
    assert choose_decoder("auto", CUDA)[0] == "auto", "measured in the run"


def test_the_gpu_line_runs_in_a_supervised_process(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(building, "nvdec_missing", lambda: None)
    made: list[tuple[Any, Any, Any]] = []
    monkeypatch.setattr(
        building, "SupervisedLine", lambda recipe, tell, **options: made.append((recipe, tell, options))
    )
    told: list[str] = []
    config, spec = ExtractConfig(device="cuda:1", decoder="hybrid", time_limit=7), encoder_spec("CLIP_VIT_LARGE")
    build(config, spec, 8, told.append)
    recipe = (building.cuda_line, (config, spec, 8, "cuda:1", "hybrid"))
    assert made == [(recipe, told.append, {"time_limit": 7, "environment": {"CUDA_VISIBLE_DEVICES": "1"}})]
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
    monkeypatch.setattr(building, "nvdec_missing", lambda: None)
    monkeypatch.setattr(building, "cuda_line", make_seeing_line)
    line = build(ExtractConfig(device="cuda:0,cuda:1"), encoder_spec("CLIP_VIT_LARGE"), 8, print)
    line.close()
    assert line.device == f"cuda:0 sees {seen[0]},cuda:1 sees {seen[1]}"
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == given, "this process sees what it saw"
