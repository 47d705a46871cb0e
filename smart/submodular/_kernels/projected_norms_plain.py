"""Sums of squares of projections for numba to compile, or for Python to run, in the order of projected_norms.py."""

import numpy as np

from smart.submodular._kernels.compilation import compiled, processor_features

LANES = 16 if "+avx512f" in processor_features() else 8
"""Float32 numbers in a register."""
VECTORS = 3 * LANES
"""Vectors whose products with a row are squared and added together."""
CHUNK = 64
"""Products that are added before the sums are put aside."""
BLOCK = 32
"""Rows that are worked on at once."""


@compiled
def sums_of_squares(x: np.ndarray, columns: np.ndarray, out: np.ndarray) -> None:
    """out[i] = |Y x_i|², for x (n, d) and out (n,) float32, and Y as columns_of gives it."""
    for first in range(0, x.shape[0], BLOCK):
        products = _products(x[first : first + BLOCK], columns)
        out[first : first + BLOCK] = _squares(products)


@compiled
def _products(x: np.ndarray, columns: np.ndarray) -> np.ndarray:
    d, width = columns.shape
    products = np.zeros((x.shape[0], width), np.float32)
    for start in range(0, d, CHUNK):
        sums = np.zeros((x.shape[0], width), np.float32)
        for k in range(start, min(start + CHUNK, d)):
            sums += x[:, k : k + 1] * columns[k]
        products += sums
    return products


@compiled
def _squares(products: np.ndarray) -> np.ndarray:
    rows, width = products.shape
    total = np.zeros(rows, np.float32)
    for start in range(0, width, VECTORS):
        lanes = np.zeros((rows, LANES), np.float32)
        for t in range(start, min(start + VECTORS, width), LANES):
            lanes += products[:, t : t + LANES] * products[:, t : t + LANES]
        half = LANES // 2
        while half:
            lanes[:, :half] += lanes[:, half : 2 * half]
            half //= 2
        total += lanes[:, 0]
    return total
