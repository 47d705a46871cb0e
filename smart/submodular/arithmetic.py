"""Arithmetic that every function shares: compiled dot products and the one rule for ties.

Sums that decide between candidates are taken in float64 and in an order that the source fixes (no fast-math, no
fused multiply-add), so that they have the same bits on every processor and for every number of threads.
"""

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

TIE = 1e-10

compiled = numba.njit(cache=True, nogil=True)
compiled_fast = numba.njit(cache=True, nogil=True, fastmath=True)
compiled_max = numba.njit(
    cache=True, nogil=True, fastmath={"nnan", "nsz"}
)  # maxima by vector, infinities allowed


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


@intrinsic
def _dot_lanes(typing: Any, a: Any, b: Any, size: Any) -> Any:
    """a[:size]·b[:size] for size a multiple of 16, as vectors of eight float64 that every processor adds alike.

    Two running sums of eight lanes each, then the tree of the lanes. Written in LLVM's own terms because its
    vectoriser may not reorder float64 sums by itself, and leaves a plain loop five times slower.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        lanes, word = ir.VectorType(ir.DoubleType(), 8), ir.IntType(64)

        def load(which: int, at: ir.Value) -> ir.Value:
            array = signature.args[which]
            element = ir.FloatType() if array.dtype == types.float32 else ir.DoubleType()
            data = context.make_array(array)(context, builder, arguments[which]).data
            pointer = builder.bitcast(builder.gep(data, [at]), ir.VectorType(element, 8).as_pointer())
            values = builder.load(pointer, align=array.dtype.bitwidth // 8)
            return values if array.dtype == types.float64 else builder.fpext(values, lanes)

        sums = [cgutils.alloca_once_value(builder, ir.Constant(lanes, [0.0] * 8)) for _ in range(2)]
        with cgutils.for_range_slice(builder, word(0), arguments[2], word(16)) as (start, _):
            for half, total in enumerate(sums):
                at = builder.add(start, word(8 * half))
                builder.store(
                    builder.fadd(builder.load(total), builder.fmul(load(0, at), load(1, at))), total
                )
        total = builder.fadd(*map(builder.load, sums))
        parts = [builder.extract_element(total, ir.IntType(32)(lane)) for lane in range(8)]
        while len(parts) > 1:
            parts = [builder.fadd(left, right) for left, right in zip(parts[::2], parts[1::2], strict=True)]
        return parts[0]

    contiguous = all(isinstance(t, types.Array) and t.layout == "C" and t.ndim == 1 for t in (a, b))
    return (types.float64(a, b, size), generate) if contiguous else None


@compiled
def dot64(a: np.ndarray, b: np.ndarray) -> float:
    """a·b in float64 of float32 or float64 vectors."""
    whole = a.size - a.size % 16
    total: float = _dot_lanes(a, b, whole)  # type: ignore[call-arg]  # numba fills in the typing context
    for k in range(whole, a.size):
        total += np.float64(a[k]) * np.float64(b[k])
    return total


@compiled
def cosine64(x: np.ndarray, scale: np.ndarray, v: int, i: int, quantum: float) -> float:
    """s_vi of float32 vectors in float64, rounded to a multiple of the quantum; scale holds 1/|x_i|."""
    if i == v:
        return 1.0
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


@compiled_fast
def matvec(x: np.ndarray, scale: np.ndarray, w: np.ndarray, rows: np.ndarray, out: np.ndarray) -> None:
    """out[j] = scale[i] x[i]·w, i = rows[j], in float32, summed in whatever order is quickest."""
    for j in range(rows.size):
        row = x[rows[j]]
        total = np.float32(0.0)
        for k in range(w.size):
            total += row[k] * w[k]
        out[j] = total * scale[rows[j]]


def float32_dot_error(d: int) -> float:
    """Bound on |fl(a·b) − a·b| / (|a||b|) for a float32 dot product of length d summed in any order.

    The standard γ = d·u / (1 − d·u) with u = 2⁻²⁴ (Higham 2002, §3.1), and two more roundings for inputs that were
    themselves rounded from float64.
    """
    unit = 2.0**-24
    return (d + 2) * unit / (1 - (d + 2) * unit)


@compiled
def exchange(rows: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of a pool (m rows in any order) whose rows are not wanted, and which of the m wanted (ascending) it lacks.

    As many of the one as of the other: rows[places] = wanted[missing] makes the pool what is wanted, and what stays
    keeps its place.
    """
    m = rows.size
    places, missing, there = np.empty(m, np.int64), np.empty(m, np.int64), np.zeros(m, np.bool_)
    count = 0
    for i in range(m):
        at = np.searchsorted(wanted, rows[i])
        if at < m and wanted[at] == rows[i]:
            there[at] = True
        else:
            places[count] = i
            count += 1
    count = 0
    for at in range(m):
        if not there[at]:
            missing[count] = at
            count += 1
    return places[:count], missing[:count]


@compiled
def write_symmetric(matrix: np.ndarray, places: np.ndarray, columns: np.ndarray) -> None:
    """The rows and columns `places` of a symmetric matrix, (m, m), become `columns`, (m, places)."""
    for t in range(places.size):
        for i in range(matrix.shape[0]):
            matrix[places[t], i] = matrix[i, places[t]] = columns[i, t]
