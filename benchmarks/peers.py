"""The same selections by other libraries, each by its own recommended path, kernel building included.

Every function takes unit vectors (n, d) float32 and a budget, and returns the order chosen.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

Peer = Callable[[np.ndarray, int], np.ndarray]


def submodlib(fn: str, cpp_kernel: bool = False) -> Peer:
    """LazyGreedy of submodlib; its budget must be below n."""

    def run(X: np.ndarray, budget: int) -> np.ndarray:
        import submodlib

        common: dict[str, Any] = {"n": len(X), "mode": "dense", "data": X, "metric": "cosine"}
        if fn == "fl":
            f = submodlib.FacilityLocationFunction(
                **common, separate_rep=False, create_dense_cpp_kernel_in_python=not cpp_kernel
            )
        elif fn == "gc":
            f = submodlib.GraphCutFunction(**common, lambdaVal=0.4, separate_rep=False)
        else:
            f = submodlib.LogDeterminantFunction(**common, lambdaVal=1.0)
        chosen = f.maximize(budget=min(budget, len(X) - 1), optimizer="LazyGreedy", show_progress=False)
        return np.array([row for row, _ in chosen])

    return run


def apricot(fn: str) -> Peer:
    """Lazy greedy of apricot on a precomputed kernel: its own cosine is squared, and it takes no negative values."""

    def run(X: np.ndarray, budget: int) -> np.ndarray:
        import apricot

        if fn == "fl":
            selection = apricot.FacilityLocationSelection(budget, metric="precomputed", optimizer="lazy")
        else:
            selection = apricot.GraphCutSelection(
                budget, metric="precomputed", alpha=1 / 0.4, optimizer="lazy"
            )
        return np.asarray(selection.fit(np.maximum(X @ X.T, 0).astype(np.float64)).ranking)

    return run


PEERS: dict[str, dict[str, Peer]] = {
    "fl": {
        "submodlib": submodlib("fl"),
        "submodlib, C++ kernel": submodlib("fl", cpp_kernel=True),
        "apricot": apricot("fl"),
    },
    "gc": {"submodlib": submodlib("gc"), "apricot": apricot("gc")},
    "logdet": {"submodlib": submodlib("logdet")},
}
