"""gpupeak: emotion-peak CLIP features for AffectGPT, extracted once and loaded as `.npy`.

    import gpupeak
    report = gpupeak.extract(gpupeak.ExtractConfig(datasets=("mer2023",), dataset_root=root, mer_factory_output=aus))
    features = gpupeak.load_features("preextracted_features", "mer2023", "sample_00001998")

Importing the package costs nothing: names are resolved when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gpupeak._version import __version__

if TYPE_CHECKING:
    from gpupeak.config import ExtractConfig
    from gpupeak.features.npy import load_features
    from gpupeak.features.packs import FeatureStore
    from gpupeak.run import extract
    from gpupeak.tally import RunReport

__all__ = ["ExtractConfig", "FeatureStore", "RunReport", "__version__", "extract", "load_features"]

_HOMES = {
    "ExtractConfig": "gpupeak.config",
    "FeatureStore": "gpupeak.features.packs",
    "RunReport": "gpupeak.tally",
    "extract": "gpupeak.run",
    "load_features": "gpupeak.features.npy",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gpupeak' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
