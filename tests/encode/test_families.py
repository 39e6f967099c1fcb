"""DINOv2, SigLIP and CLIP towers of a Hugging Face directory against AffectGPT's own steps, which are transformers'."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from clips import write_clip
from PIL import Image
from samples import read_manifest, small
from tiny import DINO2_SHAPE, SHAPE, SIGLIP_SHAPE, SPEC, difference, images, model_of

import gpupeak
from gpupeak.decode import decode_frames
from gpupeak.encode.load import load_tower
from gpupeak.encode.vit import VisionTower
from gpupeak.encoders import ENCODERS, EncoderSpec, TowerShape, encoder_spec
from gpupeak.errors import ConfigError, WeightsError

WITHIN = 1e-4  # of the features' largest value, in float32
KINDS = {"clip": SHAPE, "dinov2": DINO2_SHAPE, "siglip": SIGLIP_SHAPE}


def save_model(home: Path, shape: TowerShape) -> Path:
    """A drawn model of transformers and its processor."""
    squares = {"height": shape.size, "width": shape.size}
    of: dict[str, Any] = {"size": {"shortest_edge": shape.resize}, "crop_size": squares, "resample": 3}
    processes: Any = transformers.CLIPImageProcessor
    if shape.family.kind == "dinov2":
        processes = transformers.BitImageProcessor
    elif shape.family.kind == "siglip":
        processes, of = transformers.SiglipImageProcessor, {"size": squares}
    model_of(shape).save_pretrained(home)
    processes(**of, image_mean=list(shape.mean), image_std=list(shape.std)).save_pretrained(home)
    return home


class Consumer:
    """AffectGPT's encoders, as their directories' `AutoModel` and `AutoImageProcessor` make them."""

    def __init__(self, home: Path) -> None:
        auto: Any = transformers
        self.model = auto.AutoModel.from_pretrained(home).eval()
        self.processor = auto.AutoImageProcessor.from_pretrained(home, backend="pil")

    def pixel_values(self, frames: Any) -> torch.Tensor:
        pictures = [Image.fromarray(np.asarray(frame)) for frame in frames]
        return self.processor(images=pictures, return_tensors="pt")["pixel_values"]  # type: ignore[no-any-return]

    @torch.inference_mode()
    def tokens(self, values: torch.Tensor) -> Any:
        vision = getattr(self.model, "vision_model", self.model)
        return vision(pixel_values=values, output_hidden_states=True)

    @torch.inference_mode()
    def features(self, values: torch.Tensor) -> torch.Tensor:
        if self.model.config.model_type == "clip":
            found = self.model.get_image_features(pixel_values=values)
            return getattr(found, "pooler_output", found)  # type: ignore[no-any-return]
        return self.tokens(values).hidden_states[-1].mean(1)  # type: ignore[no-any-return]


@pytest.fixture(scope="module", params=KINDS)
def home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / request.param, KINDS[request.param])


@torch.inference_mode()
def encode(spec: EncoderSpec, weights: str | Path | None = None) -> torch.Tensor:
    return load_tower(spec, None if weights is None else str(weights))(images())  # type: ignore[no-any-return]


def test_a_directory_says_what_it_holds_and_features_are_those_of_transformers(home: Path) -> None:
    consumer, spec = Consumer(home), encoder_spec(f"hf:{home}")
    assert spec.tower == KINDS[home.name] and (spec.dim, spec.size) == (spec.tower.dim, 224)
    assert (spec.directory, spec.home) == (f"hf_{home.name}", str(home))
    features = encode(spec)
    assert difference(features, consumer.features(consumer.pixel_values(images()))) < WITHIN
    assert difference(features[:1], features[1:]) > 0.1
    for named in ("CLIP_VIT_LARGE", "DINO2_LARGE", "SigLIP_SO"):  # of the directory's sizes
        spec = replace(ENCODERS[named], tower=replace(KINDS[home.name], size=56, resize=0))
        assert torch.equal(encode(spec, home), features)


@pytest.mark.parametrize("kind", ["dinov2", "siglip"])
def test_pooling_is_of_all_tokens_before_the_last_norm_and_of_nothing_else(kind: str, tmp_path: Path) -> None:
    consumer = Consumer(save_model(tmp_path, KINDS[kind]))
    found, features = consumer.tokens(consumer.pixel_values(images())), encode(encoder_spec(f"hf:{tmp_path}"))
    tokens = found.hidden_states[-1]
    for other in (found.last_hidden_state.mean(1), tokens.sum(1), tokens[:, 1:].mean(1), tokens[:, 0]):
        assert difference(other, features) > 0.01
    summed = replace(KINDS[kind], family=replace(KINDS[kind].family, pooling="sum"))
    tower: Any = load_tower(encoder_spec(f"hf:{tmp_path}"), None)
    tower.shape = summed
    with torch.inference_mode():
        assert difference(tower(images()), tokens.sum(1)) < WITHIN


def drawn() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Noise, edges from black to white, and both softened: where rounding and overshoot show."""
    source = np.random.default_rng(0)
    noise = source.integers(0, 256, (224, 224, 3), np.uint8)
    edges = np.kron(source.integers(0, 2, (28, 28, 3)), np.ones((8, 8, 1))).astype(np.uint8) * 255
    return np.stack([noise, edges, noise // 2 + edges // 2])


@pytest.mark.parametrize("resample", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("size", "resize"), [(224, 256), (384, 384), (98, 112)])
def test_pictures_are_the_processors_to_the_byte(size: int, resize: int, resample: str, tmp_path: Path) -> None:
    shape = replace(DINO2_SHAPE, size=size, resize=resize, resample=resample)
    save = transformers.BitImageProcessor(
        size={"shortest_edge": resize},
        crop_size={"height": size, "width": size},
        resample={"bicubic": 3, "bilinear": 2}[resample],
    )
    save.save_pretrained(tmp_path)
    auto: Any = transformers.AutoImageProcessor
    processor = auto.from_pretrained(tmp_path, backend="pil", do_normalize=False)
    wanted = processor(images=[Image.fromarray(each) for each in drawn()], return_tensors="pt")["pixel_values"]
    with torch.device("meta"):
        tower = VisionTower(replace(shape, layers=1))
    found = tower.resized(torch.from_numpy(drawn())).permute(0, 3, 1, 2)
    wanted = (255 * wanted).round()[:, :, : shape.covered, : shape.covered].byte()
    assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    ("file", "change", "told"),
    [
        ("config.json", {"model_type": "vit"}, "model_type vit, expected one of clip, dinov2, siglip"),
        ("config.json", {"use_swiglu_ffn": True}, "use_swiglu_ffn True, expected False"),
        ("config.json", {"hidden_act": "relu"}, "hidden_act relu"),
        ("config.json", {"num_attention_heads": 5}, "5 heads for 32"),
        ("config.json", {"num_hidden_layers": 1e9}, "num_hidden_layers is 1000000000.0, expected a whole number"),
        ("config.json", {"vision_config": 3}, "cannot be read: 'int' object is not iterable"),
        ("preprocessor_config.json", {"do_normalize": False}, "do_normalize False, expected True"),
        ("preprocessor_config.json", {"size": {"height": 36, "width": 48}}, "size is {'height': 36"),
        ("preprocessor_config.json", {"resample": 1}, "resample 1"),
        ("preprocessor_config.json", {"image_mean": [0.5]}, "image_mean (0.5,)"),
        ("preprocessor_config.json", None, "no file "),
        ("config.json", None, "no file "),
    ],
)
def test_a_directory_of_something_else(file: str, change: dict[str, Any] | None, told: str, tmp_path: Path) -> None:
    path = save_model(tmp_path, DINO2_SHAPE) / file
    path.unlink() if change is None else path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ConfigError) as caught:
        encoder_spec(f"hf:{tmp_path}")
    assert told in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}: ")


def test_another_family_or_picture_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path / "dino", DINO2_SHAPE)
    for tower, told in ((SIGLIP_SHAPE, "kind dinov2, expected siglip"), (replace(DINO2_SHAPE, heads=4), "heads 2")):
        with pytest.raises(WeightsError, match=told):
            encode(replace(SPEC, tower=tower), tmp_path / "dino")
    save_model(tmp_path / "siglip", replace(SIGLIP_SHAPE, trained=56))
    with pytest.raises(ConfigError, match="image_size 56, and pictures are made of 40 pixels"):
        encoder_spec(f"hf:{tmp_path / 'siglip'}")


def test_names_and_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "my model@3", DINO2_SHAPE)
    spec = encoder_spec("hf:my model@3/")
    assert spec == encoder_spec(f"hf:{tmp_path}/my model@3") and spec.directory == "hf_my_model_3"
    place = tmp_path / "out/mine/frame_hf_my_model_3_emotion_peak_8frms"
    place.mkdir(parents=True)
    np.save(place / "clip.npy", np.ones((8, 32), np.float32))
    assert gpupeak.load_features("out", "mine", "clip", "hf:my model@3").shape == (8, 32)
    for weights in (None, "openai"):
        with pytest.raises(WeightsError, match="an HF directory, a state dict file, or random:SEED"):
            load_tower(ENCODERS["DINO2_LARGE"], weights)


def test_encoders_are_those_that_affectgpt_reads() -> None:
    spec = encoder_spec("CLIP_VIT_LARGE")
    assert (spec.model, spec.tag) == ("ViT-L-14-quickgelu", "openai")
    assert {name: (spec.directory, spec.dim, spec.size) for name, spec in ENCODERS.items()} == {
        "CLIP_VIT_LARGE": ("CLIP_VIT_LARGE", 768, 224),
        "DINO2_LARGE": ("DINO2_LARGE", 1024, 224),
        "SigLIP_SO": ("SigLIP_SO", 1152, 224),
    }
    assert spec.tower == TowerShape(size=224, patch=14, width=1024, layers=24, heads=16, dim=768)


def test_an_open_clip_model_and_its_tag_however_it_is_spelt() -> None:
    spec = encoder_spec("open_clip:ViT-B-32/laion2B-s34B-b79K")
    assert spec.directory == "open_clip_ViT-B-32_laion2b_s34b_b79k"
    assert (spec.model, spec.tag, spec.dim, spec.size) == ("ViT-B-32", "laion2b_s34b_b79k", 512, 224)
    assert spec.tower is None
    spec = encoder_spec("open_clip:ViT-L-14-336")
    assert (spec.directory, spec.tag, spec.dim, spec.size) == ("open_clip_ViT-L-14-336", None, 768, 336)


def test_every_model_of_open_clip_has_a_spec_and_a_safe_directory() -> None:
    home = Path(str(find_spec("open_clip").origin)).parent / "model_configs"  # type: ignore[union-attr]
    models = [path.stem for path in home.glob("*.json")]
    assert len(models) > 100
    for model in models:
        spec = encoder_spec(f"open_clip:{model}")
        assert re.fullmatch(r"[A-Za-z0-9_.-]+", spec.directory)
        assert spec.dim >= 256 and spec.size >= 224


SMALLER = {"size": 224, "trained": 224, "resize": 224}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("name", "shape", "changes"),
    [
        ("DINO2_LARGE", ENCODERS["DINO2_LARGE"].tower, {}),
        ("SigLIP_SO", ENCODERS["SigLIP_SO"].tower, SMALLER),
        ("SigLIP_SO", ENCODERS["SigLIP_SO"].tower, {}),
        ("hf:", TowerShape(224, 32, 768, 12, 12, 512), {}),
    ],
    ids=["DINO2_LARGE", "SigLIP_SO of 224", "SigLIP_SO of 384", "CLIP ViT-B/32"],
)
def test_two_clips_are_encoded_as_affectgpt_does(name: str, shape: Any, changes: Any, tmp_path: Path) -> None:
    """At full size, with drawn weights: decoded, processed, encoded and pooled, from settings to files."""
    shape = replace(shape, **changes)
    home, videos, out = save_model(tmp_path / "model", shape), tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    clips = [write_clip(videos / f"clip_{seed}.mp4", frames=12, size=(320, 180), seed=seed) for seed in range(2)]
    encoder, weights = (f"hf:{home}", None) if name == "hf:" else (name, str(home))
    report = gpupeak.extract(replace(small(videos, out), encoder=encoder, weights=weights, n_frms=2))
    assert report.exit_code == 0
    consumer = Consumer(home)
    directory = encoder_spec(encoder).directory
    lines = {line["sample"]: line for line in read_manifest(out / f"mine/frame_{directory}_uniform_2frms")}
    for clip in clips:
        frames = decode_frames(str(clip), lines[clip.stem]["indices"])
        wanted = consumer.features(consumer.pixel_values(frames))
        found = torch.from_numpy(gpupeak.load_features(out, "mine", clip.stem, directory, "uniform", 2))
        assert difference(found, wanted) < WITHIN
        assert float((found - wanted).norm() / wanted.norm()) < 1e-3
