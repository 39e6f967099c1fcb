"""Names of encoders: what each means."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from gpupeak.encoders import ENCODERS, TowerShape, encoder_spec


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
