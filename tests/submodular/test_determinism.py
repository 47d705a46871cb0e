"""The same order whatever the threads, blocks, pools and processor."""

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import llvmlite.binding as llvm
import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from smart.submodular import (
    FacilityLocation,
    GraphCut,
    LogDeterminant,
    facility_location,
    graph_cut,
    log_determinant,
    maximize,
    regret,
    single_threaded_blas,
)
from smart.submodular.resources import Resources
from tests.submodular.examples import EXAMPLES, clustered

FUNCTIONS = {"facility_location": FacilityLocation, "graph_cut": GraphCut, "logdet": LogDeterminant}
TIED = ["clustered", "duplicated", "identical", "one-hot", "negative", "zeros"]
LIMIT = 1e-6

HERE = llvm.get_host_cpu_features().flatten()

pytestmark = pytest.mark.filterwarnings("ignore:.*vectors are zero")


@pytest.mark.parametrize("make", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("example", ["clustered", "negative", "duplicated"])
def test_threads(make, example):
    f = make(EXAMPLES[example](2500))
    one, two = (maximize(f, 2500, threads=threads) for threads in (1, 2))
    np.testing.assert_array_equal(one.order, two.order)


@pytest.mark.parametrize("example", TIED)
def test_blocks_of_the_log_determinant(example, monkeypatch):
    f = LogDeterminant(EXAMPLES[example](900))
    expected = maximize(f, 900).order
    for rows in (64, 333):
        monkeypatch.setattr(log_determinant, "BLOCK", rows)
        np.testing.assert_array_equal(maximize(f, 900).order, expected)


@pytest.mark.parametrize("example", TIED)
@pytest.mark.parametrize("pool", [1, 40, 1000])
def test_pools(example, pool):
    kernel = GraphCut(EXAMPLES[example](560)).kernel  # logdet holds up to 512 rows whole
    for module, parameter in ((graph_cut, 0.4), (log_determinant, 1.0)):
        expected = module.greedy(kernel, parameter, 560, Resources())[0]
        np.testing.assert_array_equal(
            module.greedy(kernel, parameter, 560, Resources(), pool=pool)[0], expected
        )


@pytest.mark.parametrize("example", EXAMPLES)
@pytest.mark.parametrize("ratio", [2, 4, 1000])
def test_pools_of_graph_cut_inside_one_another(example, ratio, monkeypatch):
    kernel = GraphCut(EXAMPLES[example](900)).kernel
    expected = graph_cut.greedy(kernel, 0.4, 900, Resources(), pool=900)[0]
    monkeypatch.setattr(graph_cut, "RATIO", ratio)
    assert len(graph_cut._pool_sizes(900, 20)) == {2: 4, 4: 2, 1000: 1}[ratio]
    np.testing.assert_array_equal(graph_cut.greedy(kernel, 0.4, 900, Resources(), pool=20)[0], expected)


@pytest.mark.parametrize("example", EXAMPLES)
def test_facility_location_with_and_without_the_whole_kernel(example):
    kernel = FacilityLocation(EXAMPLES[example](700)).kernel
    order, gains = facility_location.greedy(kernel, 700, Resources())
    for tile_rows in (64, 100, 512):
        again = facility_location.greedy(kernel, 700, Resources(), dense_rows=0, tile_rows=tile_rows)
        np.testing.assert_array_equal(again[0], order)
        np.testing.assert_array_equal(again[1], gains)  # sums are exact, so gains have the same bits


@pytest.mark.parametrize("budget", [1, 3, 40])
def test_facility_location_stops_where_the_budget_ends(budget):
    kernel = FacilityLocation(clustered(700)).kernel
    full = facility_location.greedy(kernel, 700, Resources())[0]
    np.testing.assert_array_equal(
        facility_location.greedy(kernel, budget, Resources(), dense_rows=0)[0], full[:budget]
    )


def test_facility_location_in_little_memory_takes_more_lazy_picks_and_gives_the_same_order():
    f = FacilityLocation(clustered(2000, 16))
    least = 4 * 2000 * 16 + 200 * 2000 + (64 << 20)
    expected = maximize(f, 150).order
    kernel = f.kernel
    for room in (10_000, 1_000_000):
        tight = Resources(memory=4 * 2000 * 16 + 200 * 2000 + room)
        np.testing.assert_array_equal(_large_in(kernel, 150, tight, least), expected)


def _large_in(kernel, budget, resources, least):
    """Facility location with so little room for pairs that they are refused at first."""

    class Roomy(Resources):
        def need(self, wanted, what):
            assert wanted == least

    return facility_location.greedy(kernel, budget, Roomy(1, resources.memory), dense_rows=0)[0]


def test_many_small_runs_at_once_leave_the_threads_of_the_caller_alone():
    groups = [clustered(n, 16, seed=n) for n in range(1, 80, 3)]
    alone = [maximize(GraphCut(X), len(X), threads=1).order for X in groups]
    with threadpool_limits(2, user_api="blas"):
        before = [library["num_threads"] for library in threadpool_info()]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda X: maximize(GraphCut(X), len(X), threads=1).order, groups * 3))
        with single_threaded_blas():
            held = {lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"}
        assert [library["num_threads"] for library in threadpool_info()] == before
        assert held == {1}
    for expected, order in zip(alone * 3, together, strict=True):
        np.testing.assert_array_equal(order, expected)


def test_threads_end_with_the_run():
    before = threading.active_count()
    maximize(FacilityLocation(clustered(2000)), 20, threads=2)
    assert threading.active_count() == before


SCRIPT = """
import json, sys, warnings
import numpy as np
warnings.simplefilter("ignore")
from smart.submodular import FacilityLocation, GraphCut, LogDeterminant, facility_location, maximize
from smart.submodular.resources import Resources
from tests.submodular.examples import EXAMPLES
orders = {}
for name in sys.argv[1].split(","):
    X = EXAMPLES[name](400)
    for make in (FacilityLocation, GraphCut, LogDeterminant):
        orders[f"{name} {make.__name__}"] = maximize(make(X), 400).order.tolist()
    kernel = FacilityLocation(X).kernel
    orders[f"{name} sparse"] = facility_location.greedy(kernel, 400, Resources(), dense_rows=0)[0].tolist()
print(json.dumps(orders))
"""


def orders_on(environment: dict[str, str]) -> dict[str, list[int]]:
    """Orders found by a fresh process that believes its processor to be an older one."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, ",".join(TIED)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.full
@pytest.mark.parametrize(
    "environment",
    [
        {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "OPENBLAS_CORETYPE": "Prescott"},
        {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma", "OPENBLAS_CORETYPE": "Haswell"},
        pytest.param(
            {"OPENBLAS_CORETYPE": "SkylakeX", "NPY_DISABLE_CPU_FEATURES": ""},
            marks=pytest.mark.skipif("+avx512f" not in HERE, reason="this processor has no AVX-512"),
        ),
        {"NUMBA_CPU_FEATURES": HERE.replace("+amx", "-amx")},
    ],
    ids=["sse", "avx2", "avx512", "no amx"],
)
def test_processors(environment):
    """Identical on inputs full of ties; elsewhere within the bound on regret."""
    here, there = orders_on({}), orders_on(environment)
    for case, order in there.items():
        example, kind = case.split()
        if example in ("duplicated", "identical", "one-hot"):
            assert order == here[case], case
        f = {"FacilityLocation": FacilityLocation, "sparse": FacilityLocation, "GraphCut": GraphCut}.get(
            kind, LogDeterminant
        )(EXAMPLES[example](400))
        assert regret(f, np.array(order)).maximum <= LIMIT
