"""Exact greedy for graph cut in O(nd) memory: a maximum inner product search with a slowly drifting query.

With unit rows e_i, R = Σ_v e_v and u = Σ_{a∈A} e_a, the gain of i is linear in e_i:

    g_i = Σ_v s_vi − 2λ Σ_{a∈A} s_ia − λ s_ii = e_i·w − λ,     w = R − 2λu,

so all gains cost one matrix-vector product, and a pick a moves w by −2λ e_a. The best rows by that product form a
pool; the best of a pool by a later, smaller product form a pool inside it, and so on. In the innermost, a few dozen
rows, gains are known pick by pick from the products of each pick with those that are left. Everybody outside a pool is
held off by a bound:

    Let c = w/|w| when the pool was drawn, a_i = e_i·c, and D = w then − w now, split as D = αc + D⊥ with |D⊥| = β.
    Split e_i = a_i c + e_i⊥, |e_i⊥| = √(1 − a_i²). Then by Cauchy–Schwarz
        g_i now = |w|a_i − (a_i α + e_i⊥·D⊥) − λ ≤ φ(a_i) − λ,   φ(a) = (|w| − α) a + β √(1 − a²).
    φ is concave with its top √((|w| − α)² + β²) at a* = (|w| − α) / top. No row of the enclosing pool that was left
    out has a_i above some ā, so none has a gain above φ(min(ā, a*)) − λ. A pick raises no gain by more than 2λ, so φ
    is evaluated again only where that might matter.

While the innermost pool's best is above the bounds of all pools the pick is exact; where one is not, that pool and
those inside it are drawn again. Small pools need this often and large ones seldom, so nearly all products are small,
and of rows that the processor's cache holds. No cosine need be positive.
"""

from typing import NamedTuple

import numpy as np

from smart.submodular._kernels.compilation import compiled, compiled_fast, compiled_max, inlined
from smart.submodular._kernels.dot_products import dot64, dots32, dots32_error
from smart.submodular.arithmetic import tie_width, unit_rows
from smart.submodular.base import GreedyState
from smart.submodular.resources import Resources
from smart.submodular.similarity import Cosine, Matrix
from smart.submodular.zero_vectors import without_zeros

POOL = 96  # rows of the innermost pool
SIGN_BLOCK = 512  # rows and columns of cosines whose signs are looked at together
RATIO = 3  # how many times larger the enclosing pool is, up to a third of all rows


class GraphCutState(GreedyState):
    """Gains by the definition, in float64. A pick's column of the kernel is computed when all gains are asked for."""

    def __init__(self, kernel: Cosine, tradeoff: float) -> None:
        self._unit, self._diagonal, self._tradeoff = kernel.unit(), kernel.diagonal(), tradeoff
        self._gains = kernel.row_sums() - tradeoff * kernel.diagonal()
        self._waiting: list[int] = []
        """Picks that the gains don't reflect yet."""
        self._sum = np.zeros(self._unit.shape[1])
        """Σ e_a over those, (d,)."""

    def gains(self) -> np.ndarray:
        for i in self._waiting:
            column = self._unit @ self._unit[i]
            column[i] = self._diagonal[i]
            self._gains = self._gains - 2 * self._tradeoff * column
        self._waiting.clear()
        self._sum[:] = 0.0
        return self._gains

    def add(self, i: int) -> None:
        self._waiting.append(i)
        self._sum += self._unit[i]

    def gains_of(self, rows: np.ndarray) -> np.ndarray:
        return self._gains[rows] - 2 * self._tradeoff * (self._unit[rows] @ self._sum)


class GraphCutKernelState(GreedyState):
    """Gains of a kernel given as a matrix."""

    def __init__(self, kernel: Matrix, tradeoff: float) -> None:
        self._kernel, self._tradeoff = kernel, tradeoff
        self._gains = kernel.row_sums() - tradeoff * kernel.diagonal()

    def gains(self) -> np.ndarray:
        return self._gains

    def add(self, i: int) -> None:
        self._gains = self._gains - 2 * self._tradeoff * self._kernel.column(i)


def never_rises(kernel: Cosine | Matrix, tradeoff: float) -> bool:
    """Whether no pick can raise a gain: λ = 0, or no similarity of two different rows is below 0.

    Cosines are computed in float64, a block of rows at a time: O(n²d) at most, and O(nd) memory.
    """
    if tradeoff == 0.0:
        return True
    if isinstance(kernel, Matrix):
        return np.count_nonzero(kernel.s < 0) == np.count_nonzero(kernel.diagonal() < 0)
    unit = kernel.unit()
    blocks = [unit[start : start + SIGN_BLOCK] for start in range(0, len(unit), SIGN_BLOCK)]
    return all((blocks[i] @ block.T >= 0).all() for j, block in enumerate(blocks) for i in range(j + 1))


def greedy(
    kernel: Cosine | Matrix, tradeoff: float, budget: int, resources: Resources, pool: int = POOL
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
            gains[i] -= 2.0 * tradeoff * np.float64(columns[pick, i])
    return order, chosen


class _Pools(NamedTuple):
    """Pool 0 is everybody; each other holds the best rows of the one before, when it was drawn, and their bound.

    The rows of all pools lie in one array, each pool's from `start`, so that compiled code can count through them.
    Entry 0 of the arrays from `before` on is not used.
    """

    rows: np.ndarray
    """Row numbers, a pool's ascending, int64."""
    start: np.ndarray
    """(pools + 1,); pool p has room for start[p + 1] − start[p] rows."""
    size: np.ndarray
    """(pools,)"""
    before: np.ndarray
    """w when the pool was drawn, (pools, d)."""
    length: np.ndarray
    """|w| then, (pools,)."""
    ceiling: np.ndarray
    """Within ε at least the a_i of all that were left out; −inf where there were none."""
    bound: np.ndarray
    """Gain + λ of those left out was at most this,"""
    since: np.ndarray
    """so many picks ago."""


class _Search(NamedTuple):
    """What the compiled functions work on."""

    x: np.ndarray
    """Vectors, (n, d) float32."""
    scale: np.ndarray
    """1/|x_i|, (n,) float64."""
    w: np.ndarray
    """(d,) float64, moved by every pick."""
    tradeoff: float
    """λ."""
    error: float
    """ε, that of a float32 cosine."""
    pools: _Pools


def _pools(n: int, d: int, sizes: list[int]) -> _Pools:
    """Everybody, and pools of such sizes inside one another, none drawn yet."""
    start = np.cumsum([0, n, *sizes])
    rows = np.concatenate([np.arange(n), np.zeros(sum(sizes), np.int64)])
    count = len(sizes) + 1
    size, since = np.array([n] + [0] * len(sizes)), np.zeros(count, np.int64)
    return _Pools(
        rows, start, size, np.zeros((count, d)), np.zeros(count), np.zeros(count), np.zeros(count), since
    )


def _pool_sizes(n: int, innermost: int) -> list[int]:
    """Rows of each of the pools inside one another, the outermost first."""
    sizes = [innermost]
    while sizes[0] * RATIO <= n // 3:
        sizes.insert(0, sizes[0] * RATIO)
    return sizes


def _greedy_cosine(
    kernel: Cosine, tradeoff: float, budget: int, resources: Resources, pool: int
) -> tuple[np.ndarray, np.ndarray]:
    n, d = kernel.x.shape
    sizes = _pool_sizes(n, pool)
    needed = 64 * n + 8 * (sum(sizes) + len(sizes) * d) + 4 * sizes[-1] * (sizes[-1] + d)
    resources.need(needed, f"graph cut of {n} rows")
    w = _sum_units(kernel.x, kernel.scale)
    search = _Search(kernel.x, kernel.scale, w, float(tradeoff), dots32_error(d), _pools(n, d, sizes))
    order, gains = np.empty(budget, np.int64), np.empty(budget)
    _greedy_pools(search, order, gains)
    return order, gains


@compiled
def _sum_units(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """R = Σ e_v, (d,) float64, summed row by row."""
    total = np.zeros(x.shape[1])
    for i in range(x.shape[0]):
        for k in range(x.shape[1]):
            total[k] += scale[i] * np.float64(x[i, k])
    return total


@compiled
def _greedy_pools(search: _Search, order: np.ndarray, gains: np.ndarray) -> None:
    """Writes order and gains, (budget,)."""
    pools, chosen = search.pools, np.zeros(search.scale.size, np.bool_)
    innermost = pools.size.size - 1
    done, stale = 0, 1
    while done < order.size:
        _drop_chosen(pools, stale - 1, chosen)
        if pools.size[stale - 1] == 0:
            stale -= 1
            continue
        for p in range(stale, innermost + 1):
            cosines = _draw(search, p)
        now = pools.length[innermost] * cosines - search.tradeoff
        taken, failed = _take_from_innermost(search, now, order[done:], gains[done:])
        if taken == 0 and failed >= stale:  # its bound is fresh, so rounding is what it can't tell
            _drop_chosen(pools, 0, chosen)
            _take_best(search, order[done:], gains[done:])
            taken = 1
        for pick in order[done : done + taken]:
            chosen[pick] = True
        done += taken
        stale = failed


@compiled
def _drop_chosen(pools: _Pools, p: int, chosen: np.ndarray) -> None:
    rows = pools.rows[pools.start[p] : pools.start[p] + pools.size[p]]
    left = 0
    for row in rows:
        rows[left] = row
        left += not chosen[row]
    pools.size[p] = left


@compiled
def _cosines(search: _Search, rows: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """e_i·v of some rows i with vectors of length 1, (vectors, rows), all float32."""
    out = np.empty((len(vectors), rows.size), np.float32)
    dots32(search.x, rows, vectors, out)
    for v in range(len(vectors)):
        for j in range(rows.size):
            out[v, j] *= search.scale[rows[j]]
    return out


@compiled
def _along_w(search: _Search, rows: np.ndarray) -> tuple[np.ndarray, float]:
    """e_i·c of some rows, (rows,) float32, and |w|."""
    length = max(np.sqrt(dot64(search.w, search.w)), 1e-300)
    c = (search.w / length).astype(np.float32)
    return _cosines(search, rows, c.reshape(1, -1))[0], length


@compiled
def _draw(search: _Search, p: int) -> np.ndarray:
    """Fill a pool with the rows of the one before that have the largest e_i·c; returns these, float64."""
    pools = search.pools
    around = pools.rows[pools.start[p - 1] : pools.start[p - 1] + pools.size[p - 1]]
    cosines, length = _along_w(search, around)
    m = min(pools.start[p + 1] - pools.start[p], around.size)
    least = np.partition(cosines, around.size - m)[around.size - m]
    room = m
    for cosine in cosines:
        room -= cosine > least
    rows, best = pools.rows[pools.start[p] :], np.empty(m)
    count, ceiling = 0, np.float32(-np.inf)
    for j in range(around.size):
        if cosines[j] > least or (cosines[j] == least and room > 0):
            room -= cosines[j] == least
            rows[count], best[count] = around[j], cosines[j]
            count += 1
        else:
            ceiling = max(ceiling, cosines[j])
    pools.length[p], pools.before[p], pools.size[p] = length, search.w, m
    pools.ceiling[p], pools.bound[p], pools.since[p] = ceiling, np.inf, 0
    return best


@compiled_fast
def _drift(before: np.ndarray, w: np.ndarray) -> tuple[float, float]:
    """before·D and |D|² for D = before − w."""
    along = squared = 0.0
    for k in range(w.size):
        drift = before[k] - w[k]
        along += before[k] * drift
        squared += drift * drift
    return along, squared


@inlined
def _outside(search: _Search, p: int) -> float:
    """No row that was left out of a pool has a gain + λ above this."""
    length, ceiling = search.pools.length[p], search.pools.ceiling[p]
    if ceiling == -np.inf:
        return -np.inf
    along, squared = _drift(search.pools.before[p], search.w)
    along /= length
    ahead, drift = length - along, np.sqrt(squared)
    # Sums of d products in any order: |D|² and α|D| are each known within half of this times |D| (Higham).
    lost = 2.0 * search.w.size * 2.0**-53 * drift
    aside = np.sqrt(max(0.0, squared - along * along) + 2.0 * lost * drift)
    top = np.sqrt(ahead * ahead + aside * aside)
    a = min(ceiling + search.error, ahead / top) if top > 0.0 else 0.0
    return ahead * a + aside * np.sqrt(max(0.0, 1.0 - a * a)) + lost


@inlined
def _first_failing(search: _Search, floor: float) -> int:
    """The outermost pool outside which a gain may reach `floor`; 0 where there is none."""
    pools, tradeoff = search.pools, search.tradeoff
    for p in range(1, pools.size.size):
        if pools.bound[p] + 2.0 * tradeoff * pools.since[p] - tradeoff >= floor:
            pools.bound[p], pools.since[p] = _outside(search, p), 0
            if pools.bound[p] - tradeoff >= floor:
                return p
    return 0


@compiled_max
def _highest(values: np.ndarray, less: np.ndarray, m: int) -> float:
    best = -np.inf
    for i in range(m):
        best = max(best, values[i] - less[i])
    return best


@inlined
def _exact_gain(search: _Search, row: int) -> float:
    return dot64(search.x[row], search.w) * search.scale[row] - search.tradeoff


@compiled
def _take_from_innermost(
    search: _Search, now: np.ndarray, order: np.ndarray, gains: np.ndarray
) -> tuple[int, int]:
    """Pick until an outsider might win, or the pool or the budget is spent.

    A gain is known within ε|w| from the cosines by which the pool was drawn, and a pick adds at most 2λε. Those that
    this leaves open are evaluated in float64.

    Args:
        now: gains of the pool's rows by those cosines, (m,).
        order: written: rows.
        gains: written.

    Returns:
        The number of picks, and the outermost pool that has to be drawn again.
    """
    pools, m, innermost = search.pools, now.size, search.pools.size.size - 1
    fall = 2.0 * search.tradeoff
    rows = pools.rows[pools.start[innermost] : pools.start[innermost] + m].copy()
    off = np.full(m, search.error * pools.length[innermost])
    column, columns, cosines = np.full(m, -1), 0, np.empty((m + 1, m), np.float32)  # with the picks
    for step in range(min(m, order.size)):
        reach = _highest(now, off, m)
        reach -= tie_width(reach)
        best = -np.inf
        for i in range(m):
            if now[i] + off[i] >= reach:
                now[i], off[i] = _exact_gain(search, rows[i]), 0.0
                best = max(best, now[i])
        floor = best - tie_width(best)
        failing = _first_failing(search, floor)
        if failing:
            return step, failing
        pick = -1
        for i in range(m):
            if now[i] >= floor and (pick < 0 or rows[i] < rows[pick]):
                pick = i
        order[step], gains[step] = rows[pick], now[pick]
        _move(search, rows[pick])
        now[pick] = -np.inf
        if column[pick] < 0:
            # Two at a time, since reading the rows takes longer than multiplying them.
            column[pick] = columns
            other = _next_without(column, now, pick)
            two = unit_rows(search.x, search.scale, np.array([rows[pick], rows[other]]), np.float32)
            cosines[columns : columns + 2] = _cosines(search, rows, two)
            column[other] = columns + 1
            columns += 2
        for i in range(m):
            now[i] -= fall * np.float64(cosines[column[pick], i])
            off[i] += fall * search.error
    return min(m, order.size), innermost


@compiled
def _next_without(column: np.ndarray, now: np.ndarray, otherwise: int) -> int:
    """Where the largest gain is among the rows that have no column of cosines yet."""
    best, value = otherwise, -np.inf
    for i in range(now.size):
        if column[i] < 0 and now[i] > value:
            best, value = i, now[i]
    return best


@inlined
def _move(search: _Search, pick: int) -> None:
    """w −= 2λ e_a."""
    row, step = search.x[pick], 2.0 * search.tradeoff * search.scale[pick]
    for k in range(row.size):
        search.w[k] -= step * row[k]
    for p in range(search.pools.since.size):
        search.pools.since[p] += 1


@compiled
def _take_best(search: _Search, order: np.ndarray, gains: np.ndarray) -> None:
    """One pick among all that rounding can't tell apart, where they don't fit in a pool."""
    rows = search.pools.rows[: search.pools.size[0]]
    cosines, length = _along_w(search, rows)
    reach = np.float64(cosines.max()) - 2.0 * search.error - tie_width(length) / length
    exact = np.full(rows.size, -np.inf)
    for j in range(rows.size):
        if cosines[j] >= reach:
            exact[j] = _exact_gain(search, rows[j])
    pick = np.argmax(exact >= exact.max() - tie_width(exact.max()))
    order[0], gains[0] = rows[pick], exact[pick]
    _move(search, rows[pick])
