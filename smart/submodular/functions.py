"""Set functions over n rows: what is maximised. How, stands in maximize.py and in the modules of the exact kernels.

A new function is one class with `n`, `needs_vectors` and `begin()`; that is all the naive optimiser asks for. It may
also have `exact()`, its own quick and exact greedy, `take()`, which partition and merge needs, `naive_memory`, the
bytes that `begin()` holds where they are many, and `single_threaded`, true where `exact()` leaves further threads idle.
"""

from numbers import Real
from typing import ClassVar, Protocol

import numpy as np

from smart.submodular import facility_location, graph_cut, log_determinant
from smart.submodular.resources import Resources
from smart.submodular.similarity import Cosine, Matrix


class GreedyState(Protocol):
    """A growing set A. Arrays are float64."""

    def gains(self) -> np.ndarray:
        """f(A + i) − f(A) for every row i, (n,); values at rows of A are ignored."""
        ...

    def add(self, i: int) -> None:
        """A := A + i."""
        ...


class SetFunction(Protocol):
    """What `maximize` takes."""

    needs_vectors: ClassVar[bool]
    """False where no embedding is needed to make one."""

    @property
    def n(self) -> int:
        """Rows to choose from."""
        ...

    def begin(self) -> GreedyState:
        """The empty set."""
        ...


class FacilityLocation:
    """f(A) = Σ_v max(0, max_{a∈A} s_va): how well the chosen stand for all rows (SMART §3; Frieze 1974).

    Args:
        X: (n, d) float32 vectors; s is their cosine, which f itself clips at 0.
    """

    needs_vectors: ClassVar[bool] = True

    def __init__(self, X: np.ndarray) -> None:
        self.kernel: Cosine | Matrix = Cosine.of(X)

    @classmethod
    def from_kernel(cls, S: np.ndarray) -> "FacilityLocation":
        """S (n, n): s_va at row v, column a; need not be symmetric."""
        return cls._of(Matrix.of(S, symmetric=False))

    @classmethod
    def _of(cls, kernel: Cosine | Matrix) -> "FacilityLocation":
        self = cls.__new__(cls)
        self.kernel = kernel
        return self

    @property
    def n(self) -> int:
        return self.kernel.n

    def take(self, rows: np.ndarray) -> "FacilityLocation":
        """The same function over some rows alone."""
        return self._of(self.kernel.take(rows))

    @property
    def naive_memory(self) -> int:
        """Bytes: the kernel in float64, and a copy while the first gains are summed."""
        return 16 * self.n**2

    def begin(self) -> GreedyState:
        return facility_location.FacilityLocationState(self.kernel)

    def exact(self, budget: int, resources: Resources) -> tuple[np.ndarray, np.ndarray]:
        return facility_location.greedy(self.kernel, budget, resources)


class GraphCut:
    """f(A) = Σ_{v∈V, a∈A} s_va − λ Σ_{a,b∈A} s_ab, cosines not clipped (SMART §3).

    Args:
        X: (n, d) float32 vectors.
        tradeoff: λ ≥ 0; f is monotone for λ ≤ 0.5 where cosines are not negative.
    """

    needs_vectors: ClassVar[bool] = True
    single_threaded: ClassVar[bool] = True

    def __init__(self, X: np.ndarray, tradeoff: float = 0.4) -> None:
        self.kernel: Cosine | Matrix = Cosine.of(X)
        self.tradeoff = _at_least_zero("tradeoff", tradeoff)

    @classmethod
    def from_kernel(cls, S: np.ndarray, tradeoff: float = 0.4) -> "GraphCut":
        """S (n, n), symmetric."""
        return cls._of(Matrix.of(S, symmetric=True), _at_least_zero("tradeoff", tradeoff))

    @classmethod
    def _of(cls, kernel: Cosine | Matrix, tradeoff: float) -> "GraphCut":
        self = cls.__new__(cls)
        self.kernel, self.tradeoff = kernel, tradeoff
        return self

    @property
    def n(self) -> int:
        return self.kernel.n

    def take(self, rows: np.ndarray) -> "GraphCut":
        """The same function over some rows alone."""
        return self._of(self.kernel.take(rows), self.tradeoff)

    def begin(self) -> GreedyState:
        return graph_cut.GraphCutState(self.kernel, self.tradeoff)

    def exact(self, budget: int, resources: Resources) -> tuple[np.ndarray, np.ndarray]:
        return graph_cut.greedy(self.kernel, self.tradeoff, budget, resources)


class LogDeterminant:
    """f(A) = log det(S_A + λI), the log-volume of the chosen vectors (SMART §3; Kulesza & Taskar 2012).

    Args:
        X: (n, d) float32 vectors; s is their cosine.
        regularizer: λ > 0; f is monotone for λ ≥ 1.
    """

    needs_vectors: ClassVar[bool] = True

    def __init__(self, X: np.ndarray, regularizer: float = 1.0) -> None:
        self.kernel: Cosine | Matrix = Cosine.of(X)
        self.regularizer = _above_zero("regularizer", regularizer)

    @classmethod
    def from_kernel(cls, S: np.ndarray, regularizer: float = 1.0) -> "LogDeterminant":
        """S (n, n), symmetric and positive semi-definite."""
        return cls._of(Matrix.of(S, symmetric=True), _above_zero("regularizer", regularizer))

    @classmethod
    def _of(cls, kernel: Cosine | Matrix, regularizer: float) -> "LogDeterminant":
        self = cls.__new__(cls)
        self.kernel, self.regularizer = kernel, regularizer
        return self

    @property
    def n(self) -> int:
        return self.kernel.n

    def take(self, rows: np.ndarray) -> "LogDeterminant":
        """The same function over some rows alone."""
        return self._of(self.kernel.take(rows), self.regularizer)

    def begin(self) -> GreedyState:
        if isinstance(self.kernel, Matrix):
            return log_determinant.LogDeterminantKernelState(self.kernel, self.regularizer)
        return log_determinant.LogDeterminantState(self.kernel, self.regularizer)

    def exact(self, budget: int, resources: Resources) -> tuple[np.ndarray, np.ndarray]:
        return log_determinant.greedy(self.kernel, self.regularizer, budget, resources)


class Random:
    """The control: a uniformly random order in which every gain is 0.

    Args:
        n: rows to choose from.
        seed: of the permutation.
    """

    needs_vectors: ClassVar[bool] = False

    def __init__(self, n: int, seed: int = 0) -> None:
        if n < 1:
            raise ValueError(f"n={n}: there must be at least one row")
        self.n = n
        self.seed = seed

    def begin(self) -> "Random":
        return self

    def gains(self) -> np.ndarray:
        return np.zeros(self.n)

    def add(self, i: int) -> None:
        pass

    def exact(self, budget: int, resources: Resources) -> tuple[np.ndarray, np.ndarray]:
        return np.random.default_rng(self.seed).permutation(self.n)[:budget], np.zeros(budget)


def _at_least_zero(name: str, value: float) -> float:
    if not _is_number(value) or not 0 <= value < np.inf:
        raise ValueError(f"{name}={value}: must be a finite number, at least 0")
    return float(value)


def _above_zero(name: str, value: float) -> float:
    if not _is_number(value) or not 0 < value < np.inf:
        raise ValueError(f"{name}={value}: must be a finite number above 0")
    return float(value)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
