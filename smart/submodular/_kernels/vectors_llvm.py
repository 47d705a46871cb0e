"""What the LLVM kernels share: vectors of lanes, and the arrays that they can read."""

from llvmlite import ir
from numba.core import types


def sum_of_lanes(builder: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    """Sum of the lanes of a vector of 2, 4, 8 or 16: its halves added, until one is left."""
    half = vector.type.count
    while half > 1:
        half //= 2
        low, high = (_lanes(builder, vector, range(first, first + half)) for first in (0, half))
        vector = builder.fadd(low, high)
    return builder.extract_element(vector, ir.IntType(32)(0))


def _lanes(builder: ir.IRBuilder, vector: ir.Value, which: range) -> ir.Value:
    index = ir.VectorType(ir.IntType(32), len(which))
    return builder.shuffle_vector(vector, vector, ir.Constant(index, list(which)))


def contiguous(array: types.Type, dimensions: int, *kinds: types.Type) -> bool:
    """Whether numba's type is that of a C-contiguous array of so many dimensions and one of these kinds."""
    return (
        isinstance(array, types.Array)
        and array.layout == "C"
        and array.ndim == dimensions
        and array.dtype in kinds
    )


def everywhere(builder: ir.IRBuilder, value: ir.Value, lanes: ir.VectorType) -> ir.Value:
    """A vector with the value in every lane."""
    index = ir.IntType(32)
    first = builder.insert_element(ir.Constant(lanes, ir.Undefined), value, index(0))
    return builder.shuffle_vector(
        first, first, ir.Constant(ir.VectorType(index, lanes.count), [0] * lanes.count)
    )
