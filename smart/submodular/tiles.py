"""The kernel in tiles of approximate cosines with a rigorous error, each pair of rows once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from smart.submodular.arithmetic import float32_dot_error
from smart.submodular.resources import Resources

TILE = 512  # rows of a tile: its products stay in cache; at most 65,536, since pairs are kept by uint16

T = TypeVar("T")


@dataclass(frozen=True)
class Tiles:
    """Unit rows in float32, and their products tile by tile."""

    unit: np.ndarray
    """(n, d) float32."""
    error: float
    """No product is further than this from the cosine."""
    size: int = TILE
    """Rows and columns of a tile."""

    @staticmethod
    def of(unit: np.ndarray, size: int = TILE) -> "Tiles":
        return Tiles(unit, float32_dot_error(unit.shape[1]), size)

    def pairs(self) -> list[tuple[int, int]]:
        """First rows and columns of the tiles on and above the diagonal."""
        starts = range(0, len(self.unit), self.size)
        return [(top, left) for top in starts for left in starts if left >= top]

    def tile(self, top: int, left: int) -> np.ndarray:
        """Products of rows top… and columns left…, at most (size, size) float32."""
        return self.unit[top : top + self.size] @ self.unit[left : left + self.size].T

    def columns(
        self, rows: np.ndarray, resources: Resources, work: Callable[[slice, np.ndarray], T]
    ) -> list[T]:
        """work(block of rows, its products with some rows, (block, rows) float32) for all blocks, in order."""
        narrow = np.ascontiguousarray(self.unit[rows].T)
        blocks = [slice(start, start + 4 * self.size) for start in range(0, len(self.unit), 4 * self.size)]
        return list(resources.map(lambda block: work(block, self.unit[block] @ narrow), blocks))

    def column(self, row: int, resources: Resources) -> np.ndarray:
        """Products of all rows with one, (n,) float32."""
        return np.concatenate(self.columns(np.array([row]), resources, lambda _, products: products[:, 0]))
