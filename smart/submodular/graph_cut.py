"""Exact greedy for graph cut in O(nd) memory: a maximum inner product search with a slowly drifting query.

With unit rows e_i, R = Σ_v e_v and u = Σ_{a∈A} e_a, the gain of i is linear in e_i:

    g_i = Σ_v s_vi − 2λ Σ_{a∈A} s_ia − λ s_ii = e_i·w − λ,     w = R − 2λu,

so all gains cost one matrix-vector product, and a pick a moves w by −2λ e_a. The best rows by that product form a
pool; the best of a pool by a later, smaller product form a pool inside it, and so on. The Gram matrix of the
innermost keeps its gains exact pick by pick, at as many operations each as it has rows. Everybody outside a pool is
held off by a bound:

    Let c = w/|w| when the pool was drawn, a_i = e_i·c, and D = 2λ Σ of the picks since, split as D = αc + D⊥ with
    |D⊥| = β. Split e_i = a_i c + e_i⊥, |e_i⊥| = √(1 − a_i²). Then by Cauchy–Schwarz
        g_i now = |w|a_i − (a_i α + e_i⊥·D⊥) − λ ≤ φ(a_i) − λ,   φ(a) = (|w| − α) a + β √(1 − a²).
    φ is concave with its top √((|w| − α)² + β²) at a* = (|w| − α) / top. No row of the enclosing pool that was left
    out has a_i above some ā, so none has a gain above φ(min(ā, a*)) − λ.

While the innermost pool's best is above the bounds of all pools the pick is exact; where one is not, that pool and
those inside it are drawn again. Small pools need this often and large ones seldom, so nearly all products are small.
No cosine need be positive.
"""

from dataclasses import dataclass

import numpy as np

from smart.submodular.arithmetic import (
    compiled,
    dot64,
    exchange,
    float32_dot_error,
    matvec,
    tie_width,
    unit_rows,
    write_symmetric,
)
from smart.submodular.kernels import Cosine, Matrix
from smart.submodular.resources import Resources
from smart.submodular.zeros import without_zeros

POOL = 10.0  # rows of the innermost pool, in units of √d: its cosines cost most
RATIO = 4  # how many times larger the enclosing pool is, up to a third of all rows
PIECE = 2**22  # multiplications that are worth a thread


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


@dataclass
class _Pool:
    """Rows that were the best of a larger pool when they were drawn."""

    rows: np.ndarray
    """(m,), ascending."""
    x: np.ndarray
    """Vectors, side by side, and for all but everybody of length 1."""
    scale: np.ndarray
    places: np.ndarray
    """Where the rows lie in `x` and `scale`, (m,)."""

    def without(self, chosen: np.ndarray) -> "_Pool":
        left = ~chosen[self.rows]
        return _Pool(self.rows[left], self.x, self.scale, self.places[left])

    def take(self, best: np.ndarray) -> "_Pool":
        unit = unit_rows(self.x, self.scale, self.places[best], np.float32)
        return _Pool(self.rows[best], unit, np.ones(best.size), np.arange(best.size))


class _Innermost:
    """The pool from which picks are made. A row that stays when it is drawn again keeps its place and its cosines."""

    def __init__(self, m: int, d: int) -> None:
        self.rows = np.full(m, -1)
        """(m,), in any order."""
        self.gram = np.empty((m, m), np.float32)
        self._unit = np.empty((m, d), np.float32)

    def draw(self, around: _Pool, best: np.ndarray) -> None:
        places, missing = exchange(self.rows, around.rows[best])
        new = best[missing]
        self.rows[places] = around.rows[new]
        self._unit[places] = unit = unit_rows(around.x, around.scale, around.places[new], np.float32)
        write_symmetric(self.gram, places, self._unit @ unit.T)


class _Bounds:
    """What holds off those outside each pool: arrays with a row for each, the outermost first."""

    def __init__(self, pools: int, d: int) -> None:
        self.centre = np.zeros((pools, d))
        """c"""
        self.length = np.zeros(pools)
        """|w| when the pool was drawn."""
        self.ceiling = np.full(pools, -np.inf)
        """Within ε at least the a_i of all that were left out; −inf where there were none."""
        self.along = np.zeros(pools)
        """α"""
        self.squared = np.zeros(pools)
        """|D|²"""

    @property
    def state(self) -> tuple[np.ndarray, ...]:
        return self.centre, self.length, self.ceiling, self.along, self.squared

    def begin(self, level: int, w: np.ndarray) -> np.ndarray:
        """A pool is drawn now; returns c in float32."""
        self.length[level] = length = max(float(np.sqrt(dot64(w, w))), 1e-300)
        self.centre[level] = w / length
        self.along[level] = self.squared[level] = 0.0
        return self.centre[level].astype(np.float32)


def _greedy_cosine(
    kernel: Cosine, tradeoff: float, budget: int, resources: Resources, pool: int | None
) -> tuple[np.ndarray, np.ndarray]:
    x, scale, (n, d) = kernel.x, kernel.scale, kernel.x.shape
    order, gains = np.empty(budget, np.int64), np.empty(budget)
    sizes = _pool_sizes(n, pool or int(POOL * np.sqrt(d)))
    resources.need(64 * n + 4 * sum(sizes) * d + 8 * sizes[-1] * (d + sizes[-1]), f"graph cut of {n} rows")
    w, chosen, error = _sum_units(x, scale), np.zeros(n, np.bool_), float32_dot_error(d)
    pools = [_Pool(np.arange(n), x, scale, np.arange(n))]
    innermost, bounds = _Innermost(sizes[-1], d), _Bounds(len(sizes), d)
    done = stale = 0
    while done < budget:
        pools[stale:] = [pools[stale].without(chosen)]
        if stale and not pools[stale].rows.size:
            stale -= 1
            continue
        for level in range(stale, len(sizes)):
            centre, around = bounds.begin(level, w), pools[level]
            m = min(sizes[level], around.rows.size)
            best, bounds.ceiling[level] = _leaders(around, centre, m, resources)
            if level < len(sizes) - 1:
                pools.append(around.take(best))
        if m != innermost.rows.size:
            innermost = _Innermost(m, d)
        innermost.draw(around, best)
        taken, failed = _take_from_pool(
            x,
            scale,
            innermost.rows,
            innermost.gram,
            w,
            bounds.state,
            error,
            tradeoff,
            order[done:],
            gains[done:],
        )
        if taken == 0 and failed >= stale:  # its bound is fresh, so rounding is what it can't tell
            taken = 1
            gains[done] = _take_best(pools[0].without(chosen), w, bounds, error, tradeoff, order[done:])
        chosen[order[done : done + taken]] = True
        done += taken
        stale = failed
    return order, gains


def _pool_sizes(n: int, innermost: int) -> list[int]:
    """Of the pools inside one another, the outermost first."""
    sizes = [innermost]
    while sizes[0] * RATIO <= n // 3:
        sizes.insert(0, sizes[0] * RATIO)
    return sizes


def _leaders(around: _Pool, centre: np.ndarray, m: int, resources: Resources) -> tuple[np.ndarray, float]:
    """Which m of a pool's rows have the largest e_i·c, ascending, and the largest e_i·c of the others, in float32."""

    def work(piece: slice) -> tuple[np.ndarray, np.ndarray, float]:
        cosines = np.empty(piece.stop - piece.start, np.float32)
        matvec(around.x, around.scale, centre, around.places[piece], cosines)
        best, rest = _split(cosines, m)
        return best + piece.start, cosines[best], rest

    found = list(resources.map(work, resources.chunks(around.rows.size, PIECE // centre.size)))
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
def _move(
    w: np.ndarray,
    x: np.ndarray,
    scale: np.ndarray,
    pick: int,
    gain: float,
    tradeoff: float,
    bounds: tuple[np.ndarray, ...],
) -> None:
    """w −= 2λ e_a, and what each pool's bound follows: α and |D|², by e_a·D = |w|(e_a·c) − e_a·w now."""
    centre, length, _, along, squared = bounds
    for level in range(length.size):
        cosine = dot64(x[pick], centre[level]) * scale[pick]
        aside = length[level] * cosine - (gain + tradeoff)
        along[level] += 2.0 * tradeoff * cosine
        squared[level] += 4.0 * tradeoff * aside + 4.0 * tradeoff * tradeoff
    for k in range(w.size):
        w[k] -= 2.0 * tradeoff * scale[pick] * np.float64(x[pick, k])


@compiled
def _outside(bounds: tuple[np.ndarray, ...], level: int, error: float) -> float:
    """No row that was left out of a pool has a gain + λ above this."""
    _, length, ceiling, along, squared = bounds
    if ceiling[level] == -np.inf:
        return -np.inf
    ahead = length[level] - along[level]
    # What float64 may have lost in |D|² and α².
    rounding = 1e-13 * length[level] * (1.0 + np.sqrt(max(0.0, squared[level])))
    aside = np.sqrt(
        max(0.0, squared[level] - along[level] ** 2) + (rounding if squared[level] > 0.0 else 0.0)
    )
    top = np.sqrt(ahead * ahead + aside * aside)
    a = min(ceiling[level] + error, ahead / top) if top > 0.0 else 0.0
    return ahead * a + aside * np.sqrt(max(0.0, 1.0 - a * a))


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
    bounds: tuple[np.ndarray, ...],
    error: float,
    tradeoff: float,
    order: np.ndarray,
    gains: np.ndarray,
) -> tuple[int, int]:
    """Pick until an outsider might win, or the pool or the budget is spent.

    After t picks the pool's gains are known within 2λtε, since every float32 cosine is off by at most ε; those so
    close to the best that this leaves it open are evaluated in float64.

    Args:
        inside: rows of the innermost pool, (m,).
        gram: cosines inside the pool, (m, m) float32.
        w: moved by the picks, and the bounds with it.
        error: ε.
        order: written: rows.
        gains: written.

    Returns:
        The number of picks, and the outermost pool that has to be drawn again.
    """
    m = inside.size
    start = _exact_dots(x, scale, inside, w)
    drift = np.zeros(m)  # e_i·D / 2λ
    now, exact = start - tradeoff, np.empty(m)
    innermost = bounds[1].size - 1
    for step in range(min(m, order.size)):
        reach = now.max() - 4.0 * tradeoff * step * error
        best = -np.inf
        for i in range(m):
            exact[i] = -np.inf
            if now[i] >= reach - tie_width(reach):
                exact[i] = dot64(x[inside[i]], w) * scale[inside[i]] - tradeoff
                best = max(best, exact[i])
        floor = best - tie_width(best)
        for level in range(innermost + 1):
            if _outside(bounds, level, error) - tradeoff >= floor:
                return step, level
        pick = -1
        for i in range(m):
            if exact[i] >= floor and (pick < 0 or inside[i] < inside[pick]):
                pick = i
        row = inside[pick]
        order[step], gains[step] = row, exact[pick]
        _move(w, x, scale, row, exact[pick], tradeoff, bounds)
        for i in range(m):
            drift[i] += gram[pick, i]
            now[i] = start[i] - 2.0 * tradeoff * drift[i] - tradeoff
        start[pick] = now[pick] = -np.inf
    return min(m, order.size), innermost


def _take_best(
    everybody: _Pool, w: np.ndarray, bounds: _Bounds, error: float, tradeoff: float, order: np.ndarray
) -> float:
    """One pick among all that rounding can't tell apart, where they don't fit in a pool; returns its gain."""
    length = max(float(np.sqrt(dot64(w, w))), 1e-300)
    cosines = np.empty(everybody.rows.size, np.float32)
    matvec(everybody.x, everybody.scale, (w / length).astype(np.float32), everybody.places, cosines)
    reach = 2.0 * error + tie_width(length) / length
    close = everybody.rows[cosines >= cosines.max() - reach]
    exact = _exact_dots(everybody.x, everybody.scale, close, w) - tradeoff
    best = exact.max()
    pick = int(np.argmax(exact >= best - tie_width(best)))
    order[0] = close[pick]
    _move(w, everybody.x, everybody.scale, close[pick], float(exact[pick]), tradeoff, bounds.state)
    return float(exact[pick])
