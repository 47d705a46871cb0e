"""Lengths of many projections at once, in float32 and within the error that is told."""

import numpy as np
import pytest

from smart.submodular._kernels.projected_norms import columns_of, sums_of_squares, sums_of_squares_error
from smart.submodular.log_determinant import _Held, _lower_bounds
from smart.submodular.resources import Resources
from tests.submodular.examples import clustered


def lengths(x: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    out = np.full(len(x), np.nan, np.float32)
    sums_of_squares(x, columns_of(vectors), out)
    return np.sqrt(out.astype(np.float64))


def assert_within_error(x: np.ndarray, vectors: np.ndarray) -> None:
    error, relative = sums_of_squares_error(x.shape[1], len(vectors))
    exact = np.linalg.norm(x.astype(np.float64) @ vectors.T, axis=1)
    allowed = error * np.linalg.norm(vectors) * np.linalg.norm(x.astype(np.float64), axis=1)
    found = lengths(x, vectors)
    assert np.all(np.abs(found - exact) <= allowed + relative * found)


@pytest.mark.parametrize("count", [1, 8, 15, 16, 17, 33, 47, 48, 49, 81, 200])
@pytest.mark.parametrize(("n", "d"), [(1, 1), (7, 5), (9, 64), (41, 65), (64, 384)])
def test_any_shape(n: int, d: int, count: int) -> None:
    rng = np.random.default_rng(count)
    assert_within_error(clustered(n, d), rng.standard_normal((count, d)))


def test_small_products_beside_a_large_one_are_not_lost() -> None:
    """Products of 2⁻²⁵ beside 1: added to it one at a time, all would be lost, more than the error allows."""
    x = np.full((3, 4096), 2.0**-12, np.float32)
    x[:, 0] = 1
    vectors = np.full((2, 4096), 2.0**-13)
    vectors[:, 0] = 1
    assert_within_error(x, vectors)


def test_no_vectors_and_no_rows() -> None:
    assert lengths(clustered(5, 3), np.zeros((0, 3))).tolist() == [0.0] * 5
    assert lengths(clustered(5, 3)[:0], np.ones((2, 3))).tolist() == []


@pytest.mark.parametrize(("d", "count"), [(2, 200), (64, 40), (1024, 3)])
def test_what_is_lowered_stays_a_bound_and_comes_close(d: int, count: int) -> None:
    x = clustered(3000, d) * np.float32(3)
    norms = np.linalg.norm(x.astype(np.float64), axis=1)
    falls = np.random.default_rng(0).standard_normal((count, d)) / 50
    rows = np.arange(0, 6000, 2)
    scale, bound = np.ones(6000), np.full(6000, 10.0)
    scale[rows] = 1 / norms
    _lower_bounds(_Held(x, rows, scale), falls, bound, Resources(2), [])
    exact = 10.0 - np.sum((x.astype(np.float64) / norms[:, None] @ falls.T) ** 2, axis=1)
    assert np.all(bound[rows] >= exact - 1e-14)
    assert np.all(bound[rows] <= exact + 1e-4)
    assert np.all(bound[1::2] == 10.0)
