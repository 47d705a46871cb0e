"""Dot products in LLVM's own terms, because its vectoriser may not reorder sums by itself: a plain loop is slower.

The order of adding is that of dot_products.py; neither fast-math nor, in float64, fused multiply-add is allowed.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from smart.submodular._kernels.compilation import compiled
from smart.submodular._kernels.vectors_llvm import contiguous, sum_of_lanes


def _sums_of_products(
    builder: ir.IRBuilder,
    rows: list[ir.Value],
    vectors: list[ir.Value],
    size: ir.Value,
    element: ir.Type,
    flags: tuple[str, ...] = (),
) -> list[ir.Value]:
    """Each row · each vector over their first `size` elements, a multiple of 16, from pointers to where they begin.

    Two running sums of eight lanes for each pair, added up, and then their lanes as a tree.
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
