"""Float32 rows as sums of two bfloat16, in the order in which a processor's matrix unit reads them.

bfloat16 has eight bits of significand. A number is a = h + l + r, with h the nearest in bfloat16, l the nearest to what
is left, and r dropped. For two rows,

    a·b − (l·h' + h·h' + h·l') = l·l' + r·b + a·r' − r·r',

at most L² + 2R + R² for unit rows (Cauchy and Schwarz), where L and R are the largest norms of l and r; some 10⁻⁵.

The product of two bfloat16 is exact in float32, and only sums are rounded. One instruction adds 32 products: the even
and the odd ones in turn, each to a sum of its own from 0, then both, and the result to the register (TDPBF16PS in
Intel's Software Developer's Manual). So no product goes through more roundings than 17, and one for each instruction.
What the unit takes for 0, numbers under 2⁻¹²⁶, is far below that.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

from smart.submodular._kernels.compilation import compiled
from smart.submodular._kernels.dot_products import rounding_error
from smart.submodular.resources import Resources

PANEL = 16
"""Rows of a register of the unit."""
DEPTH = 32
"""Their columns, in bfloat16."""
BLOCK = 2 * PANEL
"""Rows and columns that are multiplied at once, in four registers of sums."""


@dataclass(frozen=True)
class Split:
    """Rows as h and l, in the order in which the unit reads them."""

    left: np.ndarray
    """(panels, 2, depths, 16, 32) uint16, the bits of bfloat16: h and l of 16 rows, 32 columns at a time."""
    right: np.ndarray
    """(panels, 2, depths, 16, 16, 2): the same with pairs of columns first, then the rows."""
    error: float
    """No product of two of these rows is further than this from that of the unit vectors they are rounded from."""

    @staticmethod
    def of(unit: np.ndarray, resources: Resources) -> "Split":
        """Split (n, d) float32 rows of norm 1; zeros fill up whole blocks."""
        n, d = unit.shape
        shape = (-(-n // BLOCK) * 2, 2, -(-d // DEPTH), PANEL, DEPTH)
        left, right = np.zeros(shape, np.uint16), np.zeros((*shape[:-1], PANEL, 2), np.uint16)

        def fill(blocks: slice) -> tuple[float, float]:
            panels = slice(2 * blocks.start, 2 * blocks.stop)
            return _split(unit[BLOCK * blocks.start : BLOCK * blocks.stop], left[panels], right[panels])

        chunks = resources.chunks(shape[0] // 2, least=32)
        after_h, rest = np.max(resources.run([partial(fill, blocks) for blocks in chunks]), axis=0)
        low = after_h + rest
        # 16 products of an instruction, its two sums and the instructions; and two for rows rounded from float64.
        roundings = PANEL + 1 + 3 * shape[2] + 2
        dropped = low**2 + 2 * rest + rest**2
        return Split(left, right, dropped + rounding_error(roundings) * (1 + 2.0**-7) ** 2)

    @property
    def nbytes(self) -> int:
        return self.left.nbytes + self.right.nbytes


def split_bytes(n: int, d: int) -> int:
    """At least the size of the split of (n, d) rows."""
    return 8 * (n + BLOCK) * (d + DEPTH)


@compiled
def _split(unit: np.ndarray, left: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """Fill both orders; returns the largest norms of a − h, which is l + r, and of r."""
    value = np.empty(1, np.float32)
    bits = value.view(np.uint32)
    largest = np.zeros(2)
    for i in range(unit.shape[0]):
        panel, row = i // PANEL, i % PANEL
        squares = np.zeros(2)
        for k in range(unit.shape[1]):
            rest, depth, column = unit[i, k], k // DEPTH, k % DEPTH
            for part in range(2):
                value[0] = rest
                tie_to_even = (bits[0] >> np.uint32(16)) & np.uint32(1)
                nearest = (bits[0] + np.uint32(0x7FFF) + tie_to_even) >> np.uint32(16)
                left[panel, part, depth, row, column] = nearest
                right[panel, part, depth, column // 2, row, column % 2] = nearest
                bits[0] = nearest << np.uint32(16)
                rest -= value[0]  # exact
                squares[part] += np.float64(rest) ** 2
        largest = np.maximum(largest, squares)
    after_h, after_l = np.sqrt(largest) * (1 + 1e-9)  # the sums of d squares are rounded
    return after_h, after_l
