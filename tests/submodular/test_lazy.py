"""Lazy greedy: naive greedy's order from fewer evaluations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from smart.submodular import FacilityLocation, GraphCut, GreedyState, LogDeterminant, SetFunction, maximize
from smart.submodular.arithmetic import TIE
from tests.submodular.examples import EXAMPLES, clustered, uniform

FUNCTIONS = {
    "facility_location": FacilityLocation,
    "graph_cut": GraphCut,
    "graph_cut_steep": lambda X: GraphCut(X, tradeoff=0.9),
    "graph_cut_modular": lambda X: GraphCut(X, tradeoff=0.0),
    "logdet": LogDeterminant,
    "logdet_small": lambda X: LogDeterminant(X, regularizer=0.05),
}

pytestmark = pytest.mark.filterwarnings("ignore:.*vectors are zero")


class Coverage(SetFunction):
    """f(A) = Σ of the weights of what A covers; counts what it is asked."""

    def __init__(self, covers: np.ndarray, weights: np.ndarray) -> None:
        self.covers, self.weights, self.n = covers.astype(np.bool_), weights, len(covers)
        self.asked = 0

    def begin(self) -> GreedyState:
        return CoverageState(self)


class CoverageState(GreedyState):
    def __init__(self, f: Coverage) -> None:
        self.f, self.left = f, f.weights.astype(np.float64)

    def gains(self) -> np.ndarray:
        return self.gains_of(np.arange(self.f.n))

    def gains_of(self, rows: np.ndarray) -> np.ndarray:
        self.f.asked += len(rows)
        return (self.f.covers[rows] * self.left).sum(axis=1)

    def add(self, i: int) -> None:
        self.left = np.where(self.f.covers[i], 0.0, self.left)


def assert_lazy_is_naive(f: Any, budget: int) -> None:
    lazy, naive = (maximize(f, budget, optimizer) for optimizer in ("lazy", "naive"))
    np.testing.assert_array_equal(lazy.order, naive.order)
    np.testing.assert_allclose(lazy.gains, naive.gains, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("make", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
@pytest.mark.parametrize("n", [1, 2, 7, 300])
def test_lazy_equals_naive(make: Any, example: Any, n: int) -> None:
    assert_lazy_is_naive(make(example(n)), n)


@given(
    covers=arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 6))),
    weights=arrays(np.float64, 6, elements=st.sampled_from([0.0, 0.5, 1.0, 1.0 + 0.5 * TIE, 1.0 + 3 * TIE])),
)
@settings(max_examples=200, deadline=None)
def test_ties_and_near_ties_go_to_the_same_rows(covers: np.ndarray, weights: np.ndarray) -> None:
    """Weights within the tie width of each other and just outside it."""
    assert_lazy_is_naive(Coverage(covers, weights[: covers.shape[1]]), len(covers))


def test_a_stale_bound_within_the_tie_width_is_evaluated() -> None:
    """Row 0's stale bound is just under row 2's gain, and tied with it: the lowest row wins."""
    weights = np.array([5.0, 1.0, 1.0 + 0.5 * TIE])
    covers = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]])
    assert maximize(Coverage(covers, weights), 3, "lazy").order.tolist() == [1, 0, 2]


def test_few_rows_are_evaluated() -> None:
    rng = np.random.default_rng(0)
    f = Coverage(rng.random((2000, 1500)) < rng.random((2000, 1)) ** 4 / 10, rng.random(1500))
    lazy = maximize(f, 50, "lazy")
    asked, f.asked = f.asked, 0
    np.testing.assert_array_equal(maximize(f, 50, "naive").order, lazy.order)
    assert asked < f.asked / 3


def test_a_function_that_says_it_is_not_submodular_is_maximised_naively() -> None:
    f = GraphCut(clustered(200, mean=0.0), tradeoff=0.9)
    assert not f.submodular
    lazy = maximize(f, 200, "lazy")
    assert lazy.optimizer == "naive"
    np.testing.assert_array_equal(lazy.order, maximize(f, 200, "naive").order)


class Pairs(SetFunction, GreedyState):
    """f(A) = |A|²: gains rise."""

    n = 4
    chosen = 0

    def begin(self) -> GreedyState:
        return Pairs()

    def gains(self) -> np.ndarray:
        return np.full(self.n, 2.0 * self.chosen + 1)

    def add(self, i: int) -> None:
        self.chosen += 1


def test_a_gain_that_rises_is_refused_with_the_remedy() -> None:
    with pytest.raises(
        ValueError,
        match=r"Pairs is not submodular: the gain of row \d rose from 1 to 3.*submodular = False.*naive",
    ):
        maximize(Pairs(), 3, "lazy")
    f = Pairs()
    f.submodular = False
    assert maximize(f, 3, "lazy").order.tolist() == [0, 1, 2]


@pytest.mark.parametrize("rows", [1, 3, 700])
def test_whether_graph_cut_is_submodular(rows: int) -> None:
    X = uniform(rows)
    assert GraphCut(X).submodular
    assert GraphCut.from_kernel((X @ X.T).astype(np.float64)).submodular
    X = np.concatenate([X, -X[-1:]])  # the last pair of all is opposite
    assert not GraphCut(X).submodular
    assert not GraphCut.from_kernel((X @ X.T).astype(np.float64)).submodular
    assert GraphCut(X, tradeoff=0.0).submodular
    assert GraphCut.from_kernel(np.diag([-1.0, 2.0])).submodular, "the diagonal lowers no other gain"
