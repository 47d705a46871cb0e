"""|Y x_i|² = Σ_t (x_i·y_t)² of many rows x_i and a few dozen vectors y_t in float32, and how far off it may be.

A library's matrix product is far from its rate where one side is so narrow, and nothing is known of the order in which
it adds, so that its error has to be taken for d roundings. Here the products of a row with dozens of vectors have a
lane each, and are put aside every CHUNK products: none goes through more roundings than those of its chunk and one for
each chunk. In LLVM's own terms (projected_norms_llvm.py) the sums of a few rows lie in the processor's registers.
"""

import numpy as np

from smart.submodular._kernels.compilation import PLAIN
from smart.submodular._kernels.dot_products import rounding_error
from smart.submodular._kernels.projected_norms_plain import CHUNK, LANES, VECTORS

if PLAIN:
    from smart.submodular._kernels.projected_norms_plain import sums_of_squares
else:
    from smart.submodular._kernels.projected_norms_llvm import sums_of_squares

__all__ = ["columns_of", "sums_of_squares", "sums_of_squares_error"]


def columns_of(vectors: np.ndarray) -> np.ndarray:
    """Vectors (count, d) as the columns that sums_of_squares takes: (d, whole registers) float32, zeros after them."""
    count, d = vectors.shape
    out = np.zeros((d, -(-count // LANES) * LANES), np.float32)
    out[:, :count] = vectors.T
    return out


def sums_of_squares_error(d: int, count: int) -> tuple[float, float]:
    """How far √sums_of_squares may be from |Y x_i|: by the first times |Y|_F|x_i|, and by the second times itself.

    A product goes through CHUNK roundings of a sum, one for each chunk, its own, and that of y_t from float64; a square
    through its own, three in its lane, four between lanes, and one for each round of vectors.
    """
    rounds = -(-count // VECTORS) + 1
    return rounding_error(CHUNK + -(-d // CHUNK) + 2), rounding_error(1 + 3 + 4 + rounds)
