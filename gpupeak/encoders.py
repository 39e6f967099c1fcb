"""Which encoder does a name mean, and what goes in and comes out of it? Answered without importing torch."""

from __future__ import annotations

import difflib
import importlib.util
import json
import re
from dataclasses import dataclass
from pathlib import Path

from gpupeak.errors import ConfigError

_PREFIX = "open_clip:"
_TAG = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class TowerShape:
    """The sizes of a CLIP vision transformer: `size` and `patch` in pixels, `dim` features out.

    The hidden layer of every block is four times `width`; every activation is QuickGELU.
    """

    size: int
    patch: int
    width: int
    layers: int
    heads: int
    dim: int

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.size // self.patch


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """An image encoder by name: uint8 RGB `[N, size, size, 3]` in, float32 `[N, dim]` out.

    `directory` stands for the encoder in `frame_<directory>_...`; `model` and `tag`, the pretrained weights used when
    none are named, are open_clip's names; `tower` has the sizes of a tower of this project's own.
    """

    name: str
    directory: str
    dim: int
    size: int
    model: str = ""
    tag: str | None = None
    tower: TowerShape | None = None


CLIP_VIT_LARGE = EncoderSpec(
    name="CLIP_VIT_LARGE",
    directory="CLIP_VIT_LARGE",
    dim=768,
    size=224,
    # "ViT-L-14" alone builds a plain GELU, whatever weights it is given.
    model="ViT-L-14-quickgelu",
    tag="openai",
    tower=TowerShape(size=224, patch=14, width=1024, layers=24, heads=16, dim=768),
)


def encoder_spec(name: str) -> EncoderSpec:
    """The encoder that `name` means: CLIP_VIT_LARGE, or `open_clip:<model>[/<tag>]`. Raises ConfigError."""
    if name == CLIP_VIT_LARGE.name:
        return CLIP_VIT_LARGE
    if not name.startswith(_PREFIX):
        raise ConfigError(f"encoder is {name!r}, expected {CLIP_VIT_LARGE.name} or {_PREFIX}<model>[/<tag>]")
    model, slash, tag = name.removeprefix(_PREFIX).partition("/")
    configs = _open_clip_configs()
    if model not in configs:
        # Whoever writes ViT-B/32 means a model, not a tag.
        close = difflib.get_close_matches(f"{model}-{tag}" if tag else model, configs, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else f"expected one of its {len(configs)} models"
        raise ConfigError(f"encoder is {name!r}: open_clip has no model {model!r}; {hint}")
    clean = pretrained_tag(tag)
    if slash and clean is None:
        raise ConfigError(f"encoder is {name!r}: {tag!r} cannot be a pretrained tag of open_clip")
    config = json.loads(configs[model].read_text(encoding="utf-8"))
    size = config["vision_cfg"].get("image_size", 224)
    size = size[0] if isinstance(size, list) else size  # squares, all of them
    directory = f"open_clip_{model}_{clean}" if clean else f"open_clip_{model}"
    return EncoderSpec(name, directory, config["embed_dim"], size, model, clean)


def pretrained_tag(text: str) -> str | None:
    """`text` as open_clip spells a pretrained tag, to which case and hyphens are the same; None if it cannot be one."""
    return text.lower().replace("-", "_") if _TAG.fullmatch(text) else None


def _open_clip_configs() -> dict[str, Path]:
    """open_clip's models, by name, from its files: importing it takes seconds and all of torch."""
    package = importlib.util.find_spec("open_clip")
    assert package is not None and package.origin is not None  # gpupeak depends on it
    return {path.stem: path for path in sorted((Path(package.origin).parent / "model_configs").glob("*.json"))}
