"""Greedy maximisation of any set function, by its gains alone."""

import numpy as np

from smart.submodular.arithmetic import argmax_lowest, tie_width
from smart.submodular.base import Evaluator, SetFunction
from smart.submodular.resources import Resources

FEWEST, MOST = 8, 256
"""Rows that lazy greedy evaluates at once: from the first number, doubling up to the second."""


def exact_greedy(f: SetFunction, budget: int, resources: Resources) -> tuple[np.ndarray, np.ndarray]:
    """The function's own exact greedy, or the naive one where it has none."""
    exact = getattr(f, "exact", None)
    return exact(budget, resources) if exact else naive_greedy(f, budget, resources)


def naive_greedy(f: SetFunction, budget: int, resources: Resources) -> tuple[np.ndarray, np.ndarray]:
    """All gains at every step."""
    resources.need(getattr(f, "naive_memory", 0), f"the naive optimizer over {f.n} rows")
    state = Evaluator(f)
    alive = np.ones(f.n, dtype=np.bool_)
    order = np.empty(budget, dtype=np.int64)
    chosen_gains = np.empty(budget)
    for step in range(budget):
        gains = state.gains(alive)
        order[step] = pick = argmax_lowest(gains, alive)
        chosen_gains[step] = gains[pick]
        alive[pick] = False
        state.add(int(pick))
    return order, chosen_gains


def lazy_greedy(f: SetFunction, budget: int, resources: Resources) -> tuple[np.ndarray, np.ndarray]:
    """The naive order with fewer evaluations: accelerated greedy (Minoux 1978), a batch of rows at a time.

    Gains of a submodular function never rise, so a gain from earlier is an upper bound. At each pick, rows are
    evaluated in order of their bounds until none that is left could be tied with the best gain. Rounding may lift a
    gain a little: bounds are taken to be too low by up to the tie width of the largest first gain.

    Raises:
        ValueError: a gain rose by more than that, so f is not submodular.
    """
    resources.need(getattr(f, "naive_memory", 0) + 32 * f.n, f"the lazy optimizer over {f.n} rows")
    state = Evaluator(f)
    alive = np.ones(f.n, dtype=np.bool_)
    bounds = state.gains(alive).copy()
    slack = tie_width(float(np.abs(bounds, where=bounds > -np.inf, out=np.zeros(f.n)).max()))
    order = np.empty(budget, dtype=np.int64)
    chosen_gains = np.empty(budget)
    fresh = alive.copy()
    for step in range(budget):
        _evaluate_what_may_win(f, state, bounds, slack, alive, fresh)
        order[step] = pick = argmax_lowest(bounds, fresh)
        chosen_gains[step] = bounds[pick]
        alive[pick] = False
        fresh[:] = False
        state.add(int(pick))
    return order, chosen_gains


def _evaluate_what_may_win(
    f: SetFunction, state: Evaluator, bounds: np.ndarray, slack: float, alive: np.ndarray, fresh: np.ndarray
) -> None:
    """Make bounds exact, and `fresh`, until no other bound reaches what is tied with the best gain."""
    best, batch = -np.inf, FEWEST
    if fresh.any():
        best = float(bounds[fresh].max())
    while True:
        waiting = np.flatnonzero(alive & ~fresh & (bounds >= best - tie_width(best) - slack))
        if not waiting.size:
            return
        if waiting.size > batch:
            waiting = waiting[np.argpartition(bounds[waiting], waiting.size - batch)[-batch:]]
        gains = state.gains_of(waiting)
        rising = np.flatnonzero(gains > bounds[waiting] + slack)
        if rising.size:
            row = waiting[rising[0]]
            raise ValueError(
                f"{type(f).__name__} is not submodular: the gain of row {row} rose from {bounds[row]:.9g} to "
                f"{gains[rising[0]]:.9g} as rows were added. Set submodular = False in the class, or use "
                "optimizer='naive'"
            )
        bounds[waiting], fresh[waiting] = gains, True
        best = max(best, float(gains.max()))
        batch = min(2 * batch, MOST)
