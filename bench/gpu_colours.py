"""Has a decoder libav's colours? Films of greys and of many colours, and by how much each channel is off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gpu_corpus import CODING
from record import Row
from workload import encode

Pixels = npt.NDArray[np.uint8]

BOUND = 0.3  # of 255, for the mean of each channel; of DALI's decoder on the GPU, uncorrected, one is off by 1.1
FRAMES = 8
_SIZE, _PATCHES = (448, 448), 14  # whole blocks: the coded size is the shown one
_GRAIN = 3.0  # standard deviation: without a camera's noise, every pixel of a patch is rounded alike
FILMS = {  # and their matrix (ITU-T H.273), pixel format
    "grey": (None, "yuv420p"),
    "chart": (None, "yuv420p"),
    "chart-bt709": (1, "yuv420p"),
    "chart-full": (None, "yuvj420p"),
    "chart-full-bt709": (1, "yuvj420p"),
}


def write(directory: Path, codec: str = "h264") -> dict[str, Path]:
    """Write the films, of `FRAMES` frames each: flat greys, a chart of colours by either matrix; those of full range
    in H.264 only, as NVDEC is given no others."""
    encoder, suffix, options = CODING[codec]
    paths = {name: directory / f"{name}{suffix}" for name in FILMS if codec == "h264" or "full" not in name}
    for name, path in paths.items():
        matrix, pix_fmt = FILMS[name]
        encode(path, _pictures(name), encoder, options, size=_SIZE, fps=25, matrix=matrix, pix_fmt=pix_fmt)
    return paths


def judge(found: npt.ArrayLike, wanted: npt.ArrayLike) -> Row:
    """Frames of one film beside libav's of the same, both RGB `[FRAMES, size, size, 3]`: `ok` if no channel is off."""
    bias = (np.asarray(found, np.float64) - np.asarray(wanted, np.float64)).mean((0, 1, 2))
    says = "R {:+.2f}, G {:+.2f}, B {:+.2f} of 255 to libav's".format(*bias)
    return {"ok": bool(np.abs(bias).max() < BOUND), "bias": bias.tolist(), "says": says}


def _pictures(name: str) -> Iterator[Pixels]:
    """Patches that no correction brings to 0 or 255."""
    random = np.random.default_rng(0)
    rows, columns = (np.arange(side) * _PATCHES // side for side in reversed(_SIZE))
    for _ in range(FRAMES):
        colours = random.integers(30, 226, (_PATCHES, _PATCHES, 1 if name == "grey" else 3))
        grain = random.normal(0, _GRAIN, (len(rows), len(columns), 1))
        picture = np.clip(colours[rows][:, columns] + grain, 0, 255).astype(np.uint8)
        yield np.ascontiguousarray(np.broadcast_to(picture, (*picture.shape[:2], 3)))
