"""Settings that are not given are those that runs recorded of what is there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from samples import words

from gpupeak.check.recorded import as_recorded
from gpupeak.cli.app import main
from gpupeak.config import ExtractConfig

UNIFORM = "frame_CLIP_VIT_LARGE_uniform_4frms"
SETTINGS = {"encoder": "CLIP_VIT_LARGE", "weights": "random:3", "sampling": "uniform", "n_frms": 4}


def made(root: Path, directory: str = UNIFORM, dataset: str = "mer2023", **settings: Any) -> None:
    home = root / dataset / directory
    home.mkdir(parents=True)
    (home / "run.json").write_text(json.dumps({"settings": {**SETTINGS, **settings}}))


def test_what_is_not_given_is_as_recorded(tmp_path: Path) -> None:
    made(tmp_path)
    told: list[str] = []
    config = ExtractConfig(output_root=tmp_path, datasets=("MER2023",))
    found = as_recorded(config, {"datasets", "output_root"}, told.append)
    assert (found.sampling, found.n_frms, found.weights) == ("uniform", 4, "random:3")
    assert told == [f"--sampling, --n-frms, --weights from {tmp_path}/mer2023/{UNIFORM}/run.json"]
    given = ExtractConfig(output_root=tmp_path, datasets=("mer2023",), weights="random:4")
    assert as_recorded(given, {"weights"}, told.append).weights == "random:4"
    other = ExtractConfig(output_root=tmp_path, n_frms=8)
    assert as_recorded(other, {"n_frms"}, told.append) == other


def test_records_in_a_store_are_asked_and_of_a_target_its_own(tmp_path: Path) -> None:
    made(tmp_path)
    made(tmp_path, dataset="meld", n_frms=6)
    made(tmp_path, dataset="sims")
    (tmp_path / "sims" / UNIFORM / "run.json").write_text("{")
    fsspec.filesystem("memory").put(str(tmp_path), "/recorded", recursive=True)
    told: list[str] = []
    config = ExtractConfig(output_root="memory://recorded")
    found = as_recorded(config, {"output_root"}, told.append, "MELD/x")
    assert (found.sampling, found.n_frms, found.weights) == ("uniform", 6, "random:3")
    assert told == [f"--sampling, --n-frms, --weights from memory://recorded/meld/{UNIFORM}/run.json"]
    as_recorded(config, {"output_root"}, told.append)
    assert told[1].startswith(f"memory://recorded/sims/{UNIFORM}/run.json: cannot be read")
    assert told[2].startswith(f"memory://recorded holds meld/{UNIFORM}, mer2023/{UNIFORM}: give --n-frms to say which")


def test_of_several_directories_what_is_given_chooses(tmp_path: Path) -> None:
    made(tmp_path)
    made(tmp_path, "frame_CLIP_VIT_LARGE_emotion_peak_8frms", sampling="emotion_peak", n_frms=8, smooth=5)
    told: list[str] = []
    config = ExtractConfig(output_root=tmp_path)
    assert as_recorded(config, (), told.append) == replace(config, weights="random:3"), "in which they agree"
    assert told[0].startswith(f"{tmp_path} holds mer2023/frame_CLIP_VIT_LARGE_emotion_peak_8frms, mer2023/")
    assert told[0].endswith("uniform_4frms: give --sampling, --n-frms, --smooth to say which is meant")
    made(tmp_path, "frame_DINO2_LARGE_uniform_4frms", encoder="DINO2_LARGE")
    assert as_recorded(config, (), told.append) == config, "weights are an encoder's"
    chosen = as_recorded(ExtractConfig(output_root=tmp_path, sampling="emotion_peak"), {"sampling"}, told.append)
    assert (chosen.smooth, chosen.n_frms, chosen.weights) == (5, None, "random:3")


@pytest.mark.parametrize("weights", ["/gone/model.safetensors", 7])
def test_what_cannot_be_meant_is_not_taken(weights: object, tmp_path: Path) -> None:
    made(tmp_path, sampling="emotion_peak", n_frms=8, weights=weights)
    config = ExtractConfig(output_root=tmp_path)
    told: list[str] = []
    assert as_recorded(config, (), told.append) == config
    assert told == []


def test_verify_takes_what_was_recorded_and_says_so(config: ExtractConfig, capsys: pytest.CaptureFixture[str]) -> None:
    main(["verify", *words(replace(config, encoder="CLIP_VIT_LARGE", weights=None)), "--json"])
    out, error = capsys.readouterr()
    assert "--visual-encoder, --weights from " in error
    assert json.loads(out)["exit_code"] == 0
