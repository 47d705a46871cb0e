"""Exact greedy beside what submodlib returned on real embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smart.submodular import FacilityLocation, GraphCut, LogDeterminant, maximize, regret
from tests.submodular.golden import Golden, kept, of_groups, of_tasks

FUNCTIONS: dict[str, Any] = {
    "fl": FacilityLocation,
    "gc": lambda X: GraphCut(X, tradeoff=0.4),
    "logdet": lambda X: LogDeterminant(X, regularizer=1.0),
}
LIMIT = 1e-6


def assert_ours_is_exact_and_agrees(golden: Golden) -> None:
    """Graph cut agrees index by index where theirs is exact; elsewhere exact ties are structural."""
    f = FUNCTIONS[golden.fn](golden.X)
    chosen = maximize(f, len(golden.order))
    assert regret(f, chosen.order).maximum <= LIMIT
    np.testing.assert_array_equal(maximize(f, len(golden.order), "lazy").order, chosen.order)
    if golden.fn == "gc" and golden.regret <= LIMIT:
        np.testing.assert_array_equal(chosen.order, golden.order)
        np.testing.assert_allclose(chosen.gains, golden.gains, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("golden", list(kept()), ids=lambda golden: golden.name)
def test_orders_kept_beside_the_tests(golden: Golden) -> None:
    assert_ours_is_exact_and_agrees(golden)


@pytest.mark.parametrize("fn", FUNCTIONS)
def test_orders_of_the_folder_of_real_data(shared: Path, fn: str) -> None:
    """Skips where ../shared is absent."""
    found = [golden for golden in (*of_tasks(shared), *of_groups(shared)) if golden.fn == fn]
    assert len(found) == 18
    for golden in found:
        assert_ours_is_exact_and_agrees(golden)
