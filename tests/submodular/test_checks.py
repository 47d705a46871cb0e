"""The contract test for set functions: it passes what is right, and names what is wrong."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from smart.submodular import (
    ContractError,
    FacilityLocation,
    GraphCut,
    GreedyState,
    LogDeterminant,
    Random,
    SetFunction,
    check_set_function,
)


class Nearest(SetFunction):
    """Facility location on dot products clipped at 0, by the definition: a new function as a user writes it."""

    def __init__(self, X: np.ndarray, power: float = 1.0) -> None:
        self.S = np.maximum(X.astype(np.float64) @ X.T.astype(np.float64), 0.0) ** power
        self.n = len(X)

    def begin(self) -> GreedyState:
        return NearestState(self.S)


class NearestState(GreedyState):
    def __init__(self, S: np.ndarray) -> None:
        self.S, self.best = S, np.zeros(len(S))

    def gains(self) -> np.ndarray:
        return np.maximum(self.S - self.best[:, None], 0).sum(axis=0)

    def add(self, i: int) -> None:
        self.best = np.maximum(self.best, self.S[:, i])


class DuckTyped:
    """Inherits nothing, and has no begin()."""

    def __init__(self, X: np.ndarray) -> None:
        self.state, self.n = NearestState(Nearest(X).S), len(X)

    def gains(self) -> np.ndarray:
        return self.state.gains()

    def add(self, i: int) -> None:
        self.state.add(i)


class ZerosRefused(Nearest):
    def __init__(self, X: np.ndarray) -> None:
        if not X.any(axis=1).all():
            raise ValueError("a vector is zero")
        super().__init__(X)


@pytest.mark.parametrize(
    "make",
    [
        FacilityLocation,
        GraphCut,
        LogDeterminant,
        Random,
        partial(GraphCut, tradeoff=0.9),
        partial(LogDeterminant, regularizer=0.01),
        lambda X: FacilityLocation.from_kernel(X @ X.T),
        lambda X: GraphCut.from_kernel(X @ X.T),
        lambda X: LogDeterminant.from_kernel(X @ X.T),
        Nearest,
        partial(Nearest, power=2.0),
        DuckTyped,
        ZerosRefused,
    ],
)
def test_what_is_right_passes(make: Any) -> None:
    check_set_function(make)
    check_set_function(make, seed=7)


def changed(**state: Any) -> Any:
    """Nearest with some methods of its state replaced."""

    def make(X: np.ndarray) -> Nearest:
        f = Nearest(X)
        kind = type("Changed", (NearestState,), state)
        f.begin = lambda: kind(f.S)  # type: ignore[method-assign]
        return f

    return make


class Shared(Nearest):
    """All states are one."""

    def __init__(self, X: np.ndarray) -> None:
        super().__init__(X)
        self.state = NearestState(self.S)

    def begin(self) -> GreedyState:
        return self.state


class SharedArray(Nearest):
    """States differ, but not the array that add() writes to."""

    def __init__(self, X: np.ndarray) -> None:
        super().__init__(X)
        self.best = np.zeros(len(X))

    def begin(self) -> GreedyState:
        state = NearestState(self.S)
        state.best = self.best
        state.add = lambda i: np.maximum(self.best, self.S[:, i], out=self.best)  # type: ignore
        return state


class Rising(Nearest):
    def begin(self) -> GreedyState:
        return RisingState(self.n)


class RisingState(GreedyState):
    def __init__(self, n: int) -> None:
        self.n, self.chosen = n, 0

    def gains(self) -> np.ndarray:
        return np.full(self.n, 1.0 + self.chosen)

    def add(self, i: int) -> None:
        self.chosen += 1


class Normalising(Nearest):
    def __init__(self, X: np.ndarray) -> None:
        X /= np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-9)
        super().__init__(X)


class Drawn(Nearest):
    def begin(self) -> GreedyState:
        state = NearestState(self.S)
        state.best = state.best + np.random.default_rng().random(self.n)
        return state


class WrongRows(Nearest):
    def take(self, rows: np.ndarray) -> Nearest:
        return self


class WrongOrder(Nearest):
    def exact(self, budget: int, resources: Any) -> tuple[np.ndarray, np.ndarray]:
        return np.arange(budget), np.ones(budget)


class Counting(Nearest):
    def __init__(self, X: np.ndarray) -> None:
        super().__init__(X)
        self.n = len(X) + 1


class Options(Nearest):
    added_options = ("power", "exponent")


WRONG = {
    "the number of rows": (Counting, "number of rows", "n = 25", "number of rows to choose from"),
    "the shape": (changed(gains=lambda self: np.ones(3)), "gains", r"shape (3,)", "One gain for every row"),
    "a list": (changed(gains=lambda self: [1.0] * len(self.best)), "gains", "list", "One gain"),
    "integers": (changed(gains=lambda self: np.ones(len(self.best), int)), "gains", "int64", "One gain"),
    "NaN": (changed(gains=lambda self: self.best * np.nan), "gains", "nan at row 0", "Look for 0/0"),
    "one state": (Shared, "independent states", "instead of", "begin() has to make a new state"),
    "a shared array": (SharedArray, "independent states", "instead of", "copy arrays that states share"),
    "rising gains": (Rising, "diminishing gains", "rose from 1 to 2", "submodular = False"),
    "the vectors": (Normalising, "vectors unchanged", "other numbers", "Copy X"),
    "chance": (Drawn, "independent states", "instead of", "new state"),
    "some gains": (
        changed(gains_of=lambda self, rows: self.gains()[np.sort(rows)]),
        "gains of some rows",
        "instead of",
        "in the order of `rows`",
    ),
    "the rows taken": (WrongRows, "take", "n = 24", "those rows alone"),
    "the exact order": (WrongOrder, "exact", "regret", "leave it out"),
    "an added option": (Options, "options", "['exponent']", "comma"),
    "an error": (changed(add=lambda self, i: 1 // 0), "vectors unchanged", "ZeroDivisionError", "traceback"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_what_is_wrong_is_named(fault: str) -> None:
    make, check, found, hint = WRONG[fault]
    with pytest.raises(ContractError) as caught:
        check_set_function(make)
    error = caught.value
    assert (error.check, found in error.found, hint in error.hint) == (check, True, True), str(error)
    assert all(part in str(error) for part in (check, error.expected, error.found, error.hint))


def test_rising_gains_are_allowed_to_a_function_that_says_so() -> None:
    class Said(Rising):
        submodular = False

    check_set_function(Said)


def test_a_function_without_vectors_is_made_from_its_number_of_rows() -> None:
    check_set_function(lambda n, seed: Random(n, seed), needs_vectors=False)
    with pytest.raises(ContractError, match="unexpected keyword argument 'n'"):
        check_set_function(FacilityLocation, needs_vectors=False)
