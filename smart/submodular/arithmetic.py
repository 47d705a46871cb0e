"""Arithmetic that every function shares: compiled dot products and the one rule for ties.

Sums that decide between candidates are taken in float64 and in an order that the source fixes (no fast-math, no
fused multiply-add), so that they have the same bits on every processor and for every number of threads.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from smart.submodular._kernels.compilation import compiled

TIE = 1e-10


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


def _sums_of_products(
    builder: ir.IRBuilder,
    rows: list[ir.Value],
    vectors: list[ir.Value],
    size: ir.Value,
    element: ir.Type,
    flags: tuple[str, ...] = (),
) -> list[ir.Value]:
    """Each row · each vector over their first `size` elements, a multiple of 16, from pointers to where they begin.

    Two running sums of eight lanes for each pair, added up, and then their lanes as a tree. Written in LLVM's own
    terms because its vectoriser may not reorder sums by itself, and leaves a plain loop five times slower.
    """
    lanes, word = ir.VectorType(element, 8), ir.IntType(64)

    def load(data: ir.Value, at: ir.Value) -> ir.Value:
        stored = data.type.pointee
        pointer = builder.bitcast(builder.gep(data, [at]), ir.VectorType(stored, 8).as_pointer())
        values = builder.load(pointer, align=4 if stored == ir.FloatType() else 8)
        return values if stored == element else builder.fpext(values, lanes)

    zero = ir.Constant(lanes, [0.0] * 8)
    sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(2)] for _ in rows for _ in vectors]
    with cgutils.for_range_slice(builder, word(0), size, word(16)) as (start, _):
        for half in range(2):
            at = builder.add(start, word(8 * half))
            columns = [load(vector, at) for vector in vectors]
            pairs = [(load(row, at), column) for row in rows for column in columns]
            for (left, right), parts in zip(pairs, sums, strict=True):
                product = builder.fmul(left, right, flags=flags)
                builder.store(builder.fadd(builder.load(parts[half]), product, flags=flags), parts[half])
    return [sum_of_lanes(builder, builder.fadd(*map(builder.load, parts))) for parts in sums]


def sum_of_lanes(builder: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    """Of a vector of 2, 4, 8 or 16: its halves added, until one is left."""
    half = vector.type.count
    while half > 1:
        half //= 2
        low, high = (_lanes(builder, vector, range(first, first + half)) for first in (0, half))
        vector = builder.fadd(low, high)
    return builder.extract_element(vector, ir.IntType(32)(0))


def _lanes(builder: ir.IRBuilder, vector: ir.Value, which: range) -> ir.Value:
    index = ir.VectorType(ir.IntType(32), len(which))
    return builder.shuffle_vector(vector, vector, ir.Constant(index, list(which)))


def contiguous(array: Any, dimensions: int, *kinds: Any) -> bool:
    return (
        isinstance(array, types.Array)
        and array.layout == "C"
        and array.ndim == dimensions
        and array.dtype in kinds
    )


@intrinsic
def _dot_lanes(typing: Any, a: Any, b: Any, size: Any) -> Any:
    """a[:size]·b[:size] for size a multiple of 16, in float64, that every processor adds alike."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        row, vector = (
            context.make_array(array)(context, builder, argument).data
            for array, argument in zip(signature.args[:2], arguments, strict=False)
        )
        return _sums_of_products(builder, [row], [vector], arguments[2], ir.DoubleType())[0]

    fits = all(contiguous(array, 1, types.float32, types.float64) for array in (a, b))
    return (types.float64(a, b, size), generate) if fits else None


@intrinsic
def _dots_lanes(typing: Any, x: Any, rows: Any, vectors: Any, which: Any, size: Any) -> Any:
    """x[i, :size]·vectors[v, :size] for i in rows for v in which, two tuples, and size a multiple of 16, in float32."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        def pointers(place: int) -> list[ir.Value]:
            matrix = context.make_array(signature.args[place])(context, builder, arguments[place])
            columns = cgutils.unpack_tuple(builder, matrix.shape)[1]
            numbers = cgutils.unpack_tuple(builder, arguments[place + 1])
            return [builder.gep(matrix.data, [builder.mul(number, columns)]) for number in numbers]

        # "contract": multiplied and added in one where the processor can.
        dots = _sums_of_products(
            builder, pointers(0), pointers(2), arguments[4], ir.FloatType(), ("contract",)
        )
        return context.make_tuple(builder, signature.return_type, dots)

    fits = all(contiguous(matrix, 2, types.float32) for matrix in (x, vectors))
    result = types.UniTuple(types.float32, len(rows) * len(which))
    return (result(x, rows, vectors, which, size), generate) if fits else None


@compiled
def dot64(a: np.ndarray, b: np.ndarray) -> float:
    """a·b in float64 of float32 or float64 vectors."""
    whole = a.size - a.size % 16
    total: float = _dot_lanes(a, b, whole)  # type: ignore[call-arg]  # numba fills in the typing context
    for k in range(whole, a.size):
        total += np.float64(a[k]) * np.float64(b[k])
    return total


@compiled
def dots32(x: np.ndarray, rows: np.ndarray, vectors: np.ndarray, out: np.ndarray) -> None:
    """out[v, j] = x[rows[j]]·vectors[v] in float32, off by at most dots32_error(d) |x_i||v|; vectors in pairs."""
    for v in range(0, len(vectors) - 1, 2):
        _dots32(x, rows, vectors, (v, v + 1), out)
    if len(vectors) % 2:
        _dots32(x, rows, vectors, (len(vectors) - 1,), out)


@compiled
def _dots32(
    x: np.ndarray, rows: np.ndarray, vectors: np.ndarray, which: tuple[int, ...], out: np.ndarray
) -> None:
    d, last = x.shape[1], rows.size - 1
    whole = d - d % 16
    for j in range(0, rows.size, 4):
        four = rows[j], rows[min(j + 1, last)], rows[min(j + 2, last)], rows[min(j + 3, last)]
        dots: Any = _dots_lanes(x, four, vectors, which, whole)  # type: ignore[call-arg]
        for i in range(min(4, rows.size - j)):
            for v in range(len(which)):
                total = dots[i * len(which) + v]
                for k in range(whole, d):
                    total += x[four[i], k] * vectors[which[v], k]
                out[which[v], j + i] = total


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


def float32_dot_error(d: int) -> float:
    """Bound on |fl(a·b) − a·b| / (|a||b|) for a float32 dot product of length d summed in any order.

    The standard γ = d·u / (1 − d·u) with u = 2⁻²⁴ (Higham 2002, §3.1), and two more roundings for inputs that were
    themselves rounded from float64.
    """
    return rounding_error(d + 2)


def dots32_error(d: int) -> float:
    """Bound on |dots32 − x·v| / (|x||v|), smaller because no product goes through more than these additions.

    d // 16 in its lane, four in the tree and d mod 16 after it; and the product's own rounding, two more for vectors
    that were themselves rounded from float64, and two for a result that is scaled.
    """
    return rounding_error(d // 16 + 4 + d % 16 + 5)


def rounding_error(steps: int) -> float:
    """Higham's γ of so many roundings to float32."""
    unit = 2.0**-24
    return steps * unit / (1 - steps * unit)
