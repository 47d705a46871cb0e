"""The matrix unit's instructions (Intel AMX), through LLVM's intrinsics."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from smart.submodular._kernels.bfloat16_split import DEPTH, PANEL
from smart.submodular._kernels.compilation import compiled

# What the unit's registers hold: palette 1, then the bytes of a row and the rows of each of its eight registers.
_SHAPES = np.zeros(64, np.uint8)
_SHAPES[0] = 1
_SHAPES[16:32].view(np.uint16)[:] = 2 * DEPTH
_SHAPES[48:56] = PANEL


@intrinsic
def _start(typing: Any, shapes: Any) -> Any:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> None:
        data = context.make_array(shapes)(context, builder, arguments[0]).data
        _call(builder, "ldtilecfg", data)

    return types.void(shapes), generate


@intrinsic
def _stop(typing: Any) -> Any:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> None:
        _call(builder, "tilerelease")

    return types.void(), generate


@intrinsic
def _block(typing: Any, left: Any, right: Any, p: Any, q: Any, out: Any) -> Any:
    """out[16 p :][:32, 16 q :][:, :32] = the products of panels p, p + 1 and q, q + 1."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> None:
        word = ir.IntType(64)
        a, b, sums = (
            context.make_array(signature.args[i])(context, builder, arguments[i]) for i in (0, 1, 4)
        )
        depths = builder.extract_value(a.shape, 2)
        width = builder.mul(builder.extract_value(sums.shape, 1), word(4))
        row_bytes, tile_bytes = word(2 * DEPTH), word(2 * DEPTH * PANEL)

        def start_of(matrix: Any, panel: ir.Value, part: int) -> ir.Value:
            tiles = builder.mul(builder.add(builder.mul(panel, word(2)), word(part)), depths)
            return _at(builder, matrix.data, builder.mul(tiles, tile_bytes))

        panels = [(a, arguments[2]), (a, builder.add(arguments[2], word(1)))]
        panels += [(b, arguments[3]), (b, builder.add(arguments[3], word(1)))]
        starts = [[start_of(*panel, part) for panel in panels] for part in range(2)]
        for register in range(4):
            _call(builder, "tilezero", register)
        # Registers 0 to 3 hold the sums, 4 and 5 the left panels, 6 and 7 the right ones.
        with cgutils.for_range(builder, depths) as loop:
            offset = builder.mul(loop.index, tile_bytes)
            for loads in (((0, 1), (1, 1), (2, 0), (3, 0)), ((0, 0), (1, 0)), ((2, 1), (3, 1))):
                for i, part in loads:
                    _call(builder, "tileloadd64", 4 + i, _at(builder, starts[part][i], offset), row_bytes)
                for register in range(4):
                    _call(builder, "tdpbf16ps", register, 4 + register // 2, 6 + register % 2)
        for register in range(4):
            row = builder.mul(builder.add(arguments[2], word(register // 2)), word(PANEL))
            column = builder.mul(builder.add(arguments[3], word(register % 2)), word(4 * PANEL))
            place = _at(builder, sums.data, builder.add(builder.mul(row, width), column))
            _call(builder, "tilestored64", register, place, width)

    return types.void(left, right, types.intp, types.intp, out), generate


def _at(builder: ir.IRBuilder, data: ir.Value, offset: ir.Value) -> ir.Value:
    """A pointer so many bytes further."""
    return builder.gep(builder.bitcast(data, ir.IntType(8).as_pointer()), [offset])


def _call(builder: ir.IRBuilder, name: str, *arguments: Any) -> None:
    """An instruction of the unit; Python integers are register numbers."""
    byte = ir.IntType(8)
    values = [byte(a) if isinstance(a, int) else a for a in arguments]
    values = [
        builder.bitcast(v, byte.as_pointer()) if isinstance(v.type, ir.PointerType) else v for v in values
    ]
    kind = ir.FunctionType(ir.VoidType(), [v.type for v in values])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.{name}"), values)


@compiled
def _product(left: np.ndarray, right: np.ndarray, shapes: np.ndarray, out: np.ndarray) -> None:
    """out[i, j] = row i of left · row j of right, for as many as out has."""
    _start(shapes)  # type: ignore[call-arg]  # numba fills in the typing context
    for p in range(0, out.shape[0] // PANEL, 2):
        for q in range(0, out.shape[1] // PANEL, 2):
            _block(left, right, p, q, out)
    _stop()


def multiply(left: np.ndarray, right: np.ndarray, out: np.ndarray) -> None:
    """out[i, j] = row i of left · row j of right, (rows, columns) float32 in whole blocks; operands as in Split."""
    _product(left, right, _SHAPES, out)
