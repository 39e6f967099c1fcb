"""Encoders that are open_clip's own modules, what open_clip fetches, and the choice of a tower."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from tiny import SPEC, difference, empty_cache, images, open_clip_tower, reference, state

from gpupeak.encode.load import load_tower
from gpupeak.encode.openclip import OpenClipTower, load_open_clip
from gpupeak.encode.vit import VisionTower
from gpupeak.encode.weights.identity import identify, locate
from gpupeak.encoders import EncoderSpec, encoder_spec
from gpupeak.errors import WeightsError

pytestmark = pytest.mark.usefixtures("empty_cache")
__all__ = ["empty_cache"]

SMALL = "ViT-S-32-alt"  # the smallest image tower that open_clip names; it has no tags
PIXELS = images(2, 224)
QUICK_GELU = {
    "ViT-B-32-quickgelu": True,
    "ViT-L-14-336-quickgelu": True,
    "ViT-H-14-quickgelu": False,  # heads of another width
    "RN50-quickgelu": False,
}
"""Models with that activation, and whether this project's tower computes what they do."""


@pytest.fixture(scope="module")
def model() -> Any:
    """A whole model as open_clip makes it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return open_clip.create_model(SMALL).eval()


@torch.inference_mode()
def encode_image(model: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    values = ((PIXELS.float() / 255 - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2)
    return model.encode_image(values, normalize=False)  # type: ignore[no-any-return]


@torch.inference_mode()
def encode(name: str | EncoderSpec, weights: str | Path | None) -> torch.Tensor:
    spec = encoder_spec(name) if isinstance(name, str) else name
    tower = load_tower(spec, None if weights is None else str(weights))
    features = tower(PIXELS)
    assert features.shape == (2, spec.dim) and features.dtype == torch.float32
    return features  # type: ignore[no-any-return]


def fault(name: str | EncoderSpec, weights: str | Path | None) -> str:
    with pytest.raises(WeightsError) as caught:
        encode(name, weights)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_saved_model_encodes_as_open_clip_does(suffix: str, model: Any, tmp_path: Path) -> None:
    file = tmp_path / f"model{suffix}"
    save: Callable[..., None] = torch.save if suffix == ".pt" else save_file
    save(model.state_dict(), file)
    expected = encode_image(model, model.visual.image_mean, model.visual.image_std)
    assert difference(encode(f"open_clip:{SMALL}", file), expected) < 1e-5


def test_a_tower_that_returns_its_tokens_too() -> None:
    """As CoCa's does."""
    visual = open_clip_tower()
    visual.load_state_dict(state())
    visual.output_tokens = True
    tower = OpenClipTower(visual, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    with torch.inference_mode():
        assert difference(tower(images()), reference(state(), images())) < 1e-5


def test_random_weights_are_those_of_the_seed() -> None:
    first = encode(f"open_clip:{SMALL}", "random:3")
    assert torch.equal(encode(f"open_clip:{SMALL}", "random:3"), first)
    assert difference(encode(f"open_clip:{SMALL}", "random:4"), first) > 0.1
    assert 0.1 < float(first.std()) < 10


def test_a_tower_of_timm() -> None:
    spec = encoder_spec("open_clip:PE-Core-T-16-384")
    tower = load_tower(spec, "random:0")
    assert isinstance(tower, OpenClipTower)
    assert tower.pixel_scale.tolist() == pytest.approx([1 / 127.5] * 3)
    with torch.inference_mode():
        features = tower(images(2, spec.size))
    assert features.shape == (2, spec.dim)
    assert difference(features[:1], features[1:]) > 1e-2


def test_weights_of_another_model_are_refused(model: Any, tmp_path: Path) -> None:
    weights = model.state_dict()
    torch.save({**weights, "visual.proj": weights["visual.proj"].T}, tmp_path / "model.pt")
    assert "visual.proj is [256, 384], expected [384, 256]" in fault(f"open_clip:{SMALL}", tmp_path / "model.pt")
    del weights["visual.proj"]
    torch.save(weights, tmp_path / "model.pt")
    assert "missing (such as visual.proj)" in fault(f"open_clip:{SMALL}", tmp_path / "model.pt")


def test_a_tag_decides_activation_and_normalisation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: Any
) -> None:
    half = (0.5, 0.5, 0.5)
    pretrained = {"openai": {"mean": half, "std": half, "quick_gelu": True}}
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda model, tag: pretrained.get(tag, {}))
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda model: list(pretrained))
    quick = open_clip.create_model(SMALL, force_quick_gelu=True).eval()
    quick.load_state_dict(model.state_dict())
    torch.save(model.state_dict(), tmp_path / "model.pt")
    features = encode(f"open_clip:{SMALL}/openai", tmp_path / "model.pt")
    assert difference(features, encode_image(quick, half, half)) < 1e-5
    assert difference(features, encode_image(model, half, half)) > 1e-4
    assert "'other' is neither a file nor one of ViT-S-32-alt's tags (openai)" in fault(f"open_clip:{SMALL}", "other")


@pytest.mark.parametrize("name", sorted(QUICK_GELU))
def test_a_model_of_which_nothing_but_sizes_is_configured_is_this_projects_tower(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU; held against open_clip's module, all but the number of blocks as it is configured."""
    config = open_clip.get_model_config(name)
    layers = config["vision_cfg"]["layers"]
    config["vision_cfg"]["layers"] = [1] * len(layers) if isinstance(layers, list) else 2
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: config)
    spec, pixels = encoder_spec(f"open_clip:{name}"), images(2, encoder_spec(f"open_clip:{name}").size)
    tower = load_tower(spec, "random:0")
    assert isinstance(tower, VisionTower if QUICK_GELU[name] else OpenClipTower)
    theirs = load_open_clip(spec, locate(spec, "random:0"), "cpu", torch.float32, own_tower=False)
    assert isinstance(theirs, OpenClipTower)
    with torch.inference_mode():
        assert difference(tower(pixels), theirs(pixels)) < 1e-4


def test_this_projects_tower_needs_quick_gelu_and_clips_normalisation(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    half = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda model: ["tag"])
    for (mean, std), quick_gelu, tower in (
        (clip, True, VisionTower),
        (clip, False, OpenClipTower),
        (half, True, OpenClipTower),
    ):
        pretrained = {"mean": mean, "std": std, "quick_gelu": quick_gelu}
        monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda model, tag, found=pretrained: found)
        spec = encoder_spec(f"open_clip:{SMALL}/tag")
        assert isinstance(load_tower(spec, "random:0"), tower)
        # A GPU's line takes such a tower for ViT-L/14, whose sizes its graphs are made for.
        assert isinstance(load_tower(spec, "random:0", "meta"), OpenClipTower)


def test_tags_that_disagree_on_normalisation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: Any) -> None:
    ones, halves = (1.0, 1.0, 1.0), (0.5, 0.5, 0.5)
    pretrained = {"one": {"mean": ones, "std": halves}, "two": {"mean": halves, "std": halves}}
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda model, tag: pretrained.get(tag, {}))
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda model: list(pretrained))
    torch.save(model.state_dict(), tmp_path / "model.pt")
    assert f"open_clip:{SMALL}/TAG" in fault(f"open_clip:{SMALL}", tmp_path / "model.pt")
    features = encode(f"open_clip:{SMALL}/one", tmp_path / "model.pt")
    assert difference(features, encode_image(model, ones, halves)) < 1e-5
    encode(f"open_clip:{SMALL}", "random:0")
    pretrained["one"] = pretrained["two"]
    features = encode(f"open_clip:{SMALL}", tmp_path / "model.pt")
    assert difference(features, encode_image(model, halves, halves)) < 1e-5


# Fetching


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


def features_of_tiny() -> torch.Tensor:
    with torch.inference_mode():
        return load_tower(SPEC, None)(images())  # type: ignore[no-any-return]


def test_a_tag_is_fetched_once_and_known_from_then_on(hub: Hub) -> None:
    assert identify(SPEC, None).sha256 is None
    for _ in range(2):
        assert difference(features_of_tiny(), reference(state(), images())) < 1e-5
    assert hub.downloads == ["timm/vit_large_patch14_clip_224.openai/"]
    assert identify(SPEC, None).sha256 == identify(SPEC, str(hub.file)).sha256 is not None


def test_what_the_hubs_cache_holds_needs_no_network(hub: Hub) -> None:
    hub.cached, hub.online = True, False
    assert difference(features_of_tiny(), reference(state(), images())) < 1e-5
    assert hub.downloads == []


def test_without_network_one_line_says_what_to_pass(hub: Hub) -> None:
    hub.online = False
    with pytest.raises(WeightsError) as caught:
        features_of_tiny()
    line = str(caught.value)
    assert "openai of TINY cannot be fetched" in line and "Name or service not known" in line
    assert "pass an HF directory, a state dict file, or random:SEED instead" in line
    assert "\n" not in line


def test_a_tag_that_does_not_exist_is_not_asked_for(hub: Hub) -> None:
    line = fault(SPEC, "laion2b_s32b_b82k")  # a tag of ViT-L-14, whose activation is another
    assert "one of ViT-L-14-quickgelu's tags (openai, metaclip_400m" in line and hub.downloads == []


# The choice


def test_a_device_and_a_precision_are_passed_on() -> None:
    tower = load_tower(SPEC, "random:0", torch.device("cpu"), torch.bfloat16)
    assert isinstance(tower, VisionTower)
    assert {value.dtype for value in tower.parameters()} == {torch.bfloat16}
    other = load_tower(encoder_spec(f"open_clip:{SMALL}"), "random:0", "cpu", torch.bfloat16)
    assert isinstance(other, OpenClipTower)
    assert {value.dtype for value in other.parameters()} == {torch.bfloat16}
    whole = encode(f"open_clip:{SMALL}", "random:0")
    assert float(torch.cosine_similarity(other(PIXELS), whole, dim=1).min()) > 0.99


def test_both_towers_are_drawn_alike(tmp_path: Path) -> None:
    own = EncoderSpec("TINY", "TINY", SPEC.dim, SPEC.size, SPEC.model, tower=SPEC.tower)
    with torch.inference_mode():
        features = load_tower(own, "random:0")(images())
    assert difference(features, reference(state(0), images())) < 1e-5
