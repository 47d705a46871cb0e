"""The first picks of a large facility location, by upper bounds that are made exact only where it matters.

Gains never rise, so a bound from earlier still holds. At each pick, rows are evaluated in order of their bounds, a
batch at a time by one float32 matrix product, until no bound left is above the best; the few that rounding can't
tell apart are evaluated again in float64. A pass over the whole kernel makes all bounds anew when evaluations since
the last one have cost as much as a pass would.
"""

from dataclasses import dataclass

import numpy as np

from smart.submodular._kernels.compilation import compiled, compiled_fast
from smart.submodular._kernels.dot_products import float32_dot_error
from smart.submodular.arithmetic import Vectors, cosine64, tie_width
from smart.submodular.facility_dense import fill_ascending
from smart.submodular.resources import Resources
from smart.submodular.similarity import Cosine
from smart.submodular.similarity_tiles import SimilarityTiles

EVALUATIONS = 1 / 8  # of n: what one pass over the kernel is worth


@dataclass
class Cover:
    """What the chosen rows offer so far."""

    kernel: Cosine
    vectors: Vectors
    """The kernel's, with the quantum."""
    covered: np.ndarray
    """m_v, (n,) float64."""
    bounds: np.ndarray
    """At least each row's gain, (n,) float64; −inf once chosen."""
    order: np.ndarray
    gains: np.ndarray
    picked: int = 0

    @staticmethod
    def empty(kernel: Cosine, quantum: float, budget: int) -> "Cover":
        return Cover(
            kernel,
            Vectors(kernel.x, kernel.scale, quantum),
            np.zeros(kernel.n),
            np.full(kernel.n, np.inf),
            np.empty(budget, np.int64),
            np.empty(budget),
        )

    def exact(self, i: int, column: np.ndarray, error: float) -> tuple[float, np.ndarray, np.ndarray]:
        """Gain of row i, and the rows and cosines that it comes from; column is s_·i within error."""
        rows = np.flatnonzero(column > self.covered - error)
        cosines = _exact_cosines(self.vectors, i, rows)
        better = cosines > self.covered[rows]
        rows, cosines = rows[better], cosines[better]
        return float((cosines - self.covered[rows]).sum()), rows, cosines

    def pick(self, i: int, gain: float, rows: np.ndarray, cosines: np.ndarray) -> None:
        self.order[self.picked], self.gains[self.picked] = i, gain
        self.covered[rows] = cosines
        self.bounds[i] = -np.inf
        self.picked += 1


@compiled
def _exact_cosines(vectors: Vectors, i: int, rows: np.ndarray) -> np.ndarray:
    """s_vi of some rows v in float64, rounded to the quantum."""
    out = np.empty(rows.size)
    for j in range(rows.size):
        out[j] = cosine64(vectors, rows[j], i)
    return out


def pick_some(cover: Cover, tiles: SimilarityTiles, resources: Resources) -> None:
    """Make all bounds anew, then pick until that would pay again; at least once."""
    guess = _renew_bounds(cover, tiles, resources)
    spent = 0
    while cover.picked < cover.order.size and (spent < EVALUATIONS * cover.kernel.n or spent == 0):
        first = cover.picked == 0
        spent += _pick(cover, tiles, resources)
        if first and cover.order[0] == guess.row:
            np.minimum(cover.bounds, guess.bounds, out=cover.bounds)


def _pick(cover: Cover, tiles: SimilarityTiles, resources: Resources) -> int:
    """One pick; returns the rows evaluated for it."""
    bounds, batch, evaluated = cover.bounds, 16, 0
    at_least = -np.inf
    fresh = np.zeros(bounds.size, np.bool_)
    while True:
        waiting = np.flatnonzero(~fresh & (bounds > -np.inf) & (bounds >= at_least - tie_width(at_least)))
        if not waiting.size:
            break
        if waiting.size > batch:
            waiting = waiting[np.argpartition(bounds[waiting], waiting.size - batch)[-batch:]]
        upper, lower = _evaluate(cover, tiles, resources, waiting)
        bounds[waiting] = np.minimum(bounds[waiting], upper)
        fresh[waiting] = True
        at_least = max(at_least, float(lower.max()))
        evaluated += waiting.size
        batch = min(2 * batch, 256)
    close = _distinct(cover.kernel.x, np.flatnonzero(fresh & (bounds >= at_least - tie_width(at_least))))
    gains = np.array([cover.exact(i, tiles.column(i, resources), tiles.error)[0] for i in map(int, close)])
    best = gains.max()
    if best <= 0:
        fill_ascending(bounds, cover.order, cover.gains, cover.picked)
        cover.picked = cover.order.size
    else:
        row = int(close[np.argmax(gains >= best - tie_width(best))])
        cover.pick(row, *cover.exact(row, tiles.column(row, resources), tiles.error))
    return evaluated


def _distinct(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The rows without later copies of the same vector, whose gain is the same."""
    return np.sort(rows[np.unique(x[rows], axis=0, return_index=True)[1]]) if rows.size > 16 else rows


def _evaluate(
    cover: Cover, tiles: SimilarityTiles, resources: Resources, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Upper and lower bounds of the gains of some rows."""

    def work(block: slice, products: np.ndarray) -> np.ndarray:
        return _excess(products, cover.covered[block], tiles.error)

    upper, lower = np.sum(tiles.columns(rows, resources, work), axis=0)
    return upper, lower


@compiled
def _excess(products: np.ndarray, covered: np.ndarray, error: float) -> np.ndarray:
    """Σ_v max(0, s_vi − m_v) if every cosine is larger, and smaller, by the error than its product, (2, rows)."""
    out = np.zeros((2, products.shape[1]))
    for v in range(products.shape[0]):
        for j in range(products.shape[1]):
            excess = np.float64(products[v, j]) - covered[v]
            out[0, j] += max(excess + error, 0.0)
            out[1, j] += max(excess - error, 0.0)
    return out


@dataclass(frozen=True)
class Guess:
    """Bounds for the second pick, from the same pass, in case the first is the row that looks best beforehand."""

    row: int
    bounds: np.ndarray


def _renew_bounds(cover: Cover, tiles: SimilarityTiles, resources: Resources) -> Guess:
    """Bounds of all rows by one pass over half the kernel.

    At the first pick, gain_i = Σ_v s_vi + Σ_v max(0, −s_vi). The first sum is a product with Σ_v e_v; only the second,
    mostly small one needs the pass, which meanwhile bounds the gains given the row with the largest first sum.
    """
    n = cover.kernel.n
    row, covered, linear = -1, cover.covered, None
    if cover.picked == 0:
        total = tiles.unit.sum(axis=0, dtype=np.float64)
        linear = tiles.unit @ total.astype(np.float32) * 1.0
        linear = linear + float32_dot_error(tiles.unit.shape[1]) * (np.linalg.norm(total) + n)
        row = int(np.argmax(linear))
        covered = np.maximum(tiles.column(row, resources) - tiles.error, 0.0)
    thresholds = (covered - tiles.error - 1e-6).astype(np.float32)

    def add_tile(corner: tuple[int, int]) -> tuple[int, int, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        top, left = corner
        tile = tiles.tile(top, left)
        h, w = tile.shape
        return (
            top,
            left,
            *_tile_sums(
                tile, thresholds[top : top + h], thresholds[left : left + w], tiles.error, top == left
            ),
        )

    above, below = np.zeros(n), np.zeros(n)
    for top, left, up, down, left_up, left_down in resources.map(add_tile, tiles.pairs()):
        above[top : top + up.size] += up
        below[top : top + up.size] += down
        if left > top:
            above[left : left + left_up.size] += left_up
            below[left : left + left_up.size] += left_down
    above *= 1 + 1e-4  # the tiles' sums are float32
    if linear is None:
        cover.bounds = np.minimum(cover.bounds, above)
    else:
        cover.bounds = np.minimum(cover.bounds, linear + below * (1 + 1e-4))
    return Guess(row, above)


@compiled_fast
def _tile_sums(
    tile: np.ndarray, rows: np.ndarray, columns: np.ndarray, error: float, diagonal: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Σ max(0, s − threshold) and Σ max(0, error − s), for the rows of the tile as candidates, then for its columns."""
    h, w = tile.shape
    row_above, row_below = np.empty(h, np.float32), np.empty(h, np.float32)
    above, below = np.zeros(w, np.float32), np.zeros(w, np.float32)
    zero, margin = np.float32(0), np.float32(error)
    for v in range(h):
        total = negative = zero
        threshold = rows[v]
        for i in range(w):
            s = tile[v, i]
            total += max(s - columns[i], zero)
            minus = max(margin - s, zero)
            negative += minus
            above[i] += max(s - threshold, zero)
            below[i] += minus
        row_above[v], row_below[v] = total, negative
    return row_above, row_below, above, below
