"""Exact greedy for the log-determinant, with a d×d matrix instead of an n×k one.

By the matrix determinant lemma, with unit rows e_i and M = λI_d + Σ_{a∈A} e_a e_aᵀ,

    g_i = log λ + log(1 + q_i),     q_i = e_iᵀ M⁻¹ e_i,

and a pick a lowers every q (Sherman–Morrison): q_i −= (e_iᵀ M⁻¹ e_a)² / (1 + q_a). Since q never rises, a value from
earlier is a bound for now. The best m rows by those bounds form a pool, whose q are made exact from M⁻¹ and kept so
pick by pick inside the pool; while the pool's best is above every bound outside it, the pick is exact. When it is
not, the picks since are taken off everybody's bound by one float32 matrix product, rounded upwards, and a new pool
is made.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from smart.submodular._kernels.compilation import compiled
from smart.submodular._kernels.projected_norms import columns_of, sums_of_squares, sums_of_squares_error
from smart.submodular.arithmetic import tie_width
from smart.submodular.base import GreedyState
from smart.submodular.resources import Resources
from smart.submodular.similarity import Cosine, Matrix
from smart.submodular.zero_vectors import without_zeros

POOL = 160
WHOLE = 512  # rows up to which one pool of everybody, whose kernel is held, is quicker
EXACT_INVERSE_EVERY = 256  # refreshes after which M⁻¹ is made from M again, so that rounding can't add up
COMPACT = 0.75  # the vectors left are copied together when they are fewer than this share of those held
BLOCK = 2048  # rows that one job works on


class LogDeterminantState(GreedyState):
    """Gains from M⁻¹, updated pick by pick in float64."""

    def __init__(self, kernel: Cosine, regularizer: float) -> None:
        self._unit = kernel.unit()
        self._regularizer = regularizer
        self._inverse = np.eye(self._unit.shape[1]) / regularizer
        self._q = np.einsum("ij,ij->i", self._unit, self._unit) / regularizer

    def gains(self) -> np.ndarray:
        return self._gains(self._q)

    def gains_of(self, rows: np.ndarray) -> np.ndarray:
        return self._gains(self._q[rows])

    def _gains(self, q: np.ndarray) -> np.ndarray:
        return np.log(self._regularizer) + np.log1p(np.maximum(q, 0.0))

    def add(self, i: int) -> None:
        z = self._inverse @ self._unit[i]
        fall = 1.0 + z @ self._unit[i]
        self._q = self._q - (self._unit @ z) ** 2 / fall
        self._inverse -= np.outer(z, z) / fall


class LogDeterminantKernelState(GreedyState):
    """Gains of a kernel given as a matrix, by incremental Cholesky (Chen, Zhang, Zhou 2018): O(n|A|) a pick.

    Raises:
        ValueError: S + λI proves not to be positive definite, where the function has no value.
    """

    def __init__(self, kernel: Matrix, regularizer: float) -> None:
        self._kernel = kernel
        self._factor = np.empty((8, kernel.n))
        self._size = 0
        self._chosen = np.zeros(kernel.n, np.bool_)
        self._regularizer = regularizer
        self._variance = self._positive(kernel.diagonal() + regularizer)
        """Pivots of the rows not chosen, det S_{A+i} / det S_A; 1 for those chosen."""

    def gains(self) -> np.ndarray:
        return np.log(self._variance)

    def gains_of(self, rows: np.ndarray) -> np.ndarray:
        return np.log(self._variance[rows])

    def add(self, i: int) -> None:
        if self._size == len(self._factor):
            self._factor = np.concatenate([self._factor, np.empty_like(self._factor)])
        known = self._factor[: self._size]
        row = (self._kernel.column(i) - known[:, i] @ known) / np.sqrt(self._variance[i])
        self._factor[self._size] = row
        variance = self._variance - row * row
        self._chosen[i] = True
        variance[self._chosen] = 1.0
        self._variance = self._positive(variance)
        self._size += 1

    def _positive(self, variance: np.ndarray) -> np.ndarray:
        wrong = np.flatnonzero(~(variance > 0))
        if wrong.size:
            raise ValueError(
                f"log det(S + {self._regularizer:g} I) has no value once row {wrong[0]} is chosen: the kernel is not "
                "positive semi-definite; correct it, or raise regularizer"
            )
        return variance


def greedy(
    kernel: Cosine | Matrix, regularizer: float, budget: int, resources: Resources, pool: int = POOL
) -> tuple[np.ndarray, np.ndarray]:
    """Order and gains of `budget` picks; `pool` changes the time they take, and nothing else."""
    if isinstance(kernel, Matrix):
        return _greedy_matrix(kernel, regularizer, budget, resources)
    order, q = without_zeros(
        kernel, budget, 0.0, lambda k, b: _greedy_cosine(k, regularizer, b, resources, pool)
    )
    return order, np.log(regularizer) + np.log1p(q)


def _greedy_matrix(
    kernel: Matrix, regularizer: float, budget: int, resources: Resources
) -> tuple[np.ndarray, np.ndarray]:
    resources.need(
        16 * kernel.n * budget, f"log-determinant of {budget} picks from a kernel of {kernel.n} rows"
    )
    state = LogDeterminantKernelState(kernel, regularizer)
    order, gains = np.empty(budget, np.int64), np.empty(budget)
    free = np.ones(kernel.n, np.bool_)
    for step in range(budget):
        now = np.where(free, state.gains(), -np.inf)
        best = now.max()
        order[step] = pick = int(np.argmax(now >= best - tie_width(best)))
        gains[step] = now[pick]
        free[pick] = False
        state.add(pick)
    return order, gains


def _greedy_cosine(
    kernel: Cosine, regularizer: float, budget: int, resources: Resources, pool: int
) -> tuple[np.ndarray, np.ndarray]:
    """Order and q of each pick; no row is zero."""
    n, d = kernel.x.shape
    order, chosen = np.empty(budget, np.int64), np.empty(budget)
    fixed = 64 * d * d + 32 * pool * (d + pool) + 64 * n
    resources.need(fixed, f"log-determinant of {n} rows of {d} dimensions")
    if n <= WHOLE:
        unit = kernel.unit()
        q = np.full(n, 1.0 / regularizer)
        _take_from_pool(np.arange(n), unit @ unit.T / regularizer, q, -np.inf, order, chosen)
        return order, chosen
    matrix = np.eye(d) * regularizer
    inverse: np.ndarray = np.eye(d) / regularizer
    alive, free = np.arange(n), np.ones(n, np.bool_)
    held = _Held(kernel.x, alive, kernel.scale)
    bound = np.full(n, 1.0 / regularizer)
    chosen[0] = 1.0 / regularizer  # every first gain is log(λ + 1): row 0
    picks = alive[:1]
    falls = kernel.unit(picks) / regularizer / np.sqrt(1.0 + chosen[0])
    inside, done, refreshes, counted = _Pool(0, d), 0, 0, 0
    while True:
        order[done : done + picks.size], free[picks] = picks, False
        done += picks.size
        if done == budget:
            return order, chosen
        alive = alive[free[alive]]
        if alive.size < COMPACT * held.rows.size and fixed + 4 * alive.size * d <= resources.memory:
            held = _Held(kernel.x[:0], alive[:0], kernel.scale)  # free the last copy before the next is made
            held = _Held(kernel.x[alive], alive, kernel.scale)
        beside = [partial(_subtract_gram, falls, inverse), partial(inside.lower, falls)]
        _lower_bounds(held, falls, bound, resources, beside)
        refreshes += 1
        if refreshes % EXACT_INVERSE_EVERY == 0:
            for start in range(counted, done, BLOCK):
                recent = kernel.unit(order[start : min(start + BLOCK, done)])
                matrix += recent.T @ recent
            inverse, counted = np.ascontiguousarray(np.linalg.inv(matrix)), done
            inside = _Pool(0, d)

        rows, ceiling = _best_bounds(alive, bound, pool)
        if rows.size != inside.rows.size:
            inside = _Pool(rows.size, d)
        inside.draw(rows, kernel, inverse, resources)
        q = np.diagonal(inside.gram).copy()
        bound[inside.rows] = q
        local = np.empty(min(rows.size, budget - done), np.int64)
        taken, factor = _take_from_pool(inside.rows, inside.gram, q, ceiling, local, chosen[done:])
        if taken:
            local = local[:taken]
            picks, falls = inside.rows[local], _falls(inside.z[local], factor, local, chosen[done:])
        else:
            picks = _best(kernel, inverse, alive, bound, q.max(), chosen[done:])
            falls = kernel.unit(picks) @ inverse / np.sqrt(1.0 + chosen[done])


class _Held(NamedTuple):
    """Rows whose vectors lie together, for the products with all of them."""

    x: np.ndarray
    """Their vectors, (m, d) float32, C-contiguous."""
    rows: np.ndarray
    """Their row numbers, (m,) int64."""
    scale: np.ndarray
    """1/|x_i| of all rows, by row number."""

    def part(self, some: slice) -> "_Held":
        return _Held(self.x[some], self.rows[some], self.scale)


class _Pool:
    """The rows with the largest bounds, of which all is known in float64. A row that stays keeps its place."""

    def __init__(self, m: int, d: int) -> None:
        self.rows = np.full(m, -1)
        """(m,), in any order."""
        self.unit = np.empty((m, d))
        """e_i, (m, d)."""
        self.z = np.empty((m, d))
        """e_iᵀ M⁻¹, (m, d)."""
        self.gram = np.empty((m, m))
        """e_iᵀ M⁻¹ e_j, (m, m)."""

    def lower(self, falls: np.ndarray) -> None:
        """M⁻¹ became M⁻¹ − YᵀY."""
        share = self.unit @ falls.T
        self.z -= share @ falls
        self.gram -= share @ share.T

    def draw(self, wanted: np.ndarray, kernel: Cosine, inverse: np.ndarray, resources: Resources) -> None:
        """Rows that are not wanted give way to those that are, for which alone anything is computed."""
        places, missing = _exchange(self.rows, wanted)
        self.rows[places] = new = wanted[missing]
        self.unit[places] = unit = kernel.unit(new)

        def work(piece: slice) -> np.ndarray:
            self.z[places[piece]] = z = unit[piece] @ inverse
            return z @ self.unit.T

        pieces = resources.chunks(new.size, 16)
        fresh = np.concatenate(resources.run([partial(work, piece) for piece in pieces]))
        _write_symmetric(self.gram, places, fresh.T)


@compiled
def _exchange(rows: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of a pool (m rows in any order) whose rows are not wanted, and which of the m wanted (ascending) it lacks.

    As many of the one as of the other: rows[places] = wanted[missing] makes the pool what is wanted, and what stays
    keeps its place.
    """
    m = rows.size
    places, missing, there = np.empty(m, np.int64), np.empty(m, np.int64), np.zeros(m, np.bool_)
    count = 0
    for i in range(m):
        at = np.searchsorted(wanted, rows[i])
        if at < m and wanted[at] == rows[i]:
            there[at] = True
        else:
            places[count] = i
            count += 1
    count = 0
    for at in range(m):
        if not there[at]:
            missing[count] = at
            count += 1
    return places[:count], missing[:count]


@compiled
def _write_symmetric(matrix: np.ndarray, places: np.ndarray, columns: np.ndarray) -> None:
    """The rows and columns `places` of a symmetric matrix, (m, m), become `columns`, (m, places)."""
    for t in range(places.size):
        for i in range(matrix.shape[0]):
            matrix[places[t], i] = matrix[i, places[t]] = columns[i, t]


def _subtract_gram(falls: np.ndarray, inverse: np.ndarray) -> None:
    """M⁻¹ −= YᵀY, in place, for which M⁻¹ has to be C-contiguous: BLAS would change a copy of any other."""
    from scipy.linalg.blas import dgemm  # takes 0.2 s or more, which small inputs never need

    dgemm(-1.0, falls.T, falls.T, beta=1.0, c=inverse.T, trans_b=True, overwrite_c=True)


@compiled
def _falls(z: np.ndarray, factor: np.ndarray, places: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Y (picks, d), with M⁻¹ − YᵀY the inverse after the picks: Y e_i is what the factor's column for i holds.

    Args:
        z: the picks' e_iᵀ M⁻¹, (picks, d).
        factor: Cholesky's of the pool they came from.
        places: theirs in the pool.
        q: theirs.
    """
    y = z.copy()
    for t in range(len(y)):
        for s in range(t):
            share = factor[s, places[t]]
            for k in range(y.shape[1]):
                y[t, k] -= share * y[s, k]
        norm = 1.0 / np.sqrt(1.0 + q[t])
        for k in range(y.shape[1]):
            y[t, k] *= norm
    return y


def _best(
    kernel: Cosine,
    inverse: np.ndarray,
    alive: np.ndarray,
    bound: np.ndarray,
    least: float,
    chosen: np.ndarray,
) -> np.ndarray:
    """One pick among all rows whose bound reaches `least`, where a pool can't tell; their bounds become exact."""
    close = alive[bound[alive] >= least - tie_width(least)]
    for start in range(0, close.size, BLOCK):
        rows = close[start : start + BLOCK]
        unit = kernel.unit(rows)
        bound[rows] = np.einsum("ij,ij->i", unit @ inverse, unit)
    best = bound[close].max()
    pick = close[bound[close] >= best - tie_width(best)][:1]
    chosen[0] = bound[pick[0]]
    return pick


def _lower_bounds(
    held: _Held,
    falls: np.ndarray,
    bound: np.ndarray,
    resources: Resources,
    beside: Sequence[Callable[[], None]],
) -> None:
    """bound_i −= |Y e_i|² for the falls Y (picks, d), rounded so that it stays a bound.

    `beside` are other jobs, each of one thread, that can be done meanwhile.

    The float32 vector p ≈ Y x_i is off by at most ε|Y|_F|x_i| and its length by at most δ of itself, so
    |Y e_i| ≥ (1 − δ)|p||x_i|⁻¹ − ε|Y|_F.
    """
    error, relative = sums_of_squares_error(held.x.shape[1], len(falls))
    slack = error * float(np.linalg.norm(falls))
    columns = columns_of(falls)

    def work(start: int) -> None:
        _subtract_squares(held.part(slice(start, start + BLOCK)), columns, 1.0 - relative, slack, bound)

    jobs: list[Callable[[], None]] = [
        *beside,
        *(partial(work, start) for start in range(0, held.rows.size, BLOCK)),
    ]
    resources.run(jobs)


@compiled
def _subtract_squares(
    held: _Held, columns: np.ndarray, shrink: float, slack: float, bound: np.ndarray
) -> None:
    rows, scale = held.rows, held.scale
    squares = np.empty(rows.size, np.float32)
    sums_of_squares(held.x, columns, squares)
    for j in range(rows.size):
        length = np.sqrt(np.float64(squares[j])) * scale[rows[j]] * shrink
        bound[rows[j]] -= max(length - slack, 0.0) ** 2


def _best_bounds(alive: np.ndarray, bound: np.ndarray, pool: int) -> tuple[np.ndarray, float]:
    """The rows with the largest bounds (at ties the lowest), sorted by row, and the largest bound outside."""
    if alive.size <= pool:
        return alive, -np.inf
    values, rest = bound[alive], alive.size - pool
    outside, least = np.partition(values, [rest - 1, rest])[rest - 1 : rest + 1]
    inside = values > least
    inside[np.flatnonzero(values == least)[: pool - np.count_nonzero(inside)]] = True
    return alive[inside], float(outside)


@compiled
def _take_from_pool(
    rows: np.ndarray,
    gram: np.ndarray,
    q: np.ndarray,
    ceiling: float,
    order: np.ndarray,
    chosen: np.ndarray,
) -> tuple[int, np.ndarray]:
    """Pick until an outsider might win, or the pool or the budget is spent.

    Row t of the factor is Cholesky's: (K_t· − Σ_{s<t} F_st F_s·) / √(1 + q_t), and q −= F_t².

    Args:
        rows: of the pool, (m,), in any order.
        gram: e_iᵀ M⁻¹ e_j at the start, (m, m).
        q: its diagonal.
        ceiling: at least every outsider's q.
        order: written: positions in the pool.
        chosen: written: q of the picks.

    Returns:
        The number of picks, and the factor, with a row F_t for each.
    """
    m = q.size
    q = q.copy()
    free = np.ones(m, np.bool_)
    factor = np.empty((min(m, order.size), m))
    for step in range(min(m, order.size)):
        best = -np.inf
        for i in range(m):
            if free[i]:
                best = max(best, q[i])
        floor = best - tie_width(best)
        if ceiling >= floor:
            return step, factor
        pick = -1
        for i in range(m):
            if free[i] and q[i] >= floor and (pick < 0 or rows[i] < rows[pick]):
                pick = i
        order[step], chosen[step], free[pick] = pick, q[pick], False
        row = factor[step]
        row[:] = gram[pick]
        for s in range(step):
            share = factor[s, pick]
            for i in range(m):
                row[i] -= share * factor[s, i]
        norm = 1.0 / np.sqrt(1.0 + q[pick])
        for i in range(m):
            row[i] *= norm
            q[i] -= row[i] * row[i]
    return min(m, order.size), factor
