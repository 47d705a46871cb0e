"""What maximize accepts, refuses and leaves alone."""

import threading
from functools import partial

import numpy as np
import pytest

from smart.submodular import (
    FacilityLocation,
    GraphCut,
    GreedyState,
    LogDeterminant,
    MemoryLimitError,
    Random,
    SetFunction,
    maximize,
    regret,
)
from smart.submodular.resources import Resources
from smart.submodular.resources import _free_memory as free_memory
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
def test_vectors_beyond_float32_are_refused_without_a_warning(make):
    with pytest.raises(ValueError, match="too large for float32; the first is row 0"):
        make(clustered(10).astype(np.float64) * 1e300)


@pytest.mark.parametrize("make", FUNCTIONS)
def test_how_the_vectors_lie_in_memory_changes_nothing(make):
    X = clustered(60, 8).astype(np.float16).astype(np.float32)
    expected = maximize(make(X), 60)
    wide = np.empty((120, 24), np.float32)
    wide[::2, ::3] = X
    for other in (
        X.astype(np.float64),
        X.astype(np.float16),
        np.asfortranarray(X),
        wide[::2, ::3],
        X.tolist(),
        X * np.float32(2.0**-130),  # subnormal
    ):
        chosen = maximize(make(other), np.int32(60))
        np.testing.assert_array_equal(chosen.order, expected.order)
        np.testing.assert_array_equal(chosen.gains, expected.gains)


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
        (lambda f: maximize(f, -1), "choose from 1 to 5 of 5"),
        (lambda f: maximize(f, 6), "choose from 1 to 5 of 5"),
        (lambda f: maximize(f, 2.0), "budget=2.0: must be a whole number"),
        (lambda f: maximize(f, True), "budget=True: must be a whole number"),
        (lambda f: maximize(f, None), "budget=None: must be a whole number"),
        (lambda f: maximize(f, 2, seed=-1), "seed=-1"),
        (
            lambda f: maximize(f, 2, optimizer="best"),
            "no such optimizer; known are exact, lazy, naive, partition",
        ),
        (lambda f: maximize(f, 2, optimizer="lasy"), "optimizer='lasy'.*did you mean 'lazy'"),
        (lambda f: maximize(f, 2, threads=0), "threads=0"),
        (lambda f: maximize(f, 2, threads=1.5), "threads=1.5"),
        (lambda f: maximize(f, 2, memory_limit="much"), "512MB"),
        (lambda f: maximize(f, 2, memory_limit=0), "above 0"),
        (lambda f: maximize(f, 2, memory_limit=np.inf), "finite number above 0"),
        (lambda f: maximize(f, 2, optimizer="partition", parts=6), "parts=6"),
        (lambda f: GraphCut(np.ones((2, 2)), tradeoff=-1), "tradeoff=-1"),
        (lambda f: GraphCut(np.ones((2, 2)), tradeoff="0.4"), "tradeoff=0.4: must be a finite number"),
        (lambda f: GraphCut(np.ones((2, 2), complex)), "vectors must hold real numbers, not complex128"),
        (lambda f: GraphCut.from_kernel([["a"]]), "a kernel must hold real numbers"),
        (lambda f: LogDeterminant(np.ones((2, 2)), regularizer=0), "regularizer=0"),
        (lambda f: Random(0), "n=0"),
        (lambda f: Random(3, seed=-1), "seed=-1"),
        (
            lambda f: GraphCut.check_options(tradeoff=np.nan),
            "tradeoff=nan: must be a finite number, at least 0",
        ),
        (lambda f: LogDeterminant.check_options(regularizer=True), "regularizer=True"),
        (lambda f: Random.check_options(seed=0.5), "seed=0.5"),
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


@pytest.mark.parametrize("optimizer", ["naive", "lazy"])
def test_other_optimizers_honour_the_memory_limit_too(optimizer):
    with pytest.raises(MemoryLimitError, match=rf"{optimizer} optimizer over 700 rows needs 0\.01 GB"):
        maximize(FacilityLocation(clustered(700)), 700, optimizer=optimizer, memory_limit="1MB")


@pytest.mark.parametrize("optimizer", ["exact", "lazy", "naive"])
def test_a_kernel_without_a_log_determinant_is_refused(optimizer):
    S = np.array([[1.0, 3.0], [3.0, 1.0]])  # det(S + I) = 4 - 9
    f = LogDeterminant.from_kernel(S)
    with pytest.raises(
        ValueError, match="no value once row 1 is chosen: the kernel is not positive semi-definite"
    ):
        maximize(f, 2, optimizer=optimizer)
    with pytest.raises(ValueError, match="positive semi-definite"):
        maximize(LogDeterminant.from_kernel(-2 * np.eye(3)), 1, optimizer=optimizer)


CONTROL_GROUPS = {
    "none": {},
    "container": {"0::/": "", "sys/fs/cgroup": ("memory.max", "memory.current", "inactive_file")},
    "slurm": {"0::/job/step": "", "sys/fs/cgroup/job": ("memory.max", "memory.current", "inactive_file")},
    "first version": {
        "9:pids:/x\n4:memory:/x": "",
        "sys/fs/cgroup/memory/x": (
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ),
    },
}


@pytest.mark.parametrize("kind", CONTROL_GROUPS)
def test_free_memory_is_that_of_the_control_group(tmp_path, kind):
    """A group's limit holds wherever it lies above the process, and what it holds of files can be given back."""
    (member, _), *groups = CONTROL_GROUPS[kind].items() or [("", "")]
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    (tmp_path / "proc/self/cgroup").write_text(member)
    for folder, (limit, use, files) in groups:
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / limit).write_text("5000000\n")
        (tmp_path / folder / use).write_text("3000000\n")
        (tmp_path / folder / "memory.stat").write_text(f"anon 7\n{files} 600000\nfile 9\n")
    if kind == "slurm":
        (tmp_path / "sys/fs/cgroup/job/step").mkdir()
        (tmp_path / "sys/fs/cgroup/job/step/memory.max").write_text("max\n")
        (tmp_path / "sys/fs/cgroup/job/step/memory.current").write_text("1\n")
    assert free_memory(tmp_path) == (2_600_000 if groups else 8000 * 1024)


def test_the_log_determinant_copies_no_vectors_where_they_would_not_fit():
    f = LogDeterminant(clustered(2000, 16))
    np.testing.assert_array_equal(
        maximize(f, 2000, memory_limit=64 * 16**2 + 32 * 256 * 272 + 64 * 2000).order, maximize(f, 2000).order
    )


class Weights:
    """Modular: the order is that of the weights, ties by row. Inherits nothing, and is its own state."""

    n = 5

    def __init__(self):
        self.added = []

    def begin(self):
        return self

    def gains(self):
        return np.where(np.isin(np.arange(5), self.added), np.nan, [1.0, 3.0, 2.0, 3.0, 0.0])

    def add(self, i):
        self.added.append(i)


class WeightsWithoutBegin:
    n = 5
    gains, add, __init__ = Weights.gains, Weights.add, Weights.__init__


@pytest.mark.parametrize("optimizer", ["exact", "lazy", "naive"])
@pytest.mark.parametrize("kind", [Weights, WeightsWithoutBegin])
def test_a_function_need_not_inherit(kind, optimizer):
    f = kind()
    assert maximize(f, 5, optimizer).order.tolist() == [1, 3, 2, 0, 4]
    assert f.added == ([1, 3, 2, 0, 4] if kind is Weights else [])
    assert regret(WeightsWithoutBegin(), np.array([1, 3, 0])).steps.tolist() == [0, 0, 1]


@pytest.mark.parametrize("optimizer", ["exact", "lazy", "naive"])
@pytest.mark.parametrize(
    ("gains", "message"),
    [
        (np.ones(4), r"Wrong: gains\(\) returned shape \(4,\), not \(5,\)"),
        ([1, 2, np.nan, 3, 4], "the gain of row 2 is nan"),
        ([1, 2, 3, np.inf, 4], "the gain of row 3 is inf"),
    ],
)
def test_gains_are_checked(gains, message, optimizer):
    class Wrong(SetFunction, GreedyState):
        n = 5

        def begin(self):
            return self

        def gains(self):
            return gains

        def add(self, i):
            pass

    with pytest.raises(ValueError, match=message):
        maximize(Wrong(), 2, optimizer)


def test_what_is_no_set_function_is_refused():
    class Nothing:
        n = 3

    with pytest.raises(
        TypeError, match=r"Nothing is no set function: it needs begin\(\), or gains\(\) and add"
    ):
        maximize(Nothing(), 1)


def test_defaults_of_a_set_function():
    class Least(SetFunction):
        def begin(self):
            raise NotImplementedError

    assert (Least.needs_vectors, Least.single_threaded, Least.submodular) == (True, False, True)
    assert (Least.added_options, Least.naive_memory) == ((), 0)
    assert Least.check_options(anything=1) is None
    assert GraphCut.single_threaded
    with pytest.raises(TypeError, match="abstract"):
        SetFunction()


@pytest.mark.parametrize("make", FUNCTIONS)
def test_the_vectors_are_left_as_they_were(make):
    X = clustered(300)
    before = X.copy()
    X.flags.writeable = False
    maximize(make(X), 300)
    np.testing.assert_array_equal(X, before)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_jobs_are_shared_with_the_callers_thread_and_their_results_keep_their_order(threads):
    met = threading.Barrier(threads)

    def job(place: int) -> tuple[int, int]:
        if place < threads:  # every thread is at one of these until all are
            met.wait(timeout=30)
        return place, threading.get_ident()

    with Resources(threads=threads) as resources:
        found = resources.run([partial(job, place) for place in range(20)])
    assert [place for place, _ in found] == list(range(20))
    assert len({thread for _, thread in found}) == threads
    assert threading.get_ident() in {thread for _, thread in found}


def test_a_jobs_error_is_the_callers():
    def job(place: int) -> int:
        return 1 // (place - 3)

    for threads in (1, 2):
        with Resources(threads=threads) as resources, pytest.raises(ZeroDivisionError):
            resources.run([partial(job, place) for place in range(9)])
