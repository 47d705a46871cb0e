"""What a set function is to this room: the base classes of a function and of a growing set.

A new function takes one class of each kind:

    class Coverage(SetFunction):                       class CoverageState(GreedyState):
        def __init__(self, X): ...                         def gains(self): ...
        def begin(self): return CoverageState(self)        def add(self, i): ...

`check_set_function(Coverage)` says what is wrong with it. `maximize` also takes functions that do not inherit: whatever
has `n` and either `begin()`, which returns something with `gains` and `add`, or `gains` and `add` themselves.
"""

import copy
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np


class GreedyState(ABC):
    """A set A that grows row by row, from empty. It serves one run, and shares nothing that changes with others."""

    @abstractmethod
    def gains(self) -> np.ndarray:
        """f(A + i) − f(A) of every row i, (n,) float64, in row order.

        Called once before the first pick by every optimiser, and by "naive" before every pick. Must be finite for rows
        outside A; values at rows of A are ignored. The caller does not write to the array.
        """

    @abstractmethod
    def add(self, i: int) -> None:
        """A := A + i. Called once after each pick, with a row that is not in A, 0 ≤ i < n."""

    def gains_of(self, rows: np.ndarray) -> np.ndarray:
        """The gains of some rows, given as (m,) int64 row numbers outside A, each once: (m,) float64, in that order.

        Called by "lazy" only, with few rows at a time: worth writing where it takes less than all gains do. Must equal
        `gains()[rows]` but for rounding.
        """
        gains: np.ndarray = self.gains()[rows]
        return gains


class SetFunction(ABC):
    """f(A) for sets A of row numbers 0 … n − 1, with f(∅) = 0 or any constant: only gains are asked for.

    The constructor takes the vectors as its first argument, (n, d) float32, or, where `needs_vectors` is False, the
    number of rows as `n`, and options by name, with types and defaults that can be read from its signature
    (`tradeoff: float = 0.4`). It must not write to the vectors.

    A subclass may also have

        exact(budget, resources) -> (order, gains)
            its own exact greedy: (budget,) int64 row numbers and (budget,) float64 gains, the same order as "naive"
            gives (ties within `tie_width` go to the lowest row), within `resources.threads` and `resources.memory`;
            raises MemoryLimitError through `resources.need` before it allocates more. Without it, "exact" is "naive".

        take(rows) -> SetFunction
            the same function over some rows alone, (m,) int64 and ascending, whose row j is rows[j]. "partition"
            needs it.
    """

    needs_vectors: ClassVar[bool] = True
    """False where no embedding is needed: the constructor then takes n=, and seed= where it draws at random."""
    single_threaded: ClassVar[bool] = False
    """True where `exact` leaves further threads idle, so that several functions are better run side by side."""
    added_options: ClassVar[tuple[str, ...]] = ()
    """Names of constructor options that were added after results with this class had been stored: while at their
    default they are left out of a result's key, so that stored results keep their names."""
    submodular: bool = True
    """False, or a property that says so, where a gain may rise as rows are added: "lazy" then works as "naive"."""
    naive_memory: int = 0
    """Bytes above the vectors that a state holds at most, where they are many: checked before `begin`."""
    n: int
    """Rows to choose from: an attribute or a property, at least 1."""

    @classmethod  # noqa: B027  # by default all options are accepted
    def check_options(cls, **options: object) -> None:
        """Check constructor options by name, before any vector exists; those not given keep their defaults.

        Raises:
            ValueError: an option is out of range.
        """

    @abstractmethod
    def begin(self) -> GreedyState:
        """The state of the empty set: a new one at every call, equal to all others."""


class Evaluator:
    """A function's state as the optimisers read it, with what comes from outside checked.

    Raises:
        TypeError: f has neither begin() nor gains() and add().
    """

    def __init__(self, f: Any) -> None:
        self.n: int = f.n
        self._name = type(f).__name__
        self._state = begin_state(f)

    def gains(self, alive: np.ndarray) -> np.ndarray:
        """All gains, (n,) float64; `alive` (n,) is False for rows already chosen.

        Raises:
            ValueError: of another shape, or NaN or +∞ at a row that is alive.
        """
        gains = np.asarray(self._state.gains(), np.float64)
        self._require_shape(gains, (self.n,), "gains()")
        if not np.isfinite(gains).all():
            self._require_number(gains, np.flatnonzero(alive & ~(gains < np.inf)))
        return gains

    def gains_of(self, rows: np.ndarray) -> np.ndarray:
        """Gains of some rows that are not chosen, (m,) float64.

        Raises:
            ValueError: as for gains().
        """
        if not hasattr(self._state, "gains_of"):
            asked = np.zeros(self.n, np.bool_)
            asked[rows] = True
            return self.gains(asked)[rows]
        gains = np.asarray(self._state.gains_of(rows), np.float64)
        self._require_shape(gains, rows.shape, "gains_of(rows)")
        if not np.isfinite(gains).all():
            self._require_number(gains, np.flatnonzero(~(gains < np.inf)), rows)
        return gains

    def add(self, i: int) -> None:
        """A := A + i."""
        self._state.add(i)

    def _require_shape(self, gains: np.ndarray, shape: tuple[int, ...], method: str) -> None:
        if gains.shape != shape:
            raise ValueError(f"{self._name}: {method} returned shape {gains.shape}, not {shape}")

    def _require_number(self, gains: np.ndarray, wrong: np.ndarray, rows: np.ndarray | None = None) -> None:
        if wrong.size:
            row = wrong[0] if rows is None else rows[wrong[0]]
            raise ValueError(f"{self._name}: the gain of row {row} is {gains[wrong[0]]}")


def begin_state(f: Any) -> Any:
    """The state of the empty set; of an f without begin(), a copy of f itself.

    Raises:
        TypeError: f has neither begin() nor gains() and add().
    """
    if hasattr(f, "begin"):
        return f.begin()
    if hasattr(f, "gains") and hasattr(f, "add"):
        return copy.deepcopy(f)
    raise TypeError(f"{type(f).__name__} is no set function: it needs begin(), or gains() and add(i)")
