"""Exact greedy for facility location: f(A) = Σ_v max(0, max_{a∈A} s_va), gain_i = Σ_v max(0, s_vi − m_v).

m_v is the best cosine that the chosen rows offer v; it starts at 0 and never falls. Cosines are rounded to multiples
of a quantum so coarse (about n/2⁵²) that every sum of up to n of them is a float64 without rounding. Gains and
covers are then exact, whatever order they are added in, and equal gains are equal bits.

Small kernels are held whole (facility_dense.py). Large ones never are: a few picks are found lazily
(facility_lazy.py), after which so few pairs have s_vi > m_v, and can ever again, that those alone are kept
(facility_sparse.py).
"""

import numpy as np

from smart.submodular import facility_dense, facility_lazy, facility_sparse
from smart.submodular._kernels.dot_products import float32_dot_error
from smart.submodular.arithmetic import Vectors
from smart.submodular.base import GreedyState
from smart.submodular.resources import Resources
from smart.submodular.similarity import Cosine, Matrix
from smart.submodular.similarity_tiles import TILE, SimilarityTiles
from smart.submodular.zero_vectors import without_zeros

DENSE_ROWS = 1536


class FacilityLocationState(GreedyState):
    """Gains by the definition; holds the kernel, 8n² bytes."""

    def __init__(self, kernel: Cosine | Matrix) -> None:
        self._s = kernel.dense()
        self._best = np.zeros(kernel.n)
        self._gains = np.maximum(self._s, 0).sum(axis=0)

    def gains(self) -> np.ndarray:
        return self._gains

    def add(self, i: int) -> None:
        rows = np.flatnonzero(self._s[:, i] > self._best)
        old, new = self._best[rows, None], self._s[rows, i][:, None]
        falls = np.maximum(self._s[rows] - old, 0) - np.maximum(self._s[rows] - new, 0)
        self._gains = self._gains - falls.sum(axis=0)
        self._best[rows] = new[:, 0]


def greedy(
    kernel: Cosine | Matrix,
    budget: int,
    resources: Resources,
    dense_rows: int = DENSE_ROWS,
    tile_rows: int = TILE,
) -> tuple[np.ndarray, np.ndarray]:
    """Order and gains of `budget` picks.

    The last two change the time only: `dense_rows` is the most rows whose kernel is held, `tile_rows` the rows of a
    tile where it is not.
    """
    if isinstance(kernel, Matrix):
        resources.need(8 * kernel.n**2, f"facility location over a kernel of {kernel.n} rows")
        s = np.array(kernel.s, np.float64, order="C")
        facility_dense.round_to(s, quantum(kernel.n, float(max(s.max(), -s.min()))))
        return facility_dense.greedy_given(s, budget)

    def choose(some: Cosine, k: int) -> tuple[np.ndarray, np.ndarray]:
        n, d = some.x.shape
        if n > dense_rows or 4 * n * (n + d) > resources.memory:
            return _greedy_large(some, k, resources, tile_rows)
        unit = some.unit(dtype=np.float32)
        return facility_dense.greedy_cosines(
            unit @ unit.T, float32_dot_error(d), Vectors(some.x, some.scale, quantum(n, 1.0)), k
        )

    return without_zeros(kernel, budget, 0.0, choose)


def quantum(n: int, largest: float) -> float:
    """The power of two of which n values up to `largest` are so few multiples that their sum is exact in float64."""
    return float(2.0 ** (np.ceil(np.log2(max(n * largest, 1e-300))) - 52))


def _greedy_large(
    kernel: Cosine, budget: int, resources: Resources, tile_rows: int
) -> tuple[np.ndarray, np.ndarray]:
    n, d = kernel.x.shape
    resources.need(4 * n * d + 200 * n + (64 << 20), f"facility location of {n} rows")
    room = resources.memory - 4 * n * d - 200 * n
    tiles = SimilarityTiles.of(kernel.unit(dtype=np.float32), resources, room // 4, tile_rows)
    room -= tiles.nbytes
    cover = facility_lazy.Cover.empty(kernel, quantum(n, 1.0), budget)
    while True:
        facility_lazy.pick_some(cover, tiles, resources)
        if cover.picked == budget:
            return cover.order, cover.gains
        pairs = facility_sparse.surviving_pairs(cover, tiles, resources, room)
        if pairs is not None:
            facility_sparse.pick_rest(cover, tiles, pairs, resources)
            return cover.order, cover.gains
