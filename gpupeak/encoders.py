"""Which encoder does a name mean, and what goes in and comes out of it? Answered without importing torch."""

from __future__ import annotations

import difflib
import importlib.util
import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpupeak.errors import ConfigError

_OPEN_CLIP, _HF = "open_clip:", "hf:"
_TAG = re.compile(r"[A-Za-z0-9_-]+")
FRAME = 224
"""The edge of the frames that AffectGPT gives every encoder, whatever its processor makes of them."""


@dataclass(frozen=True, slots=True)
class Family:
    """What the vision transformers of one kind, transformers' model_type, share.

    `class_token`: one ahead of the patches. `pre_norm`: a LayerNorm ahead of the blocks, where others have a bias of
    the patches. `layer_scale`: gains of what each block adds. `activation`: transformers' word. `pooling`: "class", its
    token projected after the last LayerNorm; or "mean" or "sum" of all tokens before it.
    """

    kind: str
    class_token: bool
    pre_norm: bool
    layer_scale: bool
    activation: str
    eps: float
    pooling: str


CLIP = Family("clip", True, True, False, "quick_gelu", 1e-5, "class")
DINO2 = Family("dinov2", True, False, True, "gelu", 1e-6, "mean")
SIGLIP = Family("siglip", False, False, False, "gelu_pytorch_tanh", 1e-6, "mean")


@dataclass(frozen=True, slots=True)
class TowerShape:
    """The sizes of a vision transformer: `size` and `patch` in pixels, `dim` features out.

    `hidden` is the width inside of a block, four times `width` unless given. Positions were learnt for pictures of
    `trained` pixels, `size` unless given. Frames are resized to `resize` pixels, `size` unless given, of which `size`
    are cut from the middle; from those in 0 .. 1 `mean` is subtracted, then they are divided by `std`.
    """

    size: int
    patch: int
    width: int
    layers: int
    heads: int
    dim: int
    hidden: int = 0
    family: Family = CLIP
    trained: int = 0
    resize: int = 0
    resample: str = "bicubic"
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)

    def __post_init__(self) -> None:
        for name, default in (("hidden", 4 * self.width), ("trained", self.size), ("resize", self.size)):
            object.__setattr__(self, name, getattr(self, name) or default)

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.size // self.patch

    @property
    def covered(self) -> int:
        """The edge of what the patches cover: 378 of 384 pixels, those at the right and the bottom are left over."""
        return self.grid * self.patch


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """An image encoder by name: uint8 RGB `[N, size, size, 3]` in, float32 `[N, dim]` out.

    `directory` stands for the encoder in `frame_<directory>_...`; `model` and `tag`, the pretrained weights used when
    none are named, are open_clip's names, `home` a directory used so; `tower` is a tower of this project's own.
    """

    name: str
    directory: str
    dim: int
    size: int
    model: str = ""
    tag: str | None = None
    tower: TowerShape | None = None
    home: str | None = None


def _named(name: str, tower: TowerShape, model: str = "", tag: str | None = None) -> EncoderSpec:
    return EncoderSpec(name, name, tower.dim, FRAME, model, tag, tower)


_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALVES = (0.5, 0.5, 0.5)
ENCODERS = {
    spec.name: spec
    for spec in (
        # "ViT-L-14" alone builds a plain GELU, whatever weights it is given.
        _named("CLIP_VIT_LARGE", TowerShape(224, 14, 1024, 24, 16, 768), "ViT-L-14-quickgelu", "openai"),
        _named("DINO2_LARGE", TowerShape(224, 14, 1024, 24, 16, 1024, 4096, DINO2, 518, 256, "bicubic", *_IMAGENET)),
        # Of 384 pixels; weights for 224 say so in their directory's config.json.
        _named("SigLIP_SO", TowerShape(384, 14, 1152, 27, 16, 1152, 4304, SIGLIP, mean=_HALVES, std=_HALVES)),
    )
}
"""AffectGPT's names, by themselves; each is also that of its directory."""
CLIP_VIT_LARGE = ENCODERS["CLIP_VIT_LARGE"]


def encoder_spec(name: str) -> EncoderSpec:
    """The encoder that `name` means: one of `ENCODERS`, `hf:<directory>` or `open_clip:<model>[/<tag>]`.

    Raises ConfigError.
    """
    if name in ENCODERS:
        return ENCODERS[name]
    if name == "EVA_CLIP_G":
        raise ConfigError(
            f"--visual-encoder is {name!r}: not supported, its features come out of AffectGPT's own Q-Former"
        )
    if name.startswith(_HF):
        home = Path(os.path.abspath(os.path.expanduser(name.removeprefix(_HF))))  # noqa: PTH100, PTH111 - as one text
        tower = hf_tower(home)
        directory = f"hf_{re.sub('[^A-Za-z0-9_.-]+', '_', home.name)}"
        return EncoderSpec(f"{_HF}{home}", directory, tower.dim, FRAME, tower=tower, home=str(home))
    if not name.startswith(_OPEN_CLIP):
        expected = f"{', '.join(ENCODERS)}, {_HF}<directory> or {_OPEN_CLIP}<model>[/<tag>]"
        raise ConfigError(f"--visual-encoder is {name!r}, expected {expected}")
    model, slash, tag = name.removeprefix(_OPEN_CLIP).partition("/")
    configs = _open_clip_configs()
    if model not in configs:
        # Whoever writes ViT-B/32 means a model, not a tag.
        close = difflib.get_close_matches(f"{model}-{tag}" if tag else model, configs, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else f"expected one of its {len(configs)} models"
        raise ConfigError(f"--visual-encoder is {name!r}: open_clip has no model {model!r}; {hint}")
    clean = pretrained_tag(tag)
    if slash and clean is None:
        raise ConfigError(f"--visual-encoder is {name!r}: {tag!r} cannot be a pretrained tag of open_clip")
    config = json.loads(configs[model].read_text(encoding="utf-8"))
    size = config["vision_cfg"].get("image_size", 224)
    size = size[0] if isinstance(size, list) else size  # squares, all of them
    directory = f"open_clip_{model}_{clean}" if clean else f"open_clip_{model}"
    return EncoderSpec(name, directory, config["embed_dim"], size, model, clean)


def pretrained_tag(text: str) -> str | None:
    """`text` as open_clip spells a pretrained tag, to which case and hyphens are the same; None if it cannot be one."""
    return text.lower().replace("-", "_") if _TAG.fullmatch(text) else None


def has_weights(tag: str) -> bool:
    """Whether open_clip has weights by this tag, of whatever model: a mistyped file is no tag."""
    text = (_open_clip_home() / "pretrained.py").read_text(encoding="utf-8")
    return re.search(rf'\b{tag}"?\s*[=:]\s*_\w*cfg\(', text) is not None


def _open_clip_configs() -> dict[str, Path]:
    """open_clip's models, by name, from its files: importing it takes seconds and all of torch."""
    return {path.stem: path for path in sorted((_open_clip_home() / "model_configs").glob("*.json"))}


def _open_clip_home() -> Path:
    package = importlib.util.find_spec("open_clip")
    assert package is not None and package.origin is not None  # gpupeak depends on it
    return Path(package.origin).parent


_CONFIG_BYTES = 1 << 20
_LARGEST = 1 << 14  # of any size that a configuration names
_ACTIVATIONS = ("quick_gelu", "gelu", "gelu_pytorch_tanh")
_RESAMPLE = {2: "bilinear", 3: "bicubic"}  # as PIL numbers them
_FAMILIES: dict[str, tuple[Family, dict[str, Any]]] = {
    "clip": (CLIP, {"intermediate_size": 3072, "patch_size": 32, "projection_dim": 512}),
    "dinov2": (DINO2, {"mlp_ratio": 4, "patch_size": 14}),
    "siglip": (SIGLIP, {"intermediate_size": 3072, "patch_size": 16}),
}
"""With what transformers takes where config.json is silent, beside what is the same for all of them."""
_SILENT = {"image_size": 224, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
_ALWAYS = {"num_channels": 3, "qkv_bias": True, "use_swiglu_ffn": False}
_PROCESSED = {"do_resize": True, "do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255}


def hf_tower(home: Path, named: TowerShape | None = None) -> TowerShape:
    """The tower in a Hugging Face directory, by its config.json and, for pictures, its preprocessor_config.json.

    Of CLIP the projected image embedding, of DINOv2 and SigLIP the mean of the last block's tokens, as in AffectGPT.
    Where the second file is not there, pictures are as for the tower `named`. Raises ConfigError.
    """
    pictures = home / "preprocessor_config.json"
    try:
        shape = _configured(_read_json(home / "config.json"))
        if named is None or pictures.exists():
            shape = _processed(shape, _read_json(pictures))
        else:
            kept = ("size", "resize", "resample", "mean", "std")
            shape = replace(shape, **{name: getattr(named, name) for name in kept})
        if shape.size != shape.trained and shape.family.kind != "dinov2":  # which alone interpolates positions
            raise ConfigError(
                f"config.json says image_size {shape.trained}, and pictures are made of {shape.size} pixels"
            )
    except ConfigError as error:
        raise ConfigError(f"{home}: {error}") from error
    except (AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError) as error:
        raise ConfigError(f"{home}: config.json or {pictures.name} cannot be read: {str(error)[:200]}") from error
    return shape


def _configured(config: dict[str, Any]) -> TowerShape:
    kind = str(config["model_type"]).removesuffix("_vision_model")
    if kind not in _FAMILIES:
        raise ConfigError(f"config.json says model_type {kind[:60]}, expected one of {', '.join(_FAMILIES)}")
    family, silent = _FAMILIES[kind]
    vision: dict[str, Any] = {"hidden_act": family.activation, "layer_norm_eps": family.eps, **_SILENT, **silent}
    vision |= config.get("vision_config", config)
    vision["projection_dim"] = config.get("projection_dim", vision.get("projection_dim"))
    _expect("config.json", vision, _ALWAYS)
    names = ("image_size", "patch_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
    trained, patch, width, layers, heads = (_whole(name, vision[name]) for name in names)
    dim = _whole("projection_dim", vision["projection_dim"]) if family.pooling == "class" else width
    if "mlp_ratio" in silent:
        hidden = _whole("mlp_ratio", vision["mlp_ratio"]) * width
    else:
        hidden = _whole("intermediate_size", vision["intermediate_size"])
    activation = vision["hidden_act"]
    if activation not in _ACTIVATIONS or width % heads or patch > trained:
        told = f"hidden_act {activation}, {heads} heads for {width}, patches of {patch} pixels in {trained}"
        raise ConfigError(f"config.json says {told[:200]}, expected one of {', '.join(_ACTIVATIONS)}, and what divides")
    family = replace(family, activation=activation, eps=float(vision["layer_norm_eps"]))
    return TowerShape(trained, patch, width, layers, heads, dim, hidden, family, trained)


def _processed(shape: TowerShape, config: dict[str, Any]) -> TowerShape:
    _expect("preprocessor_config.json", config, _PROCESSED)
    resize = size = _edge("size", config["size"])
    if config.get("do_center_crop", "crop_size" in config):
        size = _edge("crop_size", config["crop_size"])
    mean, std = (tuple(map(float, config[name])) for name in ("image_mean", "image_std"))
    resample = _RESAMPLE.get(config.get("resample", 3))
    if resample is None or size > resize or not len(mean) == len(std) == 3 or 0 in std:
        told = f"resample {config.get('resample')}, size {resize}, crop_size {size}, image_mean {mean}, image_std {std}"
        raise ConfigError(f"preprocessor_config.json says {told[:200]}: not 2 or 3, nor cut out of it, nor three each")
    return replace(shape, size=size, resize=resize, resample=resample, mean=mean, std=std)


def _edge(name: str, value: Any) -> int:
    """224, {"height": 224, "width": 224} and {"shortest_edge": 224} are the same for a square."""
    edges = set(value.values()) - {None} if isinstance(value, dict) else {value}
    return _whole(name, edges.pop() if len(edges) == 1 else value)


def _whole(name: str, value: Any) -> int:
    if type(value) is not int or not 1 <= value <= _LARGEST:
        raise ConfigError(f"{name} is {str(value)[:60]}, expected a whole number from 1 to {_LARGEST}")
    return value


def _expect(file: str, found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, value in expected.items():
        if name in found and found[name] != value:
            raise ConfigError(f"{file} says {name} {str(found[name])[:60]}, expected {value}")


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():  # nor is a pipe waited for
        raise OSError(f"no file {file}")
    with file.open(encoding="utf-8") as stream:
        found: dict[str, Any] = json.loads(stream.read(_CONFIG_BYTES))
    return found
