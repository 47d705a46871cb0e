"""The kernel in tiles of approximate cosines with a rigorous error, each pair of rows once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from smart.submodular._kernels import amx
from smart.submodular._kernels.bfloat16_split import BLOCK, Split, split_bytes
from smart.submodular._kernels.dot_products import float32_dot_error
from smart.submodular.resources import Resources

TILE = 512  # rows of a tile: its products stay in cache; at most 65,536, since pairs are kept by uint16

T = TypeVar("T")


@dataclass(frozen=True)
class SimilarityTiles:
    """Unit rows in float32, and their products tile by tile: by the processor's matrix unit where it has one."""

    unit: np.ndarray
    """(n, d) float32."""
    error: float
    """No product is further than this from the cosine."""
    size: int = TILE
    """Rows and columns of a tile."""
    split: Split | None = None
    """The rows again, as the processor's matrix unit multiplies them."""

    @staticmethod
    def of(unit: np.ndarray, resources: Resources, memory: int, size: int = TILE) -> "SimilarityTiles":
        """SimilarityTiles that may take so many bytes beside the rows."""
        n, d = unit.shape
        if amx.available() and size % BLOCK == 0 and split_bytes(n, d) <= memory:
            split = Split.of(unit, resources)
            return SimilarityTiles(unit, split.error, size, split)
        return SimilarityTiles(unit, float32_dot_error(d), size)

    @property
    def nbytes(self) -> int:
        """Bytes beside the rows."""
        return self.split.nbytes if self.split else 0

    def pairs(self) -> list[tuple[int, int]]:
        """First rows and columns of the tiles on and above the diagonal."""
        starts = range(0, len(self.unit), self.size)
        return [(top, left) for top in starts for left in starts if left >= top]

    def tile(self, top: int, left: int) -> np.ndarray:
        """Products of rows top… and columns left…, at most (size, size) float32."""
        rows, columns = self._block(top, self.size), self._block(left, self.size)
        if self.split:
            return amx.product(self.split, rows, self.split, columns)
        return self.unit[rows] @ self.unit[columns].T

    def columns(
        self, rows: np.ndarray, resources: Resources, work: Callable[[slice, np.ndarray], T]
    ) -> list[T]:
        """work(block of rows, its products with some rows, (block, rows) float32) for all blocks, in order."""
        products = self._products_with(self.unit[rows], resources)
        height = 4 * self.size
        blocks = [self._block(start, height) for start in range(0, len(self.unit), height)]
        return list(resources.map(lambda block: work(block, products(block)), blocks))

    def _products_with(self, some: np.ndarray, resources: Resources) -> Callable[[slice], np.ndarray]:
        """A block of rows → its products with some unit rows, (block, some) float32."""
        if split := self.split:
            columns, everyone = Split.of(some, resources), slice(0, len(some))
            return lambda block: amx.product(split, block, columns, everyone)
        narrow = np.ascontiguousarray(some.T)
        return lambda block: self.unit[block] @ narrow

    def _block(self, start: int, size: int) -> slice:
        return slice(start, min(start + size, len(self.unit)))

    def column(self, row: int, resources: Resources) -> np.ndarray:
        """Products of all rows with one, (n,) float32."""
        return np.concatenate(self.columns(np.array([row]), resources, lambda _, products: products[:, 0]))
