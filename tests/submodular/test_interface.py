"""What maximize accepts, refuses and leaves alone."""

import numpy as np
import pytest

from smart.submodular import (
    FacilityLocation,
    GraphCut,
    LogDeterminant,
    MemoryLimitError,
    Random,
    maximize,
    regret,
)
from tests.submodular.examples import clustered

FUNCTIONS = [FacilityLocation, GraphCut, LogDeterminant]


def test_random_is_a_seeded_permutation_without_gains():
    chosen = maximize(Random(n=50, seed=3), budget=50)
    assert sorted(chosen.order) == list(range(50))
    assert (chosen.gains == 0).all()
    np.testing.assert_array_equal(chosen.order, maximize(Random(n=50, seed=3), budget=50).order)
    np.testing.assert_array_equal(chosen.order[:9], maximize(Random(n=50, seed=3), budget=9).order)
    assert (chosen.order != maximize(Random(n=50, seed=4), budget=50).order).any()
    assert not Random.needs_vectors
    assert all(function.needs_vectors for function in FUNCTIONS)


@pytest.mark.parametrize("make", FUNCTIONS)
def test_zero_vectors_are_counted_once_and_come_without_nan(make):
    X = clustered(40)
    X[[3, 8, 21]] = 0
    with pytest.warns(UserWarning, match="3 of 40 vectors are zero") as caught:
        f = make(X)
    chosen = maximize(f, 40)
    assert len(caught) == 1
    assert np.isfinite(chosen.gains).all()
    assert sorted(chosen.order) == list(range(40))
    assert [row for row in chosen.order if row in (3, 8, 21)] == [3, 8, 21]


@pytest.mark.parametrize("make", FUNCTIONS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_refused(make, bad):
    X = clustered(10)
    X[4, 2] = bad
    with pytest.raises(ValueError, match="first is row 4"):
        make(X)


@pytest.mark.parametrize("make", FUNCTIONS)
@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (4,), (2, 2, 2)])
def test_shapes_are_checked(make, shape):
    with pytest.raises(ValueError, match="shape"):
        make(np.ones(shape, np.float32))


@pytest.mark.parametrize("make", [f.from_kernel for f in FUNCTIONS])
def test_kernels_are_checked(make):
    with pytest.raises(ValueError, match="square"):
        make(np.ones((2, 3)))
    with pytest.raises(ValueError, match="NaN"):
        make(np.array([[1, np.nan], [np.nan, 1]]))


@pytest.mark.parametrize("make", [GraphCut.from_kernel, LogDeterminant.from_kernel])
def test_kernels_must_be_symmetric_where_the_function_needs_it(make):
    with pytest.raises(ValueError, match="symmetric"):
        make(np.array([[1, 0.5], [0, 1]]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: maximize(f, 0), "choose from 1 to 5 of 5"),
        (lambda f: maximize(f, 6), "choose from 1 to 5 of 5"),
        (lambda f: maximize(f, 2, optimizer="lazy"), "exact, naive, partition"),
        (lambda f: maximize(f, 2, threads=0), "threads=0"),
        (lambda f: maximize(f, 2, memory_limit="much"), "512MB"),
        (lambda f: maximize(f, 2, memory_limit=0), "above 0"),
        (lambda f: maximize(f, 2, optimizer="partition", parts=6), "parts=6"),
        (lambda f: GraphCut(np.ones((2, 2)), tradeoff=-1), "tradeoff=-1"),
        (lambda f: LogDeterminant(np.ones((2, 2)), regularizer=0), "regularizer=0"),
        (lambda f: Random(0), "n=0"),
        (lambda f: regret(f, np.array([1, 1])), "repeats"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(GraphCut(clustered(5)))


@pytest.mark.parametrize("make", FUNCTIONS)
def test_memory_limit_refuses_with_the_numbers_and_the_way_out(make):
    with pytest.raises(
        MemoryLimitError, match=r"GB above the vectors, and the limit is 0\.00 GB.*partition"
    ) as caught:
        maximize(make(clustered(700)), 700, memory_limit="10kB")
    assert caught.value.needed > caught.value.limit == 10_000


def test_the_log_determinant_copies_no_vectors_where_they_would_not_fit():
    f = LogDeterminant(clustered(2000, 16))
    np.testing.assert_array_equal(
        maximize(f, 2000, memory_limit=64 * 16**2 + 32 * 256 * 272 + 64 * 2000).order, maximize(f, 2000).order
    )


def test_a_new_function_needs_only_the_protocol():
    """Modular: the order is that of the weights, ties by row."""

    class Weights:
        needs_vectors = False
        n = 5

        def begin(self):
            return self

        def gains(self):
            return np.array([1.0, 3.0, 2.0, 3.0, 0.0])

        def add(self, i):
            pass

    assert maximize(Weights(), 5).order.tolist() == [1, 3, 2, 0, 4]


@pytest.mark.parametrize("make", FUNCTIONS)
def test_the_vectors_are_left_as_they_were(make):
    X = clustered(300)
    before = X.copy()
    X.flags.writeable = False
    maximize(make(X), 300)
    np.testing.assert_array_equal(X, before)
