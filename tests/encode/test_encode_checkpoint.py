"""Weight files of every layout and of every kind of fault."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny import SHAPE, SPEC, difference, images, model_of, normalised, reference, state
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from gpupeak.encode.load import load_tower
from gpupeak.encode.weights.checkpoint import load_state
from gpupeak.encode.weights.identity import locate
from gpupeak.errors import WeightsError

clip_model = partial(model_of, SHAPE)


@torch.inference_mode()
def encode(weights: Path) -> torch.Tensor:
    return load_tower(SPEC, str(weights))(images())  # type: ignore[no-any-return]


def fault(weights: Path, spec: Any = SPEC) -> str:
    """The one line with which weights are refused."""
    with pytest.raises(WeightsError) as caught:
        load_tower(spec, str(weights))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 800
    return str(caught.value)


# transformers' layout


@pytest.fixture(scope="module")
def transformers_features() -> torch.Tensor:
    with torch.inference_mode():
        return clip_model().get_image_features(pixel_values=normalised(images())).pooler_output  # type: ignore[no-any-return]


def save_safetensors(home: Path) -> None:
    clip_model().save_pretrained(home)


def save_shards(home: Path) -> None:
    clip_model().save_pretrained(home, max_shard_size="30KB")
    assert (home / "model.safetensors.index.json").is_file() and not (home / "model.safetensors").exists()


def save_old_bin(home: Path) -> None:
    """As transformers saved them once: position numbers among the weights, the old file format, no configuration."""
    model = clip_model()
    position_ids = torch.arange(5).expand((1, -1))
    old = {**model.state_dict(), "vision_model.embeddings.position_ids": position_ids}
    torch.save(old, home / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def save_vision_only(home: Path) -> None:
    whole = clip_model()
    model = CLIPVisionModelWithProjection(CLIPVisionConfig(**whole.config.vision_config.to_dict()))
    weights = {name: value for name, value in whole.state_dict().items() if name in model.state_dict()}
    model.load_state_dict(weights, strict=True)
    model.save_pretrained(home)


@pytest.mark.parametrize("save", [save_safetensors, save_shards, save_old_bin, save_vision_only])
def test_a_directory_of_transformers(
    save: Callable[[Path], None], tmp_path: Path, transformers_features: torch.Tensor
) -> None:
    save(tmp_path)
    assert difference(encode(tmp_path), transformers_features) < 1e-5


def test_half_precision_is_widened(tmp_path: Path, transformers_features: torch.Tensor) -> None:
    clip_model().half().save_pretrained(tmp_path)
    tower = load_tower(SPEC, str(tmp_path))
    assert {value.dtype for value in tower.parameters()} == {torch.float32}
    assert 1e-7 < difference(encode(tmp_path), transformers_features) < 1e-2


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"hidden_act": "gelu"}, "activation gelu, expected quick_gelu"),
        ({"hidden_size": 64}, "width 64, expected 32"),
        ({"patch_size": 7, "image_size": 14}, "image_size 14, and pictures are made of 28 pixels"),
    ],
)
def test_another_model(change: dict[str, Any], expected: str, tmp_path: Path) -> None:
    clip_model(**change).save_pretrained(tmp_path)
    line = fault(tmp_path)
    assert expected in line and str(tmp_path) in line and "TINY" in line


@pytest.mark.parametrize("content", ["", "[]", "[" * 100_000, '{"vision_config": 3}', "\udcff"])
def test_a_configuration_that_is_none(content: str, tmp_path: Path) -> None:
    save_safetensors(tmp_path)
    (tmp_path / "config.json").write_text(content, errors="surrogateescape")
    assert "config.json" in fault(tmp_path)


def test_open_clips_own_modules_do_not_read_transformers_layout(tmp_path: Path) -> None:
    save_safetensors(tmp_path)
    spec = replace(SPEC, name="open_clip:ViT-S-32-alt", model="ViT-S-32-alt", tag=None, tower=None)
    assert "named as in transformers" in fault(tmp_path, spec)


# open_clip's layout


def open_clip_state() -> dict[str, torch.Tensor]:
    """A whole model's state: the image tower under `visual.`, the text tower around it."""
    text = {"positional_embedding": torch.zeros(77, 16), "transformer.resblocks.0.ln_1.weight": torch.ones(16)}
    return {**text, "logit_scale": torch.ones(()), **{f"visual.{name}": value for name, value in state().items()}}


def of_training(weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    training = {f"module._orig_mod.{key}": value for key, value in weights.items()}
    return {"epoch": 3, "name": "run", "state_dict": training, "optimizer": {"lr": 0.1}}


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("clip.pt", open_clip_state()),
        ("clip.bin", of_training(open_clip_state())),
        ("clip.safetensors", open_clip_state()),
        ("visual.pt", {name: torch.nn.Parameter(value) for name, value in state().items()}),
    ],
    ids=["torch", "training", "safetensors", "image tower"],
)
def test_a_state_dict_of_open_clip(name: str, weights: dict[str, Any], tmp_path: Path) -> None:
    (save_file if name.endswith(".safetensors") else torch.save)(weights, tmp_path / name)
    features = load_tower(SPEC, str(tmp_path / name))(images())
    assert not features.requires_grad
    assert difference(features, reference(state(), images())) < 1e-5


def test_a_directory_of_open_clip_says_its_activation(tmp_path: Path) -> None:
    save_file(open_clip_state(), tmp_path / "open_clip_model.safetensors")
    config = tmp_path / "open_clip_config.json"
    config.write_text(json.dumps({"model_cfg": {"quick_gelu": True}}))
    encode(tmp_path)
    config.write_text(json.dumps({"model_cfg": {"embed_dim": 24}}))
    assert "quick_gelu False, expected True" in fault(tmp_path)
    config.write_text(json.dumps({"model_cfg": []}))
    assert "open_clip_config.json cannot be read" in fault(tmp_path)


def test_features_do_not_change_with_a_file_that_changes_later(tmp_path: Path) -> None:
    file = tmp_path / "clip.safetensors"
    save_file(open_clip_state(), file)
    tower = load_tower(SPEC, str(file))
    with file.open("r+b") as stream:
        stream.seek(file.stat().st_size // 2)
        stream.write(b"\xff" * (file.stat().st_size // 2))
    assert difference(tower(images()), reference(state(), images())) < 1e-5


def test_whole_numbers_and_scalars_keep_their_kind(tmp_path: Path) -> None:
    saved = {"visual.bn.num_batches_tracked": torch.tensor(3), "visual.scale": torch.tensor(0.5, dtype=torch.float16)}
    torch.save(saved, tmp_path / "bn.pt")
    expected = {name.removeprefix("visual."): value for name, value in saved.items()}
    weights = locate(SPEC, str(tmp_path / "bn.pt"))
    read = load_state(SPEC, weights, expected, quick_gelu=True)
    assert read == {"bn.num_batches_tracked": torch.tensor(3), "scale": torch.tensor(0.5)}
    assert [value.dtype for value in read.values()] == [torch.int64, torch.float32]


LAST = "visual.transformer.resblocks.2.mlp.c_proj.weight"
DEEPER = "visual.transformer.resblocks.3.ln_1.weight"
NORM = "visual.ln_pre.weight"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        (LAST, None, f"1 of 44 parameters missing (such as {LAST})"),
        (DEEPER, torch.ones(32), f"1 parameter more than expected (such as {DEEPER})"),
        ("visual.proj", torch.zeros(24, 32), "visual.proj is [24, 32], expected [32, 24]"),
        (NORM, torch.ones(32, dtype=torch.int8), NORM),
        (NORM, torch.ones(32, dtype=torch.complex64), NORM),
        (NORM, torch.ones(32).to_sparse(), NORM),
        (NORM, torch.full((32,), float("nan")), NORM),
        (NORM, torch.full((32,), float("inf")), NORM),
        (NORM, "a word", NORM),
    ],
    ids=["missing", "deeper", "shape", "int8", "complex", "sparse", "nan", "inf", "word"],
)
@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_what_differs_or_is_no_number_is_named(name: str, value: object, expected: str, tmp_path: Path) -> None:
    weights: dict[str, Any] = {**open_clip_state(), name: value}
    if value is None:
        del weights[name]
    torch.save(weights, tmp_path / "clip.pt")
    assert expected in fault(tmp_path / "clip.pt")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (torch.ones(3), "expected a state dict"),
        (None, "expected a state dict"),
        ({}, "no image tower found"),
        ({"state_dict": {}}, "no image tower found"),
        ({3: torch.ones(3)}, "no image tower found"),
        ({"x" * 5000: torch.ones(1)}, "no image tower found"),
    ],
    ids=["tensor", "none", "empty", "nested", "numbered", "long"],
)
def test_a_file_of_something_else(value: object, told: str, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "clip.pt")
    assert told in fault(tmp_path / "clip.pt")


class Made:
    def __init__(self, call: Callable[..., object], *arguments: object) -> None:
        self.call = call, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_not_run(zipped: bool, tmp_path: Path) -> None:
    weights = {**open_clip_state(), "visual.proj": Made(os.system, f"touch {tmp_path / 'ran'}")}
    torch.save(weights, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    assert "pytorch_model.bin cannot be read" in fault(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.filterwarnings("ignore:.*is deprecated")
def test_a_torch_script_archive_is_a_program(tmp_path: Path) -> None:
    torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(tmp_path / "ViT-L-14.pt")  # type: ignore[no-untyped-call]
    assert "TorchScript archive" in fault(tmp_path / "ViT-L-14.pt")


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"<html>404</html>", b"\x80\x02.", b"\x80\x05" + b"(" * 10_000]
)
@pytest.mark.parametrize("name", ["clip.pt", "clip.safetensors"])
@pytest.mark.filterwarnings("error")
def test_files_that_are_no_weights(content: bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert f"{name} cannot be read" in fault(tmp_path / name)


MANY = list(range(10_000))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("value", "told"),
    [
        (Made(bytearray, 10**12), "holds more than tensors"),
        ([Made(set, MANY) for _ in range(500)], "more than 4,000,000 values"),
        ({Made(torch.Size, Made(list, MANY)): 1 for _ in range(500)}, "more than 4,000,000 values"),
    ],
    ids=["zeros", "sets", "nested"],
)
def test_a_pickle_that_becomes_more_than_it_is(value: object, told: str, zipped: bool, tmp_path: Path) -> None:
    torch.save({**open_clip_state(), "more": value}, tmp_path / "clip.pt", _use_new_zipfile_serialization=zipped)
    assert told in fault(tmp_path / "clip.pt")


def test_an_archive_is_mapped_and_holds_what_was_saved(tmp_path: Path) -> None:
    torch.save(open_clip_state(), tmp_path / "clip.pt")
    with zipfile.ZipFile(tmp_path / "clip.pt") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    whole = (tmp_path / "clip.pt").read_bytes()
    largest = max(files.values(), key=len)
    (tmp_path / "clip.pt").write_bytes(whole.replace(largest, bytes([largest[0] ^ 1]) + largest[1:]))
    assert "is damaged" in fault(tmp_path / "clip.pt")
    for kind, extra, told in ((8, 0, "is compressed"), (0, 17 << 20, "clip/extra of 17,825,792 bytes")):
        with zipfile.ZipFile(tmp_path / "clip.pt", "w", kind) as archive:
            for name, data in {**files, "clip/extra": bytes(extra)}.items():
                archive.writestr(name, data)
        assert told in fault(tmp_path / "clip.pt")
    (tmp_path / "clip.pt").write_bytes(b"")
    os.truncate(tmp_path / "clip.pt", 4 << 30)
    assert "in torch's old format, expected at most 3,221,225,472" in fault(tmp_path / "clip.pt")


OLD = partial(torch.save, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(("name", "save"), [("clip.pt", torch.save), ("old.pt", OLD), ("clip.safetensors", save_file)])
@pytest.mark.parametrize("part", [0.1, 0.99])
def test_a_file_cut_short(name: str, save: Callable[..., None], part: float, tmp_path: Path) -> None:
    file = tmp_path / name
    save(open_clip_state(), file)
    os.truncate(file, int(part * file.stat().st_size))
    assert f"{name} cannot be read: it is cut short" in fault(file)
