"""Regret: how far an order lies from exact greedy, step by step."""

from dataclasses import dataclass

import numpy as np

from smart.submodular.base import Evaluator, SetFunction


@dataclass(frozen=True)
class Regret:
    """Replay of an order of k rows, in float64."""

    steps: np.ndarray
    """Best available gain minus the chosen one, (k,)."""
    best: np.ndarray
    """Best available gain, (k,)."""
    gains: np.ndarray
    """Gain of the chosen row, (k,)."""

    @property
    def relative(self) -> np.ndarray:
        """Regret over max(best, 1e-3), (k,): exact greedy keeps it at or under 1e-6."""
        return self.steps / np.maximum(self.best, 1e-3)

    @property
    def maximum(self) -> float:
        return float(self.relative.max())

    @property
    def p99(self) -> float:
        return float(np.percentile(self.relative, 99))


def regret(f: SetFunction, order: np.ndarray) -> Regret:
    """Replay `order` with the function's plain definition, all gains at every step, in float64.

    Facility location holds the whole kernel for it, 8n² bytes.

    Raises:
        ValueError: the order repeats a row.
    """
    order = np.asarray(order, dtype=np.int64)
    if len(np.unique(order)) != len(order):
        raise ValueError("the order repeats a row")
    state = Evaluator(f)
    best = np.empty(len(order))
    gains = np.empty(len(order))
    alive = np.ones(f.n, dtype=np.bool_)
    for step, pick in enumerate(order):
        now = state.gains(alive)
        gains[step] = now[pick]
        best[step] = np.where(alive, now, -np.inf).max()
        alive[pick] = False
        state.add(int(pick))
    return Regret(best - gains, best, gains)
