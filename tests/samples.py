"""Samples for the tests of the line's parts, and a run's settings for those of the whole."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gpupeak import ExtractConfig
from gpupeak.demo.corpus import DemoCorpus
from gpupeak.features import records
from gpupeak.types import FeatureBatch, FramePlan, Sample, SamplingRule

words = ExtractConfig.words
ENCODER = "open_clip:ViT-S-32-alt"  # the smallest image tower that open_clip names


def small(videos: Path, out: Path) -> ExtractConfig:
    """A run over videos of one's own that takes seconds."""
    return ExtractConfig(
        videos=videos,
        name="mine",
        output_root=out,
        sampling="uniform",
        encoder=ENCODER,
        weights="random:0",
        device="cpu",
        workers=1,
    )


def sample(directory: Path, name: str = "clip", n: int = 8, video: Path | None = None, **rule: Any) -> Sample:
    """A sample whose features go to `directory`, sampled uniformly unless told otherwise."""
    return Sample(
        "mine", name, video, (), SamplingRule(**{"method": "uniform", "n": n, **rule}), directory / f"{name}.npy"
    )


def plan(directory: Path, name: str = "clip", n: int = 8) -> FramePlan:
    """A plan of the first n frames of a video of 100."""
    return FramePlan(sample(directory, name, n), tuple(range(n)), 100, "h264")


def of_demo(corpus: DemoCorpus, out: Path | str, **changes: Any) -> ExtractConfig:
    """A run over the demo's corpus, on the CPU, by the smallest tower."""
    given: dict[str, Any] = {
        "datasets": corpus.datasets,
        "dataset_root": corpus.dataset_root,
        "mer_factory_output": corpus.mer_factory_output,
        "config_file": corpus.config_file,
        "output_root": out,
        "encoder": ENCODER,
        "weights": "random:0",
        "device": "cpu",
        "workers": 1,
    }
    return ExtractConfig(**given | changes)


def features(
    directory: Path, *names: str, n: int = 8, dim: int = 4, dtype: type[np.generic] = np.float32
) -> FeatureBatch:
    """A batch of distinct features, one sample a name."""
    rows = np.arange(len(names) * n * dim, dtype=dtype).reshape(-1, dim)
    spans = tuple((i * n, (i + 1) * n) for i in range(len(names)))
    return FeatureBatch(tuple(plan(directory, name, n) for name in names), rows, spans, ({},) * len(names))


def write_features(
    directory: Path, *names: str, shape: tuple[int, int] = (8, 768)
) -> dict[str, npt.NDArray[np.float32]]:
    """Write a file a name, as another tool does, of numbers that depend on the dataset; return what is in them."""
    directory.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(list(directory.parent.name.encode()))
    written = {name: draw.normal(size=shape).astype(np.float32) for name in names}
    for name, rows in written.items():
        np.save(directory / f"{name}.npy", rows)
    return written


def npz(path: Path, **pickles: bytes) -> Path:
    """An .npz whose arrays are zero-dimensional object arrays with these very pickles."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(117) + b"\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, pickled in pickles.items():
            archive.writestr(f"{key}.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + pickled)
    return path


def read_manifest(directory: Path) -> list[dict[str, Any]]:
    """What stands in a directory's manifests, those of shards that are not yet merged included."""
    return [json.loads(line.raw) for line in records.read_records(directory, strict=False).lines()]
