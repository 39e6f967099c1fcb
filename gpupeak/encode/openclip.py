"""Every image encoder that open_clip names, and the weights that it fetches. Importing open_clip takes seconds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip
import torch
from torch import nn

from gpupeak.encode.weights import cache
from gpupeak.encode.weights.checkpoint import load_state
from gpupeak.encode.weights.identity import INSTEAD, WeightsId
from gpupeak.encoders import EncoderSpec
from gpupeak.errors import WeightsError

_HUB_SECONDS = 10.0
# A text tower of next to nothing: some would be configured over the network.
_NO_TEXT = {"vocab_size": 1, "context_length": 1, "width": 1, "heads": 1, "layers": 1}


class OpenClipTower(nn.Module):
    """uint8 RGB `[N, size, size, 3]` -> float32 `[N, dim]`: open_clip's `encode_image`, not normalised."""

    pixel_scale: torch.Tensor
    pixel_shift: torch.Tensor

    def __init__(
        self,
        visual: nn.Module,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.dtype = dtype
        self.visual = visual.to(device, dtype).requires_grad_(False).eval()
        scale = 1 / torch.tensor(std, device=device)
        self.register_buffer("pixel_scale", scale / 255)
        self.register_buffer("pixel_shift", -torch.tensor(mean, device=device) * scale)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        images = (pixels * self.pixel_scale + self.pixel_shift).permute(0, 3, 1, 2)
        features = self.visual(images.to(self.dtype).contiguous())
        embedding: torch.Tensor = features[0] if isinstance(features, tuple) else features  # CoCa: tokens, too
        return embedding.float()


def load_open_clip(
    spec: EncoderSpec, weights: WeightsId, device: torch.device | str, dtype: torch.dtype
) -> OpenClipTower:
    """Build the image tower of `spec.model` and load it, every parameter checked. Raises WeightsError."""
    tag = weights.tag or spec.tag
    pretrained = known_tag(spec, tag) if tag else {}
    config: dict[str, Any] = open_clip.get_model_config(spec.model)
    # open_clip only warns when a plain GELU is built for weights that were trained with QuickGELU.
    quick_gelu = bool(config.get("quick_gelu", False) or pretrained.get("quick_gelu", False))
    mean, std = _normalisation(spec, pretrained, weights)
    vision = {**config["vision_cfg"], "timm_model_pretrained": False}
    visual: nn.Module = open_clip.CustomTextCLIP(config["embed_dim"], vision, _NO_TEXT, quick_gelu=quick_gelu).visual
    state = load_state(spec, weights, visual.state_dict(), quick_gelu=quick_gelu)
    visual.load_state_dict(state, strict=True)
    return OpenClipTower(visual, mean, std, device=device, dtype=dtype)


def fetch(spec: EncoderSpec, weights: WeightsId) -> WeightsId:
    assert weights.tag is not None
    pretrained = known_tag(spec, weights.tag)
    file = _downloaded(pretrained)
    if file is None:
        repository = pretrained["hf_hub"].rpartition("/")[0]
        try:
            # Asked first, as a download without network is tried ten times, which takes 46 s.
            huggingface_hub.HfApi().model_info(repository, timeout=_HUB_SECONDS)
            file = Path(open_clip.download_pretrained(pretrained))
        except Exception as error:  # of whatever HTTP client the hub uses
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            raise WeightsError(
                f"weights {weights.tag} of {spec.name} cannot be fetched from the Hugging Face hub "
                f"({repository}: {reason}); pass {INSTEAD} instead, as docs/weights.md shows: "
                f"hf download {repository} --local-dir DIR"
            ) from error
    cache.remember_tag(spec.model, weights.tag, file)
    return dataclasses.replace(weights, files=(file,))


def _downloaded(pretrained: dict[str, Any]) -> Path | None:
    repository, _, name = pretrained["hf_hub"].rpartition("/")
    for each in (name,) if name else ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"):
        file = huggingface_hub.try_to_load_from_cache(repository, each)
        if isinstance(file, str):
            return Path(file)
    return None


def known_tag(spec: EncoderSpec, tag: str) -> dict[str, Any]:
    """What open_clip knows of a tag: where its file is, its normalisation, its activation. Raises WeightsError."""
    pretrained: dict[str, Any] = open_clip.get_pretrained_cfg(spec.model, tag)
    if not pretrained:
        tags = open_clip.list_pretrained_tags_by_model(spec.model)
        raise WeightsError(
            f"{tag!r} is neither a file nor one of {spec.model}'s tags ({', '.join(tags) or 'it has none'}); "
            f"pass one of them, or {INSTEAD}"
        )
    return pretrained


def _normalisation(
    spec: EncoderSpec, pretrained: dict[str, Any], weights: WeightsId
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation: the tag's, else those on which all the model's tags agree."""
    tags = open_clip.list_pretrained_tags_by_model(spec.model)
    known = [pretrained] if pretrained else [open_clip.get_pretrained_cfg(spec.model, tag) for tag in tags]
    choices = {(tuple(each["mean"]), tuple(each["std"])) for each in known}
    if len(choices) == 1:
        return choices.pop()
    if choices and weights.seed is None:
        raise WeightsError(f"the tags of {spec.model} differ in mean and std: say which yours is, {spec.name}/TAG")
    return open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
