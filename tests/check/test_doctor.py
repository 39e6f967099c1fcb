"""Whether this machine can do the job: what is there is found, what is missing is named with what to do about it."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import hashlib
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from samples import ENCODER, of_demo

from gpupeak import ExtractConfig
from gpupeak.check import doctor
from gpupeak.check.doctor import MISSING, NOTE, OK, Finding, diagnose
from gpupeak.cli.app import main
from gpupeak.decode import nvdec
from gpupeak.demo.corpus import CLIPS, DemoCorpus
from gpupeak.encode.openclip import known_tag
from gpupeak.encode.weights.fit import parameters
from gpupeak.encoders import CLIP_VIT_LARGE
from gpupeak.kernels import compile, patch_rows


@pytest.fixture
def config(corpus: DemoCorpus, tmp_path: Path) -> ExtractConfig:
    return of_demo(corpus, tmp_path / "out", encoder="CLIP_VIT_LARGE")


def found(config: ExtractConfig, name: str, **changes: Any) -> Finding:
    (finding,) = (each for each in diagnose(dataclasses.replace(config, **changes)) if each.name == name)
    return finding


def test_a_machine_that_can_do_the_job(config: ExtractConfig) -> None:
    findings = diagnose(config)
    assert [finding for finding in findings if finding.state == MISSING] == []
    assert {finding.name: finding.found for finding in findings}["torch"] == torch.__version__.partition("+")[0]
    assert found(config, "datasets").found == "mer2023, iemocap"
    assert f"{len(CLIPS)} samples to write: " in found(config, "output").found
    assert not Path(config.output_root).exists(), "nothing is written"


def test_weights_are_named_by_their_hash_or_how_to_get_them(
    config: ExtractConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "pytorch_model.bin"
    file.write_bytes(b"PKweights")
    here = found(config, "weights", weights=str(tmp_path))
    assert (here.state, hashlib.sha256(b"PKweights").hexdigest() in here.found) == (OK, True)
    assert "--weights" in str(found(config, "weights", weights=None).advice)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: None)
    assert found(config, "weights", weights=None).state == NOTE, "they can be fetched"
    assert known_tag(CLIP_VIT_LARGE, "openai")["hf_hub"] == f"{doctor._OPENAI}/"


def test_weights_are_held_against_the_encoder_by_name(config: ExtractConfig, tmp_path: Path) -> None:
    file, named = tmp_path / "model.safetensors", parameters(CLIP_VIT_LARGE.tower or pytest.fail())
    save_file({name: np.zeros(1, np.float32) for name in named}, file)
    assert "296 tensors of the image tower as expected" in found(config, "weights", weights=str(file)).found
    save_file({name: np.zeros(1, np.float32) for name in named if name != "proj"}, file)
    wrong = found(config, "weights", weights=str(file))
    assert (wrong.state, "1 of 296 parameters missing (such as proj)" in wrong.found) == (MISSING, True)


@pytest.mark.parametrize(
    ("name", "changes", "state"),
    [
        ("weights", {"weights": "no_such_tag"}, MISSING),
        ("weights", {"encoder": "open_clip:ViT-nothing"}, MISSING),
        ("device", {"device": "auto"}, NOTE),
        ("device", {"device": "cuda:0"}, MISSING),
        ("NVDEC", {"decoder": "nvdec"}, MISSING),
        ("datasets", {"dataset_root": Path("/nowhere")}, MISSING),
        ("action units", {"mer_factory_output": None, "datasets": ("mer2023",)}, MISSING),
        ("action units", {"mer_factory_output": Path("/no"), "datasets": ("mer2023",)}, MISSING),
        ("samples", {"samples": Path("/no.txt")}, MISSING),
        ("Ray", {"engine": "ray"}, OK),
    ],
)
def test_what_was_asked_for_has_to_be_there(
    name: str,
    changes: dict[str, Any],
    state: str,
    config: ExtractConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert found(config, name, **changes).state == state


def test_finished_files_are_looked_at_where_it_makes_a_difference(
    extracted: Path, config: ExtractConfig, tmp_path: Path
) -> None:
    shutil.copytree(extracted, tmp_path / "out")
    done = dataclasses.replace(config, datasets=("mer2023",), encoder=ENCODER)
    assert "0 samples to write" in found(done, "output", mer_factory_output=None).found, "it is all done"
    next(tmp_path.glob("out/mer2023/*/*.npy")).write_bytes(b"torn")
    assert "0 samples to write" in found(done, "output").found, "by their names"
    assert found(done, "action units", mer_factory_output=None).state == MISSING, "one is to be made again"
    assert "holds features made with" in found(done, "output", weights="random:1").found


def test_the_disk_against_what_is_to_be_written(config: ExtractConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    need = 5 * (128 + 8 * 768 * 4) + (64 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=need))
    assert found(config, "output").state == OK
    assert found(config, "output", n_frms=9).state == MISSING
    assert found(config, "output", output_root=Path(__file__) / "below a file").state == MISSING


def test_a_package_that_does_not_import(config: ExtractConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    fault = "cannot be imported: import of open_clip halted; None in sys.modules"
    assert found(config, "open_clip") == Finding("open_clip", MISSING, fault, "pip install open_clip_torch")


def on_gpu(monkeypatch: pytest.MonkeyPatch, cuda: int) -> None:
    """A machine with one GPU, whose driver takes CUDA up to `cuda`, as 1000 * major + 10 * minor."""

    def version(pointer: Any) -> int:
        pointer._obj.value = cuda
        return 0

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index=0: "NVIDIA H200")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    memory = SimpleNamespace(total_memory=141 << 30, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: memory)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(cuDriverGetVersion=version))


CUPY = SimpleNamespace(
    cuda=SimpleNamespace(Device=contextlib.nullcontext),
    RawModule=lambda code, options: SimpleNamespace(get_function=lambda name: name),
)
"""It compiles everything."""


def test_on_a_gpu(config: ExtractConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu(monkeypatch, 13_010)
    asked: list[int] = []

    def abilities(gpu: int) -> Any:
        asked.append(gpu)
        return dict.fromkeys([("h264", "yuv420p"), ("hevc", "yuv420p"), ("hevc", "yuv420p10le")])

    monkeypatch.setattr(nvdec, "abilities", abilities)
    monkeypatch.setitem(sys.modules, "nvidia.dali", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace())
    monkeypatch.setattr(patch_rows, "load", compile.load.__wrapped__)
    gpu = {"device": "auto"}
    assert found(config, "device", **gpu) == Finding("device", OK, "on NVIDIA H200, 141 GiB, compute capability 9.0")
    told = "takes CUDA up to 13.1; torch is built for CUDA 13.0: 'gpupeak[gpu]' fits"
    assert found(config, "driver", **gpu) == Finding("driver", OK, told)
    assert found(config, "NVDEC", **gpu) == Finding("NVDEC", OK, "decodes h264, hevc")
    assert asked == [0] * 3, "the driver, once a diagnosis"
    assert found(config, "CuPy", **gpu).state == OK
    kernels = found(config, "kernels", **gpu)
    assert (kernels.state, "patch_rows.cu cannot be compiled" in kernels.found) == (NOTE, True)
    monkeypatch.setitem(sys.modules, "cupy", CUPY)
    assert found(config, "kernels", **gpu) == Finding("kernels", OK, "compiled: patch_rows")

    lacking = "libnvcuvid.so.1 does not load: NVIDIA_DRIVER_CAPABILITIES=compute,video,utility"
    monkeypatch.setattr(nvdec, "nvdec_abilities", lambda gpu: lacking)
    assert found(config, "NVDEC", **gpu) == Finding("NVDEC", NOTE, lacking, "the CPU's cores decode instead")
    assert found(config, "NVDEC", **gpu, decoder="nvdec").state == MISSING
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert found(config, "CuPy", **gpu).state == NOTE
    assert found(config, "kernels", **gpu).advice == "torch computes the same, slower"
    on_gpu(monkeypatch, 12_080)
    assert found(config, "driver", **gpu).state == MISSING
    assert found(config, "driver", **gpu).advice == "pip install 'gpupeak[gpu-cuda12]', or a driver for CUDA 13.0"


def test_packages_for_both_cudas(config: ExtractConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu(monkeypatch, 13_010)
    config = dataclasses.replace(config, device="auto")
    monkeypatch.setattr(nvdec, "nvdec_abilities", lambda gpu: "no NVDEC")
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(doctor, "version", lambda distribution: "14.2")
    finding = found(config, "CuPy")
    assert (finding.state, finding.found) == (NOTE, "cupy-cuda13x and cupy-cuda12x overwrite each other")
    advice = "pip uninstall cupy-cuda13x cupy-cuda12x; then pip install 'gpupeak[gpu]'"
    assert finding.advice == advice
    assert found(config, "DALI").found == "nvidia-dali-cuda130 and nvidia-dali-cuda120 overwrite each other"
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert str(found(config, "CuPy").advice).endswith("'gpupeak[gpu-cuda12]'")


def test_the_command(config: ExtractConfig, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["doctor", "mer2023", "--dataset-root", str(config.dataset_root), "--weights", "random:0"]
    words += ["--mer-factory-output", str(config.mer_factory_output)]
    assert main(words) == 0
    assert capsys.readouterr().out.endswith("the job can run\n")
    assert main([*words, "--device", "cuda:0", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["exit_code"] == 1
    assert [each["name"] for each in told["findings"] if each["state"] == "missing"] == ["device"]
    assert main([*words, "--device", "cuda:0"]) == 1
    assert capsys.readouterr().out.endswith("the job cannot run: device\n")
    assert main([*words[:-2], "--limit", "1"]) == 1, "no action units"
    assert main([*words[:-2], "--fallback", "uniform", "--overwrite"]) == 0, "as extract with the same words"
