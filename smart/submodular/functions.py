"""The set functions: what is maximised. How, stands in maximize.py and in the modules of the exact greedies."""

import operator
from functools import cached_property
from numbers import Real
from typing import ClassVar, SupportsIndex, cast

import numpy as np

from smart.submodular import facility_location, graph_cut, log_determinant
from smart.submodular.base import GreedyState, SetFunction
from smart.submodular.resources import Resources
from smart.submodular.similarity import Cosine, Matrix


class FacilityLocation(SetFunction):
    """f(A) = Σ_v max(0, max_{a∈A} s_va): how well the chosen stand for all rows (SMART §3; Frieze 1974).

    Args:
        X: (n, d) float32 vectors; s is their cosine, which f itself clips at 0.

    Raises:
        ValueError: X is no matrix of finite float32 numbers with at least one row and column.
    """

    def __init__(self, X: np.ndarray) -> None:
        self._set(Cosine.of(X))

    @classmethod
    def from_kernel(cls, S: np.ndarray) -> "FacilityLocation":
        """S (n, n): s_va at row v, column a; need not be symmetric."""
        return cls._of(Matrix.of(S, symmetric=False))

    @classmethod
    def _of(cls, kernel: Cosine | Matrix) -> "FacilityLocation":
        self = cls.__new__(cls)
        self._set(kernel)
        return self

    def _set(self, kernel: Cosine | Matrix) -> None:
        self.kernel, self.n = kernel, kernel.n
        self.naive_memory = (
            16 * self.n**2
        )  # the kernel in float64, and a copy while the first gains are summed

    def take(self, rows: np.ndarray) -> "FacilityLocation":
        """The same function over some rows alone."""
        return self._of(self.kernel.take(rows))

    def begin(self) -> GreedyState:
        return facility_location.FacilityLocationState(self.kernel)

    def exact(self, budget: int, resources: Resources) -> tuple[np.ndarray, np.ndarray]:
        return facility_location.greedy(self.kernel, budget, resources)


class GraphCut(SetFunction):
    """f(A) = Σ_{v∈V, a∈A} s_va − λ Σ_{a,b∈A} s_ab, cosines not clipped (SMART §3).

    Args:
        X: (n, d) float32 vectors.
        tradeoff: λ ≥ 0; f is monotone for λ ≤ 0.5 where cosines are not negative.

    Raises:
        ValueError: X is no matrix of finite float32 numbers with at least one row and column, or λ is out of range.
    """

    single_threaded: ClassVar[bool] = True

    def __init__(self, X: np.ndarray, tradeoff: float = 0.4) -> None:
        self.check_options(tradeoff=tradeoff)
        self._set(Cosine.of(X), tradeoff)

    @classmethod
    def check_options(cls, **options: object) -> None:
        """Check options by name.

        Raises:
            ValueError: `tradeoff` is no finite number, at least 0.
        """
        if "tradeoff" in options:
            value = options["tradeoff"]
            if not _is_number(value) or not 0 <= cast(float, value) < np.inf:
                raise ValueError(f"tradeoff={value}: must be a finite number, at least 0")

    @classmethod
    def from_kernel(cls, S: np.ndarray, tradeoff: float = 0.4) -> "GraphCut":
        """S (n, n), symmetric."""
        cls.check_options(tradeoff=tradeoff)
        return cls._of(Matrix.of(S, symmetric=True), tradeoff)

    @classmethod
    def _of(cls, kernel: Cosine | Matrix, tradeoff: float) -> "GraphCut":
        self = cls.__new__(cls)
        self._set(kernel, tradeoff)
        return self

    def _set(self, kernel: Cosine | Matrix, tradeoff: float) -> None:
        self.kernel, self.n, self.tradeoff = kernel, kernel.n, float(tradeoff)

    @cached_property
    def submodular(self) -> bool:  # type: ignore[override]  # the class says True where an instance knows better
        """Whether no similarity is negative (or λ = 0): elsewhere a pick may raise gains. Looks at all pairs, once."""
        return graph_cut.never_rises(self.kernel, self.tradeoff)

    def take(self, rows: np.ndarray) -> "GraphCut":
        """The same function over some rows alone."""
        return self._of(self.kernel.take(rows), self.tradeoff)

    def begin(self) -> GreedyState:
        if isinstance(self.kernel, Matrix):
            return graph_cut.GraphCutKernelState(self.kernel, self.tradeoff)
        return graph_cut.GraphCutState(self.kernel, self.tradeoff)

    def exact(self, budget: int, resources: Resources) -> tuple[np.ndarray, np.ndarray]:
        return graph_cut.greedy(self.kernel, self.tradeoff, budget, resources)


class LogDeterminant(SetFunction):
    """f(A) = log det(S_A + λI), the log-volume of the chosen vectors (SMART §3; Kulesza & Taskar 2012).

    Args:
        X: (n, d) float32 vectors; s is their cosine.
        regularizer: λ > 0; f is monotone for λ ≥ 1.

    Raises:
        ValueError: X is no matrix of finite float32 numbers with at least one row and column, or λ is out of range.
    """

    def __init__(self, X: np.ndarray, regularizer: float = 1.0) -> None:
        self.check_options(regularizer=regularizer)
        self._set(Cosine.of(X), regularizer)

    @classmethod
    def check_options(cls, **options: object) -> None:
        """Check options by name.

        Raises:
            ValueError: `regularizer` is no finite number above 0.
        """
        if "regularizer" in options:
            value = options["regularizer"]
            if not _is_number(value) or not 0 < cast(float, value) < np.inf:
                raise ValueError(f"regularizer={value}: must be a finite number above 0")

    @classmethod
    def from_kernel(cls, S: np.ndarray, regularizer: float = 1.0) -> "LogDeterminant":
        """S (n, n), symmetric and positive semi-definite."""
        cls.check_options(regularizer=regularizer)
        return cls._of(Matrix.of(S, symmetric=True), regularizer)

    @classmethod
    def _of(cls, kernel: Cosine | Matrix, regularizer: float) -> "LogDeterminant":
        self = cls.__new__(cls)
        self._set(kernel, regularizer)
        return self

    def _set(self, kernel: Cosine | Matrix, regularizer: float) -> None:
        self.kernel, self.n, self.regularizer = kernel, kernel.n, float(regularizer)

    def take(self, rows: np.ndarray) -> "LogDeterminant":
        """The same function over some rows alone."""
        return self._of(self.kernel.take(rows), self.regularizer)

    def begin(self) -> GreedyState:
        if isinstance(self.kernel, Matrix):
            return log_determinant.LogDeterminantKernelState(self.kernel, self.regularizer)
        return log_determinant.LogDeterminantState(self.kernel, self.regularizer)

    def exact(self, budget: int, resources: Resources) -> tuple[np.ndarray, np.ndarray]:
        return log_determinant.greedy(self.kernel, self.regularizer, budget, resources)


class Random(SetFunction):
    """The control: a uniformly random order in which every gain is 0.

    Args:
        n: rows to choose from.
        seed: of the permutation, at least 0.

    Raises:
        ValueError: n or seed is no whole number, or out of range.
    """

    needs_vectors: ClassVar[bool] = False

    def __init__(self, n: int, seed: int = 0) -> None:
        self.check_options(seed=seed)
        if n < 1:
            raise ValueError(f"n={n}: there must be at least one row")
        self.n, self.seed = n, seed

    @classmethod
    def check_options(cls, **options: object) -> None:
        """Check options by name.

        Raises:
            ValueError: `seed` is no whole number, at least 0.
        """
        if "seed" in options and not _is_whole(options["seed"]):
            raise ValueError(f"seed={options['seed']}: must be a whole number, at least 0")

    def begin(self) -> GreedyState:
        return RandomState(self.n)

    def exact(self, budget: int, resources: Resources) -> tuple[np.ndarray, np.ndarray]:
        return np.random.default_rng(self.seed).permutation(self.n)[:budget], np.zeros(budget)


class RandomState(GreedyState):
    """Every gain is 0, whatever is chosen."""

    def __init__(self, n: int) -> None:
        self._gains = np.zeros(n)

    def gains(self) -> np.ndarray:
        return self._gains

    def add(self, i: int) -> None:
        pass


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, SupportsIndex) and not isinstance(value, bool) and operator.index(value) >= 0
