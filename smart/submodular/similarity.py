"""Similarity kernels: cosines of vectors, never stored whole, or a matrix that the caller gives."""

import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from smart.submodular.arithmetic import inverse_norms, unit_rows

LONGEST = 2.0**40
"""Norms from its inverse to itself are taken as they are: products, and what rounds off them, fit in float32."""


def _real(values: np.ndarray, what: str) -> np.ndarray:
    """As an array.

    Raises:
        ValueError: where the values are no real numbers.
    """
    values = np.asarray(values)
    if values.dtype.kind not in "fiub":
        raise ValueError(f"{what} must hold real numbers, not {values.dtype}")
    return values


def _in_range(x: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows so long or short that their products leave float32 are multiplied by a power of two: the same cosines."""
    far = np.flatnonzero((scale > LONGEST) | ((scale < 1 / LONGEST) & (scale > 0)))
    if far.size:
        x = x.copy()
        x[far] = np.ldexp(x[far], np.frexp(scale[far])[1][:, None])
        scale[far] = inverse_norms(x[far])
    return x, scale


@dataclass(frozen=True)
class Cosine:
    """s_ij = x_i·x_j / (|x_i||x_j|), s_ii = 1; a zero vector has cosine 0 with everything, itself included."""

    x: np.ndarray
    """The vectors as given, (n, d) float32, C-contiguous; not normalised, and copied only where norms are extreme."""
    scale: np.ndarray
    """1/|x_i|, (n,) float64; 0 for a zero vector."""

    @staticmethod
    def of(x: np.ndarray) -> "Cosine":
        """Check x (n, d), warn once of zero vectors with their count.

        Raises:
            ValueError: x is not two-dimensional, is empty, or holds what is no finite float32.
        """
        x = _real(x, "vectors")
        with np.errstate(over="ignore"):  # float64 beyond float32 becomes an infinity, and is refused below
            x = np.ascontiguousarray(x, dtype=np.float32)
        if x.ndim != 2 or 0 in x.shape:
            raise ValueError(
                f"vectors must be a matrix with at least one row and column, not of shape {x.shape}"
            )
        scale = inverse_norms(x)
        bad = np.flatnonzero(np.isnan(scale))
        if bad.size:
            raise ValueError(
                f"{bad.size} of {len(x)} vectors hold a NaN, an infinity or a number too large for float32; "
                f"the first is row {bad[0]}"
            )
        x, scale = _in_range(x, scale)
        zeros = int((scale == 0).sum())
        if zeros:
            warnings.warn(
                f"{zeros} of {len(x)} vectors are zero: their cosine with everything is taken as 0",
                stacklevel=3,
            )
        return Cosine(x, scale)

    @property
    def n(self) -> int:
        return len(self.x)

    @cached_property
    def zeros(self) -> np.ndarray:
        """Row numbers of zero vectors."""
        return np.flatnonzero(self.scale == 0)

    def unit(self, rows: np.ndarray | None = None, dtype: type = np.float64) -> np.ndarray:
        """Rows (all, unless given) as unit vectors, (rows, d)."""
        return unit_rows(self.x, self.scale, np.arange(self.n) if rows is None else rows, dtype)

    def take(self, rows: np.ndarray) -> "Cosine":
        """The kernel of some rows alone."""
        return Cosine(self.x[rows], self.scale[rows])

    def diagonal(self) -> np.ndarray:
        return (self.scale > 0).astype(np.float64)

    def row_sums(self) -> np.ndarray:
        unit = self.unit()
        return unit @ unit.sum(axis=0)

    def dense(self) -> np.ndarray:
        """The whole kernel, (n, n) float64, symmetric to the last bit."""
        unit = self.unit()
        out = unit @ unit.T
        np.fill_diagonal(out, self.diagonal())
        return out


@dataclass(frozen=True)
class Matrix:
    """A kernel given as a matrix: s_va is how well candidate a stands for row v."""

    s: np.ndarray
    """(n, n), float32 or float64."""

    @staticmethod
    def of(s: np.ndarray, *, symmetric: bool) -> "Matrix":
        """Check s.

        Raises:
            ValueError: s is not square, not finite, or not symmetric where the function needs that.
        """
        s = _real(s, "a kernel")
        if s.dtype not in (np.float32, np.float64):
            s = s.astype(np.float64)
        if s.ndim != 2 or s.shape[0] != s.shape[1] or s.size == 0:
            raise ValueError(f"a kernel must be a square matrix, not of shape {s.shape}")
        if not np.isfinite(s).all():
            raise ValueError("the kernel holds a NaN or an infinity")
        if symmetric and not np.allclose(s, s.T, rtol=1e-5, atol=1e-6 * np.abs(s).max()):
            raise ValueError("this function needs a symmetric kernel; (S + S.T) / 2 makes one")
        return Matrix(s)

    @property
    def n(self) -> int:
        return len(self.s)

    def take(self, rows: np.ndarray) -> "Matrix":
        """The kernel of some rows alone."""
        return Matrix(self.s[np.ix_(rows, rows)])

    def diagonal(self) -> np.ndarray:
        return np.diagonal(self.s).astype(np.float64)

    def column(self, i: int) -> np.ndarray:
        """s_·i, (n,) float64."""
        return self.s[:, i].astype(np.float64)

    def row_sums(self) -> np.ndarray:
        return self.s.sum(axis=0, dtype=np.float64)

    def dense(self) -> np.ndarray:
        return self.s.astype(np.float64)
