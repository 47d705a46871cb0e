"""Products of float32 rows by a processor's matrix unit (Intel AMX), faster than in float32.

The rows are sums of two bfloat16 (bfloat16_split.py). Where the unit is not available, callers multiply in float32
instead; `product` then works all the same, in float64, so that it can be tested anywhere.
"""

import ctypes
import platform
import sys
from functools import cache

import numpy as np

from smart.submodular._kernels.bfloat16_split import BLOCK, PANEL, Split
from smart.submodular._kernels.compilation import PLAIN, processor_features

if not PLAIN:
    from smart.submodular._kernels import amx_llvm

_SYSCALL, _REQUEST, _TILE_DATA = 158, 0x1023, 18  # arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)


@cache
def available() -> bool:
    """Whether code is compiled for a processor with the unit, and the system lets this process use it."""
    wanted = {"+amx-tile", "+amx-bf16"} <= processor_features()
    if PLAIN or not wanted or sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    return bool(ctypes.CDLL(None).syscall(_SYSCALL, _REQUEST, _TILE_DATA) == 0)


def product(left: Split, rows: slice, right: Split, columns: slice) -> np.ndarray:
    """Products of some rows of one split with some of another, (rows, columns) float32; both start at a block."""
    h, w = rows.stop - rows.start, columns.stop - columns.start
    out = np.empty((-(-h // BLOCK) * BLOCK, -(-w // BLOCK) * BLOCK), np.float32)
    a, b = left.left[rows.start // PANEL :], right.right[columns.start // PANEL :]
    (amx_llvm.multiply if available() else plain_multiply)(a, b, out)
    return np.ascontiguousarray(out[:h, :w])


def plain_multiply(left: np.ndarray, right: np.ndarray, out: np.ndarray) -> None:
    """What amx_llvm.multiply does, summed in float64 and rounded once: closer than the split's error allows."""
    right = right.transpose(0, 1, 2, 4, 3, 5).reshape(len(right), *left.shape[1:])
    (high, low), (other_high, other_low) = (_values(bits) for bits in (left, right))
    sums = low @ other_high.T + high @ other_high.T + high @ other_low.T
    out[:] = sums[: out.shape[0], : out.shape[1]]


def _values(bits: np.ndarray) -> np.ndarray:
    """Panels of bfloat16 bits, (panels, 2, depths, 16, 32), as (2, rows, columns) float64."""
    panels, parts, depths, rows, columns = bits.shape
    values = (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return values.transpose(1, 0, 3, 2, 4).reshape(parts, panels * rows, depths * columns)
