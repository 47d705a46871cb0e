"""Exact greedy for graph cut in O(nd) memory: a maximum inner product search with a slowly drifting query.

With unit rows e_i, R = Σ_v e_v and u = Σ_{a∈A} e_a, the gain of i is linear in e_i:

    g_i = Σ_v s_vi − 2λ Σ_{a∈A} s_ia − λ s_ii = e_i·w − λ,     w = R − 2λu,

so all gains cost one matrix-vector product, and a pick a moves w by −2λ e_a. The best m rows by that product form a
pool; its Gram matrix keeps the pool's gains exact pick by pick, at m operations each. Everybody outside the pool is
held off by a bound:

    Let c = w/|w| at the time of the product, a_i = e_i·c, and Δ = Σ of the picks since, split as Δ = αc + Δ⊥ with
    |Δ⊥| = β. Split e_i = a_i c + e_i⊥, |e_i⊥| = √(1 − a_i²). Then by Cauchy–Schwarz
        g_i now = |w|a_i − 2λ(a_i α + e_i⊥·Δ⊥) − λ ≤ φ(a_i) − λ,   φ(a) = (|w| − 2λα) a + 2λβ √(1 − a²).
    φ is concave with its top √((|w| − 2λα)² + (2λβ)²) at a* = (|w| − 2λα) / top. No outsider has a_i above some
    ā, so none has a gain above φ(min(ā, a*)) − λ.

While the pool's best is above that bound the pick is exact; when it is not, one more product makes a new pool. No
cosine need be positive.
"""

import numpy as np

from smart.submodular.arithmetic import compiled, dot64, float32_dot_error, matvec, tie_width, unit_rows
from smart.submodular.kernels import Cosine, Matrix
from smart.submodular.resources import Resources
from smart.submodular.zeros import without_zeros

POOL = 3.0  # rows in the pool, in units of √n: the costs of a product and of a Gram matrix then keep step


class State:
    """Gains by the definition, a column of the kernel at a time."""

    def __init__(self, kernel: Cosine | Matrix, tradeoff: float) -> None:
        self._column, self._tradeoff = kernel.columns(), tradeoff
        self._gains = kernel.row_sums() - tradeoff * kernel.diagonal()

    def gains(self) -> np.ndarray:
        return self._gains

    def add(self, i: int) -> None:
        self._gains = self._gains - 2 * self._tradeoff * self._column(i)


def greedy(
    kernel: Cosine | Matrix, tradeoff: float, budget: int, resources: Resources, pool: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Order and gains of `budget` picks; `pool` changes the time they take, and nothing else."""
    if isinstance(kernel, Matrix):
        resources.need(kernel.s.nbytes, f"graph cut over a kernel of {kernel.n} rows")
        gains = kernel.row_sums() - tradeoff * kernel.diagonal()
        return _greedy_matrix(np.ascontiguousarray(kernel.s.T), gains, tradeoff, budget)
    return without_zeros(kernel, budget, 0.0, lambda k, b: _greedy_cosine(k, tradeoff, b, resources, pool))


@compiled
def _greedy_matrix(
    columns: np.ndarray, gains: np.ndarray, tradeoff: float, budget: int
) -> tuple[np.ndarray, np.ndarray]:
    """Every gain kept up to date; columns[a] is the kernel's column a."""
    n = gains.size
    order, chosen = np.empty(budget, np.int64), np.empty(budget)
    alive = np.ones(n, np.bool_)
    for step in range(budget):
        best = -np.inf
        for i in range(n):
            if alive[i]:
                best = max(best, gains[i])
        floor = best - tie_width(best)
        pick = 0
        while not alive[pick] or gains[pick] < floor:
            pick += 1
        order[step], chosen[step], alive[pick] = pick, gains[pick], False
        for i in range(n):
            gains[i] -= 2.0 * tradeoff * columns[pick, i]
    return order, chosen


def _greedy_cosine(
    kernel: Cosine, tradeoff: float, budget: int, resources: Resources, pool: int | None
) -> tuple[np.ndarray, np.ndarray]:
    x, scale, (n, d) = kernel.x, kernel.scale, kernel.x.shape
    order, gains = np.empty(budget, np.int64), np.empty(budget)
    w = _sum_units(x, scale)
    alive = np.arange(n)
    error = float32_dot_error(d)
    pool = pool or int(np.clip(POOL * np.sqrt(n), 128, 1024))
    resources.need(64 * n + 4 * pool * (4 * d + pool), f"graph cut of {n} rows")
    done = 0
    while done < budget:
        length = max(float(np.sqrt(dot64(w, w))), 1e-300)
        centre = w / length
        places, ceiling = _leaders(
            x, scale, alive, centre.astype(np.float32), min(pool, alive.size), resources
        )
        inside = alive[places]
        unit = unit_rows(x[inside], scale[inside])
        taken = _take_from_pool(
            x,
            scale,
            inside,
            unit @ unit.T,
            w,
            centre,
            length,
            ceiling,
            error,
            tradeoff,
            order[done:],
            gains[done:],
        )
        if taken == 0:
            taken, least = 1, _exact_dots(x, scale, inside, w).max() / length
            reach = 2.0 * error + tie_width(length) / length
            gains[done] = _take_best(x, scale, alive, centre, least - reach, w, tradeoff, order[done:])
        alive = alive[np.isin(alive, order[done : done + taken], assume_unique=True, invert=True)]
        done += taken
    return order, gains


def _leaders(
    x: np.ndarray, scale: np.ndarray, rows: np.ndarray, centre: np.ndarray, m: int, resources: Resources
) -> tuple[np.ndarray, float]:
    """Places in `rows` of the m with the largest e_i·c, sorted, and the largest e_i·c of the others, in float32."""

    def work(piece: slice) -> tuple[np.ndarray, np.ndarray, float]:
        cosines = np.empty(piece.stop - piece.start, np.float32)
        matvec(x, scale, centre, rows[piece], cosines)
        best, rest = _split(cosines, m)
        return best + piece.start, cosines[best], rest

    found = list(resources.map(work, resources.chunks(rows.size, 8192)))
    if len(found) == 1:
        return np.sort(found[0][0]), found[0][2]
    places, cosines = (np.concatenate(part) for part in list(zip(*found, strict=True))[:2])
    best, rest = _split(cosines, m)
    return np.sort(places[best]), max(rest, *(others for _, _, others in found))


def _split(values: np.ndarray, m: int) -> tuple[np.ndarray, float]:
    """Places of the m largest, and the largest of the others (−inf where there is none)."""
    if m >= values.size:
        return np.arange(values.size), -np.inf
    places = np.argpartition(values, values.size - m)
    return places[-m:], float(values[places[:-m]].max())


@compiled
def _sum_units(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """R = Σ e_v, (d,) float64, summed row by row."""
    total = np.zeros(x.shape[1])
    for i in range(x.shape[0]):
        for k in range(x.shape[1]):
            total[k] += scale[i] * np.float64(x[i, k])
    return total


@compiled
def _move(w: np.ndarray, x: np.ndarray, scale: np.ndarray, pick: int, tradeoff: float) -> None:
    """w −= 2λ e_a."""
    for k in range(w.size):
        w[k] -= 2.0 * tradeoff * scale[pick] * np.float64(x[pick, k])


@compiled
def _exact_dots(x: np.ndarray, scale: np.ndarray, rows: np.ndarray, w: np.ndarray) -> np.ndarray:
    """e_i·w of some rows, in float64."""
    out = np.empty(rows.size)
    for j in range(rows.size):
        out[j] = dot64(x[rows[j]], w) * scale[rows[j]]
    return out


@compiled
def _take_from_pool(
    x: np.ndarray,
    scale: np.ndarray,
    inside: np.ndarray,
    gram: np.ndarray,
    w: np.ndarray,
    centre: np.ndarray,
    length: float,
    ceiling: float,
    error: float,
    tradeoff: float,
    order: np.ndarray,
    gains: np.ndarray,
) -> int:
    """Pick until an outsider might win, or the pool or the budget is spent; returns the number of picks.

    After t picks the pool's gains are known within 2λtε, since every float32 cosine is off by at most ε; those so
    close to the best that this leaves it open are evaluated in float64.

    Args:
        inside: rows of the pool, (m,), ascending.
        gram: cosines inside the pool, (m, m) float32.
        w: moved by the picks.
        centre: c.
        length: |w| at the start.
        ceiling: within ε at least every outsider's a_i; −inf where there is none.
        error: ε.
        order: written: rows.
        gains: written.
    """
    m = inside.size
    start = _exact_dots(x, scale, inside, w)
    drift = np.zeros(m)  # e_i·Δ
    now, exact = start - tradeoff, np.empty(m)
    alpha = squared = 0.0  # Δ·c and |Δ|²
    for step in range(min(m, order.size)):
        reach = now.max() - 4.0 * tradeoff * step * error
        best = -np.inf
        for i in range(m):
            exact[i] = -np.inf
            if now[i] >= reach - tie_width(reach):
                exact[i] = dot64(x[inside[i]], w) * scale[inside[i]] - tradeoff
                best = max(best, exact[i])
        floor = best - tie_width(best)
        if ceiling > -np.inf:
            ahead = length - 2.0 * tradeoff * alpha
            aside = 2.0 * tradeoff * np.sqrt(max(0.0, squared - alpha * alpha) + step * step * error)
            top = np.sqrt(ahead * ahead + aside * aside)
            a = min(ceiling + error, ahead / top) if top > 0.0 else 0.0
            if ahead * a + aside * np.sqrt(max(0.0, 1.0 - a * a)) - tradeoff >= floor:
                return step
        pick = 0
        while exact[pick] < floor:
            pick += 1
        row = inside[pick]
        order[step], gains[step] = row, exact[pick]
        squared += 2.0 * drift[pick] + 1.0
        alpha += dot64(x[row], centre) * scale[row]
        _move(w, x, scale, row, tradeoff)
        for i in range(m):
            drift[i] += gram[pick, i]
            now[i] = start[i] - 2.0 * tradeoff * drift[i] - tradeoff
        start[pick] = now[pick] = -np.inf
    return min(m, order.size)


def _take_best(
    x: np.ndarray,
    scale: np.ndarray,
    rows: np.ndarray,
    centre: np.ndarray,
    least: float,
    w: np.ndarray,
    tradeoff: float,
    order: np.ndarray,
) -> float:
    """One pick among all that rounding can't tell apart, where they don't fit in a pool; returns its gain."""
    cosines = np.empty(rows.size, np.float32)
    matvec(x, scale, centre.astype(np.float32), rows, cosines)
    close = rows[cosines >= least]
    exact = _exact_dots(x, scale, close, w) - tradeoff
    best = exact.max()
    pick = int(np.argmax(exact >= best - tie_width(best)))
    order[0] = close[pick]
    _move(w, x, scale, close[pick], tradeoff)
    return float(exact[pick])
