"""Encoders that are open_clip's own modules, and what open_clip fetches."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip
import pytest
import torch
from gpu_encode import open_clip_tower
from safetensors.torch import save_file
from tiny import SHAPE, SPEC, difference, images, reference, state

from gpupeak.encode.load import load_tower
from gpupeak.encode.openclip import OpenClipTower
from gpupeak.encode.vit import VisionTower
from gpupeak.encode.weights.identity import identify
from gpupeak.encoders import EncoderSpec, encoder_spec
from gpupeak.errors import WeightsError

CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 28, "patch_size": 14, "width": 64, "layers": 2, "head_width": 32},
    "text_cfg": {"context_length": 4, "vocab_size": 11, "width": 16, "heads": 2, "layers": 1},
}
SMALL = EncoderSpec("open_clip:small", "open_clip_small", 24, 28, "small")
"""Such a model; open_clip knows no tags of it."""
PIXELS = images(2, 28)
ONES, HALVES = (1.0, 1.0, 1.0), (0.5, 0.5, 0.5)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A whole model as open_clip makes it."""
    config = tmp_path_factory.mktemp("configs") / "small.json"
    config.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(config)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return open_clip.create_model("small").eval()


@pytest.fixture
def tags(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The tags that open_clip knows of every model, and what it knows of them."""
    known: dict[str, Any] = {}
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda model, tag: known.get(tag, {}))
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda model: list(known))
    return known


@torch.inference_mode()
def encode_image(model: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    values = ((PIXELS.float() / 255 - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2)
    return model.encode_image(values, normalize=False)  # type: ignore[no-any-return]


@torch.inference_mode()
def encode(spec: EncoderSpec, weights: str | Path | None) -> torch.Tensor:
    features = load_tower(spec, None if weights is None else str(weights))(PIXELS)
    assert features.shape == (2, spec.dim) and features.dtype == torch.float32
    return features  # type: ignore[no-any-return]


def fault(spec: EncoderSpec, weights: str | Path | None) -> str:
    with pytest.raises(WeightsError) as caught:
        encode(spec, weights)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_saved_model_encodes_as_open_clip_does(suffix: str, model: Any, tmp_path: Path) -> None:
    file = tmp_path / f"model{suffix}"
    save: Callable[..., None] = torch.save if suffix == ".pt" else save_file
    save(model.state_dict(), file)
    expected = encode_image(model, model.visual.image_mean, model.visual.image_std)
    assert difference(encode(SMALL, file), expected) < 1e-5


def test_a_tower_that_returns_its_tokens_too() -> None:
    """As CoCa's does."""
    visual: Any = open_clip_tower(SHAPE)
    visual.load_state_dict(state(), assign=True)
    visual.output_tokens = True
    tower = OpenClipTower(visual, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    with torch.inference_mode():
        assert difference(tower(images()), reference(state(), images())) < 1e-5


@pytest.mark.parametrize("name", ["PE-Core-T-16-384", "RN50-quickgelu"])
def test_a_tower_that_is_no_plain_transformer(name: str) -> None:
    """One of timm's, and a ResNet: by what open_clip itself configures."""
    spec = encoder_spec(f"open_clip:{name}")
    tower = load_tower(spec, "random:0")
    assert isinstance(tower, OpenClipTower)
    mean = HALVES if "PE" in name else open_clip.OPENAI_DATASET_MEAN
    torch.testing.assert_close(-tower.pixel_shift / tower.pixel_scale / 255, torch.tensor(mean))
    with torch.inference_mode():
        features = tower(images(2, spec.size))
    assert features.shape == (2, spec.dim)
    assert difference(features[:1], features[1:]) > 1e-2


def test_a_tag_decides_activation_and_normalisation(tags: dict[str, Any], tmp_path: Path, model: Any) -> None:
    tags["openai"] = {"mean": HALVES, "std": HALVES, "quick_gelu": True}
    quick = open_clip.create_model("small", force_quick_gelu=True).eval()
    quick.load_state_dict(model.state_dict())
    torch.save(model.state_dict(), tmp_path / "model.pt")
    features = encode(replace(SMALL, tag="openai"), tmp_path / "model.pt")
    assert difference(features, encode_image(quick, HALVES, HALVES)) < 1e-5
    assert difference(features, encode_image(model, HALVES, HALVES)) > 1e-4
    assert "'laion400m_e31' is neither a file nor one of small's tags (openai)" in fault(SMALL, "laion400m_e31")


def test_tags_that_disagree_on_normalisation(tags: dict[str, Any], tmp_path: Path, model: Any) -> None:
    tags |= {"one": {"mean": ONES, "std": HALVES}, "two": {"mean": HALVES, "std": HALVES}}
    torch.save(model.state_dict(), tmp_path / "model.pt")
    assert "open_clip:small/TAG" in fault(SMALL, tmp_path / "model.pt")
    features = encode(replace(SMALL, tag="one"), tmp_path / "model.pt")
    assert difference(features, encode_image(model, ONES, HALVES)) < 1e-5
    encode(SMALL, "random:0")
    tags["one"] = tags["two"]
    assert difference(encode(SMALL, tmp_path / "model.pt"), encode_image(model, HALVES, HALVES)) < 1e-5


class Hub:
    """The Hugging Face hub, as far as it is asked; it holds `file`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
        self.file, self.cached, self.online = file, False, True
        self.downloads: list[str] = []
        monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", self._from_cache)
        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", self._model_info)
        monkeypatch.setattr(open_clip, "download_pretrained", self._download)

    def _from_cache(self, repository: str, name: str) -> str | None:
        return str(self.file) if self.cached and name == self.file.name else None

    def _model_info(self, repository: str, **options: Any) -> None:
        if not self.online:
            raise ConnectionError("[Errno -2] Name or service not known\n(and more)")

    def _download(self, pretrained: dict[str, Any]) -> str:
        self.downloads.append(pretrained["hf_hub"])
        return str(self.file)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    file = tmp_path / "open_clip_model.safetensors"
    save_file({f"visual.{name}": value for name, value in state().items()}, file)
    return Hub(monkeypatch, file)


def test_a_tag_is_fetched_once_and_known_from_then_on(hub: Hub) -> None:
    assert identify(SPEC, None).sha256 is None
    for _ in range(2):
        assert difference(encode(SPEC, None), reference(state(), PIXELS)) < 1e-5
    assert hub.downloads == ["timm/vit_large_patch14_clip_224.openai/"]
    assert identify(SPEC, None).sha256 == identify(SPEC, str(hub.file)).sha256 is not None


def test_what_the_hubs_cache_holds_needs_no_network(hub: Hub) -> None:
    hub.cached, hub.online = True, False
    assert difference(encode(SPEC, None), reference(state(), PIXELS)) < 1e-5
    assert hub.downloads == []


def test_without_network_one_line_says_what_to_pass(hub: Hub) -> None:
    hub.online = False
    line = fault(SPEC, None)
    assert "openai of TINY cannot be fetched" in line and "Name or service not known" in line
    assert line.endswith(" --local-dir DIR") and "docs/weights.md" in line
    assert "pass an HF directory, a state dict file, or random:SEED instead" in line


def test_a_tag_that_does_not_exist_is_not_asked_for(hub: Hub) -> None:
    line = fault(SPEC, "laion2b_s32b_b82k")  # a tag of ViT-L-14, whose activation is another
    assert "one of ViT-L-14-quickgelu's tags (openai, metaclip_400m" in line and hub.downloads == []


@pytest.mark.parametrize(("spec", "kind"), [(SPEC, VisionTower), (SMALL, OpenClipTower)], ids=["own", "open_clip"])
@pytest.mark.usefixtures("model")
def test_a_device_and_a_precision_are_passed_on(spec: EncoderSpec, kind: type) -> None:
    tower = load_tower(spec, "random:0", torch.device("cpu"), torch.bfloat16)
    assert isinstance(tower, kind)
    assert {value.dtype for value in tower.parameters()} == {torch.bfloat16}
    assert float(torch.cosine_similarity(tower(PIXELS), encode(spec, "random:0"), dim=1).min()) > 0.99


def test_random_weights_are_the_same_for_both_towers() -> None:
    assert difference(encode(SPEC, "random:0"), reference(state(0), PIXELS)) < 1e-5
