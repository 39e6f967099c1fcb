"""Where AffectGPT looks for features: the directory of a dataset's, and what stands for an encoder in its name."""

from __future__ import annotations

import re
from typing import TypeVar

from gpupeak.encoders import encoder_spec
from gpupeak.types import Place

_Root = TypeVar("_Root", bound=Place)


def feature_directory(root: _Root, dataset: str, encoder: str, sampling: str, n: int, stream: str = "frame") -> _Root:
    """The directory that AffectGPT builds; as there, a root that ends in the dataset is used as it is."""
    home = root if root.name == dataset else root / dataset
    name = f"frame_{encoder}_{sampling}_{n}frms" if stream == "frame" else f"face_{encoder}_{n}frms"
    return home / name  # type: ignore[return-value]  # of the root's own kind


def is_feature_directory(name: str) -> bool:
    return re.fullmatch(r"(?s)(frame|face)_.*_\d{1,9}frms", name) is not None


def encoder_directory(encoder: str) -> str:
    return encoder if ":" not in encoder else encoder_spec(encoder).directory
