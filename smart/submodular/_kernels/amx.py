"""Products of float32 rows by a processor's matrix unit (Intel AMX), faster than in float32.

The unit multiplies bfloat16, eight bits of significand, so each row goes in as the sum of two: a = h + l + r, with h
the nearest in bfloat16, l the nearest to what is left, and r dropped. For two rows,

    a·b − (l·h' + h·h' + h·l') = l·l' + r·b + a·r' − r·r',

at most L² + 2R + R² for unit rows (Cauchy and Schwarz), where L and R are the largest norms of l and r; some 10⁻⁵.

The product of two bfloat16 is exact in float32, and only sums are rounded. One instruction adds 32 products: the even
and the odd ones in turn, each to a sum of its own from 0, then both, and the result to the register (TDPBF16PS in
Intel's Software Developer's Manual). So no product goes through more roundings than 17, and one for each instruction.
What the unit takes for 0, numbers under 2⁻¹²⁶, is far below that.
"""

import ctypes
import platform
import sys
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from smart.submodular.arithmetic import rounding_error
from smart.submodular._kernels.compilation import compiled, processor_features
from smart.submodular.resources import Resources

PANEL = 16  # rows of a register of the unit
DEPTH = 32  # their columns, in bfloat16
BLOCK = 2 * PANEL  # rows and columns that are multiplied at once, in four registers of sums
_SYSCALL, _REQUEST, _TILE_DATA = 158, 0x1023, 18  # arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)


@cache
def available() -> bool:
    """Whether code is compiled for a processor with the unit, and the system lets this process use it."""
    wanted = {"+amx-tile", "+amx-bf16"} <= processor_features()
    if not wanted or sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    return bool(ctypes.CDLL(None).syscall(_SYSCALL, _REQUEST, _TILE_DATA) == 0)


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
        """Of (n, d) float32 rows of norm 1; padded with zeros to whole blocks."""
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

    def product(self, rows: slice, other: "Split", columns: slice) -> np.ndarray:
        """Products of some of these rows with some of others, (rows, columns) float32; both start at a block."""
        h, w = rows.stop - rows.start, columns.stop - columns.start
        out = np.empty((-(-h // BLOCK) * BLOCK, -(-w // BLOCK) * BLOCK), np.float32)
        _product(self.left[rows.start // PANEL :], other.right[columns.start // PANEL :], _SHAPES, out)
        return np.ascontiguousarray(out[:h, :w])


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
