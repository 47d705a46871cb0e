"""Arithmetic that every function shares: exact cosines, and the one rule for ties.

Sums that decide between candidates are taken in float64 and in an order that the source fixes (no fast-math, no
fused multiply-add), so that they have the same bits on every processor and for every number of threads.
"""

from typing import NamedTuple

import numpy as np

from smart.submodular._kernels.compilation import compiled
from smart.submodular._kernels.dot_products import dot64

TIE = 1e-10


class Vectors(NamedTuple):
    """What exact cosines are computed from."""

    x: np.ndarray
    """(n, d) float32, of any length."""
    scale: np.ndarray
    """1/|x_i|, (n,) float64."""
    quantum: float
    """Cosines are rounded to multiples of it."""


@compiled
def tie_width(best: float) -> float:
    """Gains closer than this to the best are tied, and the lowest row wins.

    It lies above the rounding of our float64 gains and far under the 1e-6 · max(best, 1e-3) by which an order's
    regret is judged.
    """
    return TIE * max(best, 1.0)


@compiled
def argmax_lowest(gains: np.ndarray, alive: np.ndarray) -> int:
    """Lowest alive index whose gain is tied with the best alive gain; -1 where none is alive."""
    best = -np.inf
    for i in range(gains.size):
        if alive[i] and gains[i] > best:
            best = gains[i]
    floor = best - tie_width(best)
    for i in range(gains.size):
        if alive[i] and gains[i] >= floor:
            return i
    return -1


@compiled
def cosine64(vectors: Vectors, v: int, i: int) -> float:
    """s_vi in float64, rounded to a multiple of the quantum."""
    if i == v:
        return 1.0
    x, scale, quantum = vectors.x, vectors.scale, vectors.quantum
    return np.rint(dot64(x[v], x[i]) * (scale[v] * scale[i]) / quantum) * quantum


@compiled
def inverse_norms(x: np.ndarray) -> np.ndarray:
    """1/|x_i| in float64, (n,); 0 where |x_i| = 0, NaN where a row is not finite."""
    out = np.empty(x.shape[0])
    for i in range(x.shape[0]):
        norm = np.sqrt(dot64(x[i], x[i]))
        out[i] = 0.0 if norm == 0.0 else 1.0 / norm if norm < np.inf else np.nan
    return out


@compiled
def unit_rows(x: np.ndarray, scale: np.ndarray, rows: np.ndarray, dtype: type) -> np.ndarray:
    """scale_i x_i of some rows, (rows, d), computed in float64 and rounded to dtype."""
    out: np.ndarray = np.empty((rows.size, x.shape[1]), dtype)
    for j in range(rows.size):
        row, factor = x[rows[j]], scale[rows[j]]
        for k in range(row.size):
            out[j, k] = row[k] * factor
    return out
