"""Dot products of rows: in float64 for what decides, in float32 with a known error for what only screens.

Both run two sums of eight lanes each: element k goes to lane k mod 8 of the first sum or of the second, by turns of
eight. The two sums are added, then the lanes as a tree (4 + 4, 2 + 2, 1 + 1), then the d mod 16 elements that are
left, one by one. No two additions are exchanged and, in float64, none is fused with a product, so the bits are the
same on every processor and in both kernels.
"""

from smart.submodular._kernels.compilation import PLAIN

if PLAIN:
    from smart.submodular._kernels.dot_products_plain import dot64, dots32
else:
    from smart.submodular._kernels.dot_products_llvm import dot64, dots32

__all__ = ["dot64", "dots32", "dots32_error", "float32_dot_error", "rounding_error"]


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
