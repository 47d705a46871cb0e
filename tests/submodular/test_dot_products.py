"""Dot products within the bounds that the greedy's exactness rests on."""

import math

import numpy as np
import pytest

from smart.submodular._kernels.dot_products import dot64, dots32, dots32_error, float32_dot_error

WIDTHS = [1, 15, 16, 17, 100, 384, 1001]


@pytest.mark.parametrize("d", WIDTHS)
@pytest.mark.parametrize("rows", [[4], [2, 0, 2], [5, 1, 3, 0], [0, 1, 2, 3, 4, 5, 0, 3, 1]])
@pytest.mark.parametrize("vectors", [1, 2, 3, 4])
def test_float32_dots_of_any_shape_are_within_their_bound(d, rows, vectors):
    generator = np.random.default_rng(d)
    x = generator.standard_normal((6, d)).astype(np.float32) * np.float32(3)
    v = generator.standard_normal((vectors, d)).astype(np.float32)
    out = np.full((vectors, len(rows)), np.nan, np.float32)
    dots32(x, np.array(rows), v, out)
    exact = v.astype(np.float64) @ x[rows].astype(np.float64).T
    reach = np.linalg.norm(v, axis=1)[:, None] * np.linalg.norm(x[rows], axis=1)
    assert (np.abs(out - exact) <= dots32_error(d) * reach).all()


def test_the_bound_of_float32_dots_covers_sums_that_round_one_way():
    """All products alike and just above what rounds away: the worst that a sum can do."""
    for d in (64, 384, 4096):
        x = np.full((1, d), 1 + 2.0**-12, np.float32)
        out = np.empty((1, 1), np.float32)
        dots32(x, np.array([0]), x, out)
        off = abs(float(out[0, 0]) - math.fsum(float(x[0, 0]) ** 2 for _ in range(d)))
        assert off <= dots32_error(d) * float(x[0] @ x[0])
    assert dots32_error(384) < 0.1 * float32_dot_error(384), "what the fixed order of summation is for"


@pytest.mark.parametrize("d", WIDTHS)
@pytest.mark.parametrize("kinds", [("f4", "f4"), ("f4", "f8"), ("f8", "f8")])
def test_float64_dots(d, kinds):
    generator = np.random.default_rng(d)
    a, b = (generator.standard_normal(d).astype(kind) for kind in kinds)
    exact = math.fsum(float(p) * float(q) for p, q in zip(a, b, strict=True))
    assert abs(dot64(a, b) - exact) <= d * 2.0**-52 * np.linalg.norm(a) * np.linalg.norm(b)
