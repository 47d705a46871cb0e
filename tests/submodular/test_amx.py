"""Rows split in two bfloat16, and their products by the processor's matrix unit."""

import os
import platform
import subprocess
import sys

import numpy as np
import pytest

from smart.submodular import FacilityLocation, facility_location
from smart.submodular._kernels import amx
from smart.submodular._kernels.bfloat16_split import BLOCK, Split, split_bytes
from smart.submodular._kernels.dot_products import float32_dot_error
from smart.submodular.resources import Resources
from smart.submodular.similarity_tiles import SimilarityTiles
from tests.submodular.examples import EXAMPLES, clustered, with_zeros

NO_AMX = "this processor has no AMX, or it is not allowed"
needs_amx = pytest.mark.skipif(not amx.available(), reason=NO_AMX)


def unit_rows(n: int, d: int, mean: float = 0.0) -> np.ndarray:
    x = clustered(n, d, mean=mean).astype(np.float64)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def one_and_many_small(n: int, d: int) -> np.ndarray:
    """Products of 2⁻²⁵ beside one of 1: added to it one at a time, every one would be lost."""
    x = np.full((n, d), 2.0**-12, np.float32)
    x[1::2] = 2.0**-13
    x[:, 0] = 1
    return x


def parts(bits: np.ndarray) -> np.ndarray:
    """(panels, 2, depths, 16, 32) as (2, rows, columns) float64."""
    panels, _, depths, rows, columns = bits.shape
    values = (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return values.transpose(1, 0, 3, 2, 4).reshape(2, panels * rows, depths * columns)


@pytest.mark.parametrize(("n", "d"), [(1, 1), (40, 33), (64, 384)])
def test_a_split_row_is_the_row_but_for_what_its_error_allows(n, d):
    x = unit_rows(n, d)
    split = Split.of(x, Resources())
    high, low = parts(split.left)
    assert high.shape[0] % BLOCK == 0
    assert not high[n:].any()
    assert not high[:, d:].any()
    high, low = high[:n, :d], low[:n, :d]
    assert np.all(np.abs(x - high) <= 2.0**-8 * np.abs(x))
    assert np.all(np.abs(x - high - low) <= 2.0**-16 * np.abs(x))
    again = split.right.transpose(0, 1, 2, 4, 3, 5).reshape(split.left.shape)
    np.testing.assert_array_equal(again, split.left)
    products = low @ high.T + high @ high.T + high @ low.T
    assert np.abs(products - x.astype(np.float64) @ x.T).max() <= split.error
    assert split.nbytes <= split_bytes(n, d)


@pytest.mark.parametrize("unit", ["by the matrix unit", "plain"])
@pytest.mark.parametrize(
    "x",
    [
        unit_rows(70, 384),
        unit_rows(70, 384, mean=0.8),
        unit_rows(33, 1),
        unit_rows(64, 1024),
        np.eye(40, 50, dtype=np.float32),
        with_zeros(50, 31) * np.float32(1e-30),
        one_and_many_small(64, 1024),
    ],
    ids=["both signs", "positive", "one column", "wide", "one-hot", "tiny", "small beside large"],
)
def test_products_are_within_their_error(x, unit, monkeypatch):
    if unit == "plain":
        monkeypatch.setattr(amx, "available", lambda: False)
    elif not amx.available():
        pytest.skip(NO_AMX)
    split, n = Split.of(x, Resources()), len(x)
    exact = x.astype(np.float64) @ x.T
    products = amx.product(split, slice(0, n), split, slice(0, n))
    assert products.dtype == np.float32
    assert products.flags.c_contiguous
    assert np.abs(products - exact).max() <= split.error * max(1.0, np.diag(exact).max())
    assert split.error < max(float32_dot_error(x.shape[1]), 2.0**-15)
    other = Split.of(x[5:9], Resources())
    some = amx.product(split, slice(32, n), other, slice(0, 4))
    np.testing.assert_array_equal(some, products[32:, 5:9])


@needs_amx
@pytest.mark.parametrize("example", EXAMPLES)
def test_orders_are_the_same_with_and_without(example, monkeypatch):
    kernel = FacilityLocation(EXAMPLES[example](1100)).kernel
    order, gains = facility_location.greedy(kernel, 1100, Resources(), dense_rows=0)
    monkeypatch.setattr(amx, "available", lambda: False)
    again = facility_location.greedy(kernel, 1100, Resources(), dense_rows=0)
    np.testing.assert_array_equal(again[0], order)
    np.testing.assert_array_equal(again[1], gains)


def test_threads_split_alike():
    x = unit_rows(2500, 40)
    alone = Split.of(x, Resources())
    with Resources(threads=2) as two:
        together = Split.of(x, two)
    np.testing.assert_array_equal(together.left, alone.left)
    np.testing.assert_array_equal(together.right, alone.right)
    assert together.error == alone.error


def test_little_memory_goes_without(monkeypatch):
    monkeypatch.setattr(amx, "available", lambda: True)
    x = unit_rows(600, 32)
    assert SimilarityTiles.of(x, Resources(), 10**9).split
    tiles = SimilarityTiles.of(x, Resources(), split_bytes(600, 32) - 1)
    assert tiles.split is None
    assert tiles.nbytes == 0
    assert tiles.error == float32_dot_error(32)


def printed(script: str, **environment: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    return subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize(
    "environment",
    [{"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}, {"SMART_KERNELS": "plain"}],
    ids=["another processor", "plain kernels"],
)
def test_not_used_for(environment):
    script = "from smart.submodular._kernels import amx; print(amx.available())"
    assert printed(script, **environment) == "False\n"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="LLVM for another processor knows no AMX")
def test_compiles_to_the_units_instructions_wherever_it_is_compiled(tmp_path):
    script = """
from numba import types as t
from smart.submodular._kernels.amx_llvm import _product
bits = lambda dimensions: t.Array(t.uint16, dimensions, "C")
_product.compile((bits(5), bits(6), t.Array(t.uint8, 1, "C"), t.Array(t.float32, 2, "C")))
print(*_product.inspect_asm().values())
"""
    code = printed(
        script,
        NUMBA_CPU_NAME="sapphirerapids",
        NUMBA_CPU_FEATURES="+avx512f,+amx-tile,+amx-bf16,+amx-int8",
        NUMBA_CACHE_DIR=str(tmp_path),
        SMART_KERNELS="auto",
    )
    assert code.count("tdpbf16ps") >= 12
