"""Sums of squares of projections in LLVM's own terms: the sums of ROWS rows with VECTORS vectors stay in registers."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from smart.submodular._kernels.compilation import compiled
from smart.submodular._kernels.projected_norms_plain import CHUNK, LANES, VECTORS
from smart.submodular._kernels.vectors_llvm import contiguous, everywhere, sum_of_lanes

ROWS = (
    8 if LANES == 16 else 4
)  # at once: 24 or 12 registers of sums leave a few of the 32 or 16 for what is read


@intrinsic
def _squares(typing: Any, x: Any, first: Any, columns: Any, starts: Any) -> Any:
    """Σ_t (x[i]·columns[:, t])² for ROWS rows i from the first, over LANES columns t from each of the starts, a tuple.

    Rows past the end repeat the last row.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        word, lanes = ir.IntType(64), ir.VectorType(ir.FloatType(), LANES)
        matrix, other = (
            context.make_array(signature.args[i])(context, builder, arguments[i]) for i in (0, 2)
        )
        n, d = cgutils.unpack_tuple(builder, matrix.shape)
        width = cgutils.unpack_tuple(builder, other.shape)[1]

        def least(a: ir.Value, b: ir.Value) -> ir.Value:
            return builder.select(builder.icmp_signed("<", a, b), a, b)

        last = builder.sub(n, word(1))
        rows = [least(builder.add(arguments[1], word(r)), last) for r in range(ROWS)]
        left = [builder.gep(matrix.data, [builder.mul(row, d)]) for row in rows]
        right = [builder.gep(other.data, [start]) for start in cgutils.unpack_tuple(builder, arguments[3])]
        zero = ir.Constant(lanes, [0.0] * LANES)
        pairs = [(i, t) for i in range(len(left)) for t in range(len(right))]
        totals, sums = ({pair: cgutils.alloca_once_value(builder, zero) for pair in pairs} for _ in range(2))
        with cgutils.for_range_slice(builder, word(0), d, word(CHUNK)) as (start, _):
            stop = least(builder.add(start, word(CHUNK)), d)
            for pair in pairs:
                builder.store(zero, sums[pair])
            with cgutils.for_range_slice(builder, start, stop, word(1)) as (k, _):
                row = builder.mul(k, width)
                loads = [builder.bitcast(builder.gep(data, [row]), lanes.as_pointer()) for data in right]
                loads = [builder.load(pointer, align=4) for pointer in loads]
                values = [everywhere(builder, builder.load(builder.gep(data, [k])), lanes) for data in left]
                for i, t in pairs:
                    # "contract": multiplied and added in one where the processor can.
                    product = builder.fmul(values[i], loads[t], flags=("contract",))
                    total = builder.fadd(builder.load(sums[i, t]), product, flags=("contract",))
                    builder.store(total, sums[i, t])
            for pair in pairs:
                total = builder.fadd(builder.load(totals[pair]), builder.load(sums[pair]))
                builder.store(total, totals[pair])
        squares = [zero] * len(left)
        for i, t in pairs:
            total = builder.load(totals[i, t])
            squares[i] = builder.fadd(squares[i], builder.fmul(total, total))
        results = [sum_of_lanes(builder, square) for square in squares]
        return context.make_tuple(builder, signature.return_type, results)

    fits = all(contiguous(matrix, 2, types.float32) for matrix in (x, columns))
    return (types.UniTuple(types.float32, ROWS)(x, first, columns, starts), generate) if fits else None


@compiled
def _add_squares(
    x: np.ndarray, first: int, columns: np.ndarray, starts: tuple[int, ...], out: np.ndarray
) -> None:
    squares: Any = _squares(x, first, columns, starts)  # type: ignore[call-arg]  # numba fills in the typing context
    for r in range(min(ROWS, x.shape[0] - first)):
        out[first + r] += squares[r]


@compiled
def sums_of_squares(x: np.ndarray, columns: np.ndarray, out: np.ndarray) -> None:
    """out[i] = |Y x_i|², for x (n, d) and out (n,) float32, and Y as columns_of gives it."""
    width = columns.shape[1]
    out[:] = 0.0
    for first in range(0, x.shape[0], ROWS):
        for start in range(0, width, VECTORS):
            one, two, three = start, start + LANES, start + 2 * LANES
            if three < width:
                _add_squares(x, first, columns, (one, two, three), out)
            elif two < width:
                _add_squares(x, first, columns, (one, two), out)
            else:
                _add_squares(x, first, columns, (one,), out)
