"""Dot products for numba to compile, or for Python to run as they are, in the order of dot_products.py."""

import numpy as np

from smart.submodular._kernels.compilation import compiled

STEP = 16  # elements added at once: two sums of eight lanes


@compiled
def sum_of_two_by_eight(lanes: np.ndarray) -> float:
    """Two sums of eight lanes, (16,), added up in the fixed order; overwrites them."""
    width = lanes.size // 2
    while width:
        for lane in range(width):
            lanes[lane] += lanes[lane + width]
        width //= 2
    total: float = lanes[0]
    return total


@compiled
def dot64(a: np.ndarray, b: np.ndarray) -> float:
    """a·b in float64 of float32 or float64 vectors, (d,)."""
    whole = a.size - a.size % STEP
    lanes = np.zeros(STEP)
    for start in range(0, whole, STEP):
        for lane in range(STEP):
            lanes[lane] += np.float64(a[start + lane]) * np.float64(b[start + lane])
    total = sum_of_two_by_eight(lanes)
    for k in range(whole, a.size):
        total += np.float64(a[k]) * np.float64(b[k])
    return total


@compiled
def dots32(x: np.ndarray, rows: np.ndarray, vectors: np.ndarray, out: np.ndarray) -> None:
    """out[v, j] = x[rows[j]]·vectors[v] in float32, off by at most dots32_error(d) |x_i||v|."""
    d = x.shape[1]
    whole = d - d % STEP
    lanes = np.empty(STEP, np.float32)
    for j in range(rows.size):
        row = x[rows[j]]
        for v in range(len(vectors)):
            vector = vectors[v]
            lanes[:] = 0.0
            for start in range(0, whole, STEP):
                for lane in range(STEP):
                    lanes[lane] += row[start + lane] * vector[start + lane]
            total = sum_of_two_by_eight(lanes)
            for k in range(whole, d):
                total += row[k] * vector[k]
            out[v, j] = total
