"""Are these the features of the same frames? One sample's rows against another's, as they are and less a mean.

CLIP's features are nearly parallel: only less the dataset's mean does a cosine tell frames apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

_Vector: TypeAlias = "npt.NDArray[np.float64]"

_LEVEL = 1e-3
"""Vectors nearer than this share of their length are not told apart: float16 rounds by as much as 1.5e-3 of it."""
_FARTHEST = 1e9  # a relative distance from nothing: JSON has no infinity


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What counts as the same: at least this cosine and at most this relative L2, both less the dataset's mean."""

    cosine: float
    relative_l2: float = _FARTHEST


@dataclass(frozen=True, slots=True)
class Difference:
    """How far one sample's features are from a reference: the worst of its rows, by each measure.

    `row` has the smallest centred cosine; `centred` is less the mean; the relative L2 is a share of the reference's
    length. `moved` is a row, and the reference's row that is at most half as far from it as its own: a frame too late.
    """

    sample: str
    row: int
    cosine: float
    relative_l2: float
    centred_cosine: float
    centred_relative_l2: float
    moved: tuple[int, int] | None

    def within(self, tolerance: Tolerance) -> bool:
        near = self.centred_cosine >= tolerance.cosine and self.centred_relative_l2 <= tolerance.relative_l2
        return near and self.moved is None

    def __str__(self) -> str:
        text = f"row {self.row}: cosine {self.cosine:.6f}, less the mean {self.centred_cosine:.6f}"
        text += f" (relative L2 {self.relative_l2:.1e}, less the mean {self.centred_relative_l2:.1e})"
        return text + (f"; row {self.moved[0]} is the other's row {self.moved[1]}" if self.moved else "")


def compare(
    sample: str, found: npt.NDArray[np.float32], reference: npt.NDArray[np.float32], mean: npt.NDArray[np.float64]
) -> Difference:
    """Compare two float32 `[n, D]`, all finite, row by row; `mean` is the dataset's, `[D]`.

    A row of the reference that lies on the mean has no direction from there and is judged as it is.
    """
    a, b = found.astype(np.float64), reference.astype(np.float64)
    level = _LEVEL * np.linalg.norm(b, axis=1)
    cosine, distance = _measured(a, b)
    centred_cosine, centred_distance = _measured(a - mean, b - mean)
    central = np.linalg.norm(b - mean, axis=1) <= level
    centred_cosine = np.where(central, cosine, centred_cosine)
    centred_distance = np.where(central, distance, centred_distance)
    return Difference(
        sample,
        row=int(centred_cosine.argmin()),
        cosine=float(cosine.min()),
        relative_l2=float(distance.max()),
        centred_cosine=float(centred_cosine.min()),
        centred_relative_l2=float(centred_distance.max()),
        moved=_moved(a, b, level),
    )


def _measured(a: _Vector, b: _Vector) -> tuple[_Vector, _Vector]:
    """Cosine and relative L2 of each row; of one that is nothing but zeros: the same, or not at all alike."""
    length, apart = np.linalg.norm(b, axis=1), np.linalg.norm(a - b, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * length)
        distance = np.minimum(apart / length, _FARTHEST)
    same = apart == 0
    return np.where(np.isfinite(cosine), cosine, 0.0) * ~same + same, np.where(same, 0.0, distance)


def _moved(a: _Vector, b: _Vector, level: _Vector) -> tuple[int, int] | None:
    # |a - b|^2 by the products: n^2 numbers instead of n^2 D, and float64 keeps 1e-8 of the length.
    squares = (a * a).sum(1)[:, None] + (b * b).sum(1)[None, :] - 2 * a @ b.T
    apart = np.sqrt(np.maximum(squares, 0))
    own, nearest = apart.diagonal(), apart.argmin(1)
    moved = (apart.min(1) <= own / 2) & (own > level)
    row = int(moved.argmax())
    return (row, int(nearest[row])) if moved[row] else None
