"""Facility location over a kernel small enough to hold: every gain kept up to date by differences."""

import numpy as np

from smart.submodular._kernels.compilation import compiled
from smart.submodular.arithmetic import Vectors, cosine64, tie_width

STEP = 2.0**-24


@compiled
def round_to(values: np.ndarray, quantum: float) -> None:
    """Round in place to multiples of a quantum, a power of two."""
    flat = values.reshape(-1)
    for i in range(flat.size):
        flat[i] = np.rint(flat[i] / quantum) * quantum


@compiled
def greedy_given(s: np.ndarray, budget: int) -> tuple[np.ndarray, np.ndarray]:
    """Order and gains over a kernel s (n, n) float64 that is rounded to the quantum, so that all sums are exact."""
    n = s.shape[0]
    order, chosen = np.empty(budget, np.int64), np.empty(budget)
    gains, covered = _first_gains(s), np.zeros(n)
    for step in range(budget):
        best = gains.max()
        pick = 0
        while gains[pick] < best - tie_width(best):
            pick += 1
        order[step], chosen[step] = pick, gains[pick]
        for v in range(n):
            if s[v, pick] > covered[v]:
                _lower(gains, s[v], covered[v], s[v, pick])
                covered[v] = s[v, pick]
        gains[pick] = -np.inf
    return order, chosen


@compiled
def greedy_cosines(
    u: np.ndarray, error: float, vectors: Vectors, budget: int
) -> tuple[np.ndarray, np.ndarray]:
    """Order and gains over float32 cosines.

    u is first made a bound from above, rounded up to a multiple of 2⁻²⁴, so that h_i = Σ_v max(0, u_vi − m_v) is at
    least gain_i and follows m exactly. At each pick rows are evaluated in float64 in order of h, until no other h
    reaches the best gain: seldom more than one.

    Args:
        u: (n, n) float32 cosines, overwritten.
        error: no cosine is further than this from its u.
        vectors: what the cosines are made exact from.
        budget: number of picks.
    """
    n = u.shape[0]
    order, chosen = np.empty(budget, np.int64), np.empty(budget)
    for v in range(n):
        for i in range(n):
            u[v, i] = np.ceil((np.float64(u[v, i]) + error) / STEP) * STEP
        u[v, v] = 1.0
    bound, covered, exact = _first_gains(u), np.zeros(n), np.empty(n)
    cosines = np.empty(n)
    for step in range(budget):
        first = int(np.argmax(bound))
        best = exact[first] = _evaluate(first, u, vectors, covered, cosines)
        pick = last = first
        for i in range(n):
            if bound[i] >= best - tie_width(best) and i != first:
                exact[i] = _evaluate(i, u, vectors, covered, cosines)
                best, last = max(best, exact[i]), i
        if best <= 0.0:
            fill_ascending(bound, order, chosen, step)
            break
        floor = best - tie_width(best)
        if last != first:
            pick = 0
            while bound[pick] < floor or exact[pick] < floor:
                pick += 1
        if pick != last:
            _evaluate(pick, u, vectors, covered, cosines)
        order[step], chosen[step] = pick, exact[pick]
        for v in range(n):
            if cosines[v] > covered[v]:
                _lower(bound, u[v], covered[v], cosines[v])
                covered[v] = cosines[v]
        bound[pick] = -np.inf
    return order, chosen


@compiled
def fill_ascending(bound: np.ndarray, order: np.ndarray, gains: np.ndarray, step: int) -> None:
    """Once no gain is left it stays so: all later picks, the rows whose bound is not −inf, go by row number."""
    for i in range(bound.size):
        if step < order.size and bound[i] > -np.inf:
            order[step], gains[step] = i, 0.0
            step += 1


@compiled
def _first_gains(s: np.ndarray) -> np.ndarray:
    gains = np.zeros(s.shape[0])
    for v in range(s.shape[0]):
        row = s[v]
        for i in range(s.shape[0]):
            gains[i] += max(np.float64(row[i]), 0.0)
    return gains


@compiled
def _evaluate(
    i: int,
    u: np.ndarray,
    vectors: Vectors,
    covered: np.ndarray,
    cosines: np.ndarray,
) -> float:
    """Gain of i in float64; writes the cosines that it comes from, and 0 elsewhere."""
    gain, row = 0.0, u[i]
    for v in range(row.size):
        cosines[v] = 0.0
        if row[v] > covered[v]:
            cosines[v] = cosine64(vectors, v, i)
            gain += max(cosines[v] - covered[v], 0.0)
    return gain


@compiled
def _lower(gains: np.ndarray, row: np.ndarray, old: float, new: float) -> None:
    """Take off what row v no longer gives, now that its cover has risen from old to new."""
    for i in range(row.size):
        s = np.float64(row[i])
        gains[i] -= max(s - old, 0.0) - max(s - new, 0.0)
