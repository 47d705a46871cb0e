"""The plain kernels: the same bits where they decide, within their bounds elsewhere, and the same orders."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from smart.submodular._kernels import dot_products_plain, projected_norms_plain
from smart.submodular._kernels.compilation import PLAIN, why_plain
from smart.submodular._kernels.dot_products import dots32_error
from smart.submodular._kernels.projected_norms import columns_of, sums_of_squares_error
from tests.submodular.examples import EXAMPLES, clustered

needs_llvm = pytest.mark.skipif(PLAIN, reason="the plain kernels are in use")


@needs_llvm
@pytest.mark.parametrize("d", [1, 15, 16, 17, 31, 100, 384, 1001])
@pytest.mark.parametrize("kinds", [("f4", "f4"), ("f4", "f8"), ("f8", "f8")])
def test_float64_dots_have_the_same_bits(d: int, kinds: tuple[str, str]) -> None:
    from smart.submodular._kernels import dot_products_llvm

    generator = np.random.default_rng(d)
    for scale in (1.0, 1e-20, 1e15):
        a, b = ((scale * generator.standard_normal((50, d))).astype(kind) for kind in kinds)
        for left, right in zip(a, b, strict=True):
            plain, llvm = (module.dot64(left, right) for module in (dot_products_plain, dot_products_llvm))
            assert plain.hex() == llvm.hex()


@pytest.mark.parametrize("d", [1, 16, 100, 1001])
@pytest.mark.parametrize("vectors", [1, 2, 3])
def test_plain_float32_dots_are_within_the_bound(d: int, vectors: int) -> None:
    generator = np.random.default_rng(d)
    x = generator.standard_normal((6, d)).astype(np.float32) * np.float32(3)
    v, rows = generator.standard_normal((vectors, d)).astype(np.float32), np.array([5, 1, 3, 0, 1])
    out = np.full((vectors, len(rows)), np.nan, np.float32)
    dot_products_plain.dots32(x, rows, v, out)
    reach = np.linalg.norm(v, axis=1)[:, None] * np.linalg.norm(x[rows], axis=1)
    assert (
        np.abs(out - v.astype(np.float64) @ x[rows].astype(np.float64).T) <= dots32_error(d) * reach
    ).all()


@pytest.mark.parametrize("count", [0, 1, 16, 17, 49, 200])
@pytest.mark.parametrize(("n", "d"), [(1, 1), (41, 65), (64, 384)])
def test_plain_projections_are_within_the_bound(n: int, d: int, count: int) -> None:
    x, y = clustered(n, d), np.random.default_rng(count).standard_normal((count, d))
    out = np.full(n, np.nan, np.float32)
    projected_norms_plain.sums_of_squares(x, columns_of(y), out)
    error, relative = sums_of_squares_error(d, count)
    found, norms = np.sqrt(out.astype(np.float64)), np.linalg.norm(x.astype(np.float64), axis=1)
    exact = np.linalg.norm(x.astype(np.float64) @ y.T, axis=1)
    assert np.all(np.abs(found - exact) <= error * np.linalg.norm(y) * norms + relative * found)


def test_small_products_beside_a_large_one_are_not_lost_by_the_plain_projections() -> None:
    x, y = np.full((3, 4096), 2.0**-12, np.float32), np.full((1, 4096), 2.0**-13)
    x[:, 0] = y[:, 0] = 1
    out = np.empty(3, np.float32)
    projected_norms_plain.sums_of_squares(x, columns_of(y), out)
    error, relative = sums_of_squares_error(4096, 1)
    exact = float(x[0].astype(np.float64) @ y[0])
    assert np.abs(np.sqrt(out.astype(np.float64)) - exact).max() <= 1.5 * error + relative * exact


@pytest.mark.parametrize(
    ("asked", "jit_disabled", "numba", "machine", "reason"),
    [
        ("auto", False, (0, 68, 1), "x86_64", None),
        ("auto", False, (0, 60, 0), "arm64", None),
        ("plain", False, (0, 68, 1), "x86_64", "SMART_KERNELS=plain"),
        ("auto", True, (0, 68, 1), "x86_64", "NUMBA_DISABLE_JIT"),
        ("auto", False, (0, 59, 0), "x86_64", "numba 0.59.0"),
        ("auto", False, (1, 0, 0), "x86_64", "numba 1.0.0"),
        ("auto", False, (0, 68, 1), "ppc64le", "a ppc64le processor"),
    ],
)
def test_plain_kernels_are_used_for_a_reason(
    asked: str, jit_disabled: bool, numba: tuple[int, ...], machine: str, reason: str | None
) -> None:
    found = why_plain(asked, jit_disabled, numba, machine)
    assert found is None if reason is None else reason in (found or "")


def test_an_unknown_choice_of_kernels_is_refused() -> None:
    with pytest.raises(ValueError, match="SMART_KERNELS=fast: must be auto or plain"):
        why_plain("fast", False, (0, 68), "x86_64")


SCRIPT = """
import json, sys, warnings
import numpy as np
warnings.simplefilter("ignore")
from smart.submodular import FacilityLocation, GraphCut, LogDeterminant, Random, facility_location, maximize
from smart.submodular._kernels.compilation import WHY_PLAIN
from smart.submodular.resources import Resources
from tests.submodular.examples import EXAMPLES
orders, n = {}, int(sys.argv[2])
for name in sys.argv[1].split(","):
    X = EXAMPLES[name](n)
    S = (X.astype(np.float64) @ X.T.astype(np.float64)).astype(np.float32)
    functions = {make.__name__: make(X) for make in (FacilityLocation, GraphCut, LogDeterminant)}
    functions |= {f"{make.__name__} of a kernel": make.from_kernel(S) for make in (FacilityLocation, GraphCut)}
    functions["Random"] = Random(n=n, seed=1)
    for kind, f in functions.items():
        for optimizer in ("exact", "naive", "lazy", "partition"):
            if hasattr(f, "take") or optimizer != "partition":
                chosen = maximize(f, n, optimizer=optimizer)
                orders[f"{name} {kind} {optimizer}"] = chosen.order.tolist()
    kernel = FacilityLocation(X).kernel
    orders[f"{name} sparse"] = facility_location.greedy(kernel, n, Resources(), dense_rows=0)[0].tolist()
assert WHY_PLAIN is None or not any(name.endswith("_llvm") for name in sys.modules), "not even imported"
print(json.dumps([WHY_PLAIN, orders]))
"""


def orders_in(examples: list[str], n: int, **environment: str) -> tuple[str | None, dict[str, list[int]]]:
    """Why the kernels of a fresh process are plain, and the orders that it finds."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, ",".join(examples), str(n)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "SMART_KERNELS": "auto", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    why, orders = json.loads(done.stdout)
    return why, orders


@pytest.fixture(scope="module")
def orders_here() -> dict[str, list[int]]:
    return orders_in(list(EXAMPLES), 24)[1]


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        pytest.param(
            {"SMART_KERNELS": "plain"}, "SMART_KERNELS=plain", id="plain", marks=pytest.mark.full
        ),  # compiles them all
        pytest.param({"NUMBA_DISABLE_JIT": "1"}, "NUMBA_DISABLE_JIT is set", id="not compiled"),
    ],
)
def test_orders_do_not_depend_on_the_kernels(
    orders_here: dict[str, list[int]], environment: dict[str, str], reason: str
) -> None:
    why, orders = orders_in(list(EXAMPLES), 24, **environment)
    assert why == reason
    assert orders == orders_here


@pytest.mark.full
def test_orders_of_many_rows_do_not_depend_on_the_kernels() -> None:
    examples = ["clustered", "negative", "duplicated", "zeros", "wide"]
    assert orders_in(examples, 900, SMART_KERNELS="plain")[1] == orders_in(examples, 900)[1]
