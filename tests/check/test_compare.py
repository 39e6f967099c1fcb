"""Rows against rows: what is the same, what only looks so because features are nearly parallel, what has moved."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import numpy.typing as npt
import pytest

from gpupeak.check.compare import Tolerance, compare

STRICT = Tolerance(0.9999, 5e-3)
NOWHERE = np.zeros(64)


def rows(n: int = 8, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((n, 64)).astype(np.float32)


@pytest.mark.parametrize("n", [1, 2, 8])
def test_measures_are_those_of_the_worst_row(n: int) -> None:
    wanted, mean = rows(n), rows(seed=1).mean(0).astype(np.float64)
    given = wanted.copy()
    given[n // 2] += 0.3 * rows(1, seed=2)[0]
    found = compare("a", given, wanted, mean)
    a, b = given[n // 2].astype(float), wanted[n // 2].astype(float)
    assert found.row == n // 2
    for vector, cosine, distance in (
        (NOWHERE, found.cosine, found.relative_l2),
        (mean, found.centred_cosine, found.centred_relative_l2),
    ):
        x, y = a - vector, b - vector
        assert cosine == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
        assert distance == pytest.approx(np.linalg.norm(x - y) / np.linalg.norm(y))
    assert not found.within(STRICT)
    assert found.within(Tolerance(0.9, 0.5))
    assert f"row {n // 2}: cosine 0.9" in str(found)


@pytest.mark.parametrize("by", [-1, 1, 3])
def test_rows_in_another_order_are_found_however_near_they_are(by: int) -> None:
    near = rows(1).repeat(8, axis=0) + 0.01 * rows(seed=1)
    rounded = np.roll(near, by, axis=0) + 0.001 * rows(seed=2)
    found = compare("a", rounded, near, NOWHERE)
    assert found.within(Tolerance(0.99, 0.1)) is False
    assert found.moved == (0, -by % 8)
    assert f"row 0 is the other's row {-by % 8}" in str(found)


@pytest.mark.parametrize("noise", [1e-6, 1e-2])
def test_frames_that_are_alike_have_not_moved(noise: float) -> None:
    alike = rows(1).repeat(8, axis=0)
    noisy = (alike + noise * rows(seed=1)).astype(np.float32)
    assert compare("a", noisy, alike, NOWHERE).moved is None


def test_a_row_on_the_mean_is_judged_as_it_is() -> None:
    still = rows(1).repeat(8, axis=0)
    rounded = still * np.float32(1 + 1e-6)
    mean = still[0].astype(np.float64)
    assert compare("a", rounded, still, mean).within(STRICT)
    assert not compare("a", rows(), still, mean).within(STRICT)


def test_the_same_rows_are_the_same_and_zeros_like_nothing_else() -> None:
    zeros = np.zeros((8, 64), np.float32)
    assert compare("a", zeros, zeros, NOWHERE).within(STRICT)
    same = compare("a", rows(), rows(), rows(seed=1).mean(0))
    assert (same.relative_l2, same.centred_relative_l2, same.cosine, same.centred_cosine) == (0, 0, 1, 1)
    assert same.moved is None and same.within(STRICT)
    for found in (compare("a", rows(), zeros, NOWHERE), compare("a", zeros, rows(), NOWHERE)):
        assert found.cosine == 0
        assert not found.within(STRICT)
        json.dumps(asdict(found), allow_nan=False)
