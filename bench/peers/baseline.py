"""How are these features extracted without gpupeak? One sample at a time, on the libraries that everybody has.

Written from the description of AffectGPT's emotion-peak extractor: a peak out of the action-unit file, eight frames
that decord squashes to 224x224, a picture of PIL's for each, CLIP's processor and model of transformers in float32,
`np.save`. Where there is no decord, PyAV decodes on from the first frame instead.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel
from transformers.utils import logging

from gpupeak.encoders import TowerShape
from gpupeak.sampling import emotion_peak

from .decoders import SIDE, Decode, Pixels, pyav_sequential

NO_TEXT = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
NO_TEXT |= {"vocab_size": 2, "bos_token_id": 0, "eos_token_id": 1}
"""A text tower of next to nothing: it is never asked."""


class Baseline:
    """Extracts one sample after another, on the GPU if there is one; `state` is named as in open_clip."""

    def __init__(self, shape: TowerShape, state: Mapping[str, torch.Tensor], decode: Decode) -> None:
        config = CLIPConfig(text_config=NO_TEXT, vision_config=vision_config(shape), projection_dim=shape.dim)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = loaded(CLIPModel, config, state).to(self._device)
        self._processor = CLIPImageProcessor()
        self._decode = decode

    def extract(self, video: Path, au_file: Path, target: Path) -> dict[str, float]:
        """Save the features of one sample; returns the seconds that each step took."""
        marks = [time.perf_counter()]
        indices = planned(au_file)
        marks.append(time.perf_counter())
        pictures = [Image.fromarray(picture) for picture in self._decode(video, indices)]
        marks.append(time.perf_counter())
        inputs = self._processor(images=pictures, return_tensors="pt").to(self._device)
        marks.append(time.perf_counter())
        with torch.no_grad():
            features = self._model.get_image_features(**inputs)
        features = getattr(features, "pooler_output", features).cpu().numpy()  # a tensor before transformers 5
        marks.append(time.perf_counter())
        np.save(target, features)
        marks.append(time.perf_counter())
        steps = ("plan", "decode", "process", "encode", "write")
        return {step: marks[at + 1] - marks[at] for at, step in enumerate(steps)}


def planned(au_file: Path) -> list[int]:
    """The frames to take, around the peak that MER-Factory's `au_info` names."""
    info = json.loads(au_file.read_text())["au_info"]
    peak = info["peak_frames"][0]
    before, after = peak["frames_before_peak"], peak["frames_after_peak"]
    return emotion_peak(peak["peak_index"], before, after, info["total_frames"])


def decoder() -> tuple[str, Decode]:
    """decord as AffectGPT calls it, with as many threads as it likes; PyAV where it cannot be imported."""
    try:
        import decord
    except (ImportError, OSError):
        return "PyAV, as there is no decord", pyav_sequential

    def decode(path: Path, indices: Sequence[int]) -> Pixels:
        reader = decord.VideoReader(str(path), ctx=decord.cpu(0), width=SIDE, height=SIDE)
        return reader.get_batch(list(indices)).asnumpy()  # type: ignore[no-any-return]

    return "decord", decode


def loaded(model: Any, config: Any, state: Mapping[str, torch.Tensor]) -> Any:
    """A model of transformers with an image tower's parameters, named as in open_clip; float32 on the CPU."""
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # else it goes on about the text tower
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    named = transformers_state(state)
    return model.from_pretrained(None, config=config, state_dict=named, attn_implementation="sdpa").eval()


def vision_config(shape: TowerShape) -> dict[str, Any]:
    """An image tower's sizes in transformers' words."""
    return {
        "hidden_size": shape.width,
        "intermediate_size": 4 * shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "image_size": shape.size,
        "patch_size": shape.patch,
        "projection_dim": shape.dim,
        "hidden_act": "quick_gelu",
    }


_NAMES = (
    ("transformer.resblocks", "encoder.layers"),
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("attn.out_proj", "self_attn.out_proj"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
    ("ln_pre", "pre_layrnorm"),  # their spelling
    ("ln_post", "post_layernorm"),
    ("conv1", "embeddings.patch_embedding"),
    ("class_embedding", "embeddings.class_embedding"),
    ("positional_embedding", "embeddings.position_embedding.weight"),
)


def transformers_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """An image tower's parameters under transformers' names, nearly all of them in the memory where they are."""
    renamed = {}
    for name, value in state.items():
        for old, new in _NAMES:
            name = name.replace(old, new)
        if name == "proj":
            renamed["visual_projection.weight"] = value.T.contiguous()
        elif ".attn.in_proj_" in name:
            home, kind = name.split("attn.in_proj_")
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                renamed[f"vision_model.{home}self_attn.{letter}_proj.{kind}"] = part
        else:
            renamed[f"vision_model.{name}"] = value
    return renamed
