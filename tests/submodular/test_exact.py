"""The exact optimisers, judged by regret, by the naive one, and by brute force."""

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from smart.submodular import FacilityLocation, GraphCut, LogDeterminant, maximize, regret
from tests.submodular.examples import EXAMPLES, clustered

FUNCTIONS = {
    "facility_location": FacilityLocation,
    "graph_cut": GraphCut,
    "graph_cut_steep": lambda X: GraphCut(X, tradeoff=0.9),
    "graph_cut_modular": lambda X: GraphCut(X, tradeoff=0.0),
    "logdet": LogDeterminant,
    "logdet_small": lambda X: LogDeterminant(X, regularizer=0.05),
}
LIMIT = 1e-6

functions = pytest.mark.parametrize("make", FUNCTIONS.values(), ids=FUNCTIONS)
pytestmark = pytest.mark.filterwarnings("ignore:.*vectors are zero")


def kernel_of(X: np.ndarray) -> np.ndarray:
    """Cosines in float64, the slow plain way."""
    X = X.astype(np.float64)
    norms = np.linalg.norm(X, axis=1)
    S = (X @ X.T) / np.maximum(np.outer(norms, norms), 1e-300)
    S[np.diag_indices(len(X))] = norms > 0
    return S


def value(name: str, S: np.ndarray, A: list[int]) -> float:
    """f(A) by its definition."""
    part = S[np.ix_(A, A)]
    if name == "facility_location":
        return np.maximum(S[:, A].max(axis=1, initial=0), 0).sum()
    if name.startswith("graph_cut"):
        tradeoff = {"graph_cut": 0.4, "graph_cut_steep": 0.9, "graph_cut_modular": 0.0}[name]
        return S[:, A].sum() - tradeoff * part.sum()
    return np.linalg.slogdet(part + {"logdet": 1.0, "logdet_small": 0.05}[name] * np.eye(len(A)))[1]


@functions
@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
@pytest.mark.parametrize("n", [1, 2, 7, 300])
def test_full_order_has_no_regret(make, example, n):
    f = make(example(n))
    chosen = maximize(f, budget=n)
    assert chosen.order.dtype == np.int64
    assert chosen.gains.dtype == np.float64
    assert sorted(chosen.order) == list(range(n))
    replayed = regret(f, chosen.order)
    assert replayed.maximum <= LIMIT
    np.testing.assert_allclose(chosen.gains, replayed.gains, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("make", [FacilityLocation, GraphCut, LogDeterminant])
@pytest.mark.parametrize("example", ["clustered", "uniform", "duplicated", "negative", "zeros"])
def test_full_order_of_two_thousand_rows_has_no_regret(make, example):
    """More rows than the dense paths and one pool take."""
    f = make(EXAMPLES[example](2000))
    order = maximize(f, 2000).order
    assert sorted(order) == list(range(2000))
    assert regret(f, order).maximum <= LIMIT
    order[100:] = np.random.default_rng(0).permutation(order[100:])
    assert regret(f, order).maximum > LIMIT


@functions
@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_exact_equals_naive(make, example):
    f = make(example(120))
    np.testing.assert_array_equal(maximize(f, 120).order, maximize(f, 120, optimizer="naive").order)


@pytest.mark.parametrize("name", FUNCTIONS)
@given(
    X=arrays(
        np.float32, st.tuples(st.integers(1, 8), st.integers(1, 3)), elements=st.integers(-3, 3).map(float)
    )
)
@settings(max_examples=25, deadline=None)
def test_gains_equal_brute_force(name, X):
    """Small integers: ties, duplicates, opposite and zero vectors abound."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chosen = maximize(FUNCTIONS[name](X), budget=len(X))
    S = kernel_of(X)
    A: list[int] = []
    for pick, gain in zip(chosen.order, chosen.gains, strict=True):
        base = value(name, S, A)
        gains = {i: value(name, S, [*A, i]) - base for i in range(len(X)) if i not in A}
        assert gain == pytest.approx(gains[int(pick)], abs=1e-8)
        assert gain >= max(gains.values()) - 1e-8
        assert pick == min(i for i in gains if gains[i] >= max(gains.values()) - 1e-8)  # ties: lowest row
        A.append(int(pick))


@pytest.mark.parametrize("name", ["facility_location", "logdet"])
def test_first_pairs_are_near_the_best_pair(name):
    """Greedy's own guarantee against the best set of all, found by trying every set."""
    X = clustered(8, 4)
    S = kernel_of(X)
    best = max(value(name, S, list(A)) for A in itertools.combinations(range(8), 3))
    assert maximize(FUNCTIONS[name](X), 3).gains.sum() >= (1 - 1 / np.e) * best


@functions
def test_budgets_nest(make):
    f = make(clustered(1000))
    long, short = maximize(f, 1000), maximize(f, 100)
    np.testing.assert_array_equal(long.order[:100], short.order)
    np.testing.assert_allclose(long.gains[:100], short.gains, rtol=1e-12)


@functions
def test_a_shuffled_tail_is_found_out(make):
    f = make(clustered(300))
    order = maximize(f, 300).order.copy()
    order[30:] = np.random.default_rng(0).permutation(order[30:])
    assert regret(f, order).maximum > LIMIT


@functions
def test_permuted_rows_give_the_permuted_order(make):
    X = clustered(300)
    permutation = np.random.default_rng(1).permutation(300)
    order = maximize(make(X), 300).order
    permuted = permutation[maximize(make(X[permutation]), 300).order]
    # All first gains of logdet are tied, and the last picks of facility location often are.
    assert regret(make(X), permuted).maximum <= LIMIT
    if not isinstance(make(X), LogDeterminant):
        np.testing.assert_array_equal(order[:50], permuted[:50])


@functions
def test_scaling_a_vector_changes_nothing(make):
    X = clustered(200)
    scales = np.random.default_rng(2).choice([0.25, 0.5, 2.0, 1024.0], size=(200, 1)).astype(np.float32)
    np.testing.assert_array_equal(maximize(make(X), 200).order, maximize(make(X * scales), 200).order)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("example", ["clustered", "negative", "duplicated"])
@pytest.mark.parametrize(
    "make",
    [FacilityLocation.from_kernel, GraphCut.from_kernel, LogDeterminant.from_kernel],
    ids=["fl", "gc", "logdet"],
)
def test_kernel_given_as_a_matrix(make, example, dtype):
    X = EXAMPLES[example](150)
    f = make(kernel_of(X).astype(dtype))
    order = maximize(f, 150).order
    assert regret(f, order).maximum <= LIMIT
    if dtype == np.float64:
        vectors = {
            "FacilityLocation": FacilityLocation,
            "GraphCut": GraphCut,
            "LogDeterminant": LogDeterminant,
        }
        assert regret(vectors[type(f).__name__](X), order).maximum <= LIMIT


def test_facility_location_takes_a_kernel_that_is_not_symmetric():
    S = np.random.default_rng(0).random((60, 60)) - 0.3
    f = FacilityLocation.from_kernel(S)
    chosen = maximize(f, 60)
    assert chosen.order[0] == np.maximum(S, 0).sum(axis=0).argmax()
    assert regret(f, chosen.order).maximum <= LIMIT


def test_graph_cut_gains_may_rise_and_turn_negative():
    """Where cosines are negative greedy's gains aren't sorted, which lazy evaluation can't follow."""
    f = GraphCut(clustered(400, mean=0.0), tradeoff=0.9)
    chosen = maximize(f, 400)
    assert (np.diff(chosen.gains) > 0).any()
    assert chosen.gains.min() < 0
    np.testing.assert_array_equal(chosen.order, maximize(f, 400, optimizer="naive").order)


@pytest.mark.parametrize("make", [FacilityLocation, GraphCut, LogDeterminant])
@pytest.mark.parametrize("factors", [[1e-40], [1e-30], [1e30], [2e37], [1e-40, 1.0, 2e37]], ids=str)
def test_vectors_of_any_length_that_float32_can_hold(make, factors):
    X = clustered(900, 64)
    scaled = (X * np.resize(factors, len(X))[:, None]).astype(np.float32)
    chosen = maximize(make(scaled), 900)
    assert sorted(chosen.order) == list(range(900))
    assert regret(make(scaled), chosen.order).maximum <= LIMIT
    assert np.isfinite(chosen.gains).all()
    if min(factors) > 1e-38:  # below, the numbers themselves have lost digits
        assert regret(make(X), chosen.order).maximum <= LIMIT
