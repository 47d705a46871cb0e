"""All later picks of a large facility location, over the pairs that can still matter.

Once s_vi ≤ m_v, row v gains nothing from candidate i, now or ever, since m only grows. After a few picks a per cent of
the pairs is left. Kept is every pair with s > min(m_v, m_i), in the lists of both its rows, so that a list serves as
the row v (candidates that v may gain from) and as the column i (rows that may gain from candidate i).

A list holds u_vi ≥ s_vi, the float32 product plus its error, rounded up to a multiple of 2⁻²⁴. h_i = Σ_v max(0, u_vi −
m_v) is then at least gain_i, and it is kept up to date by differences, exactly, because every term is a multiple of the
quantum. At each pick rows are evaluated in float64 in order of h, until the next h is below the best gain: seldom more
than one, since h and gain differ by 2⁻¹⁵ or so a pair.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from smart.submodular._kernels.compilation import compiled, compiled_max
from smart.submodular.arithmetic import Vectors, cosine64, tie_width
from smart.submodular.facility_dense import STEP, fill_ascending
from smart.submodular.facility_lazy import Cover
from smart.submodular.resources import Resources
from smart.submodular.similarity_tiles import SimilarityTiles

BYTES = 24  # a pair: its row, column and product in the tile, then a row number and a value in both its lists
BLOCK = 64  # bounds whose maximum is remembered


@dataclass(frozen=True)
class Pairs:
    """Pairs of rows out of one tile."""

    top: int
    left: int
    rows: np.ndarray
    """Row of each pair, counted from top, uint16."""
    columns: np.ndarray
    """Its column, counted from left, uint16."""
    products: np.ndarray
    """float32."""


class _Side(NamedTuple):
    """Pairs out of one tile, as the rows of one side see them."""

    own: np.ndarray
    """The row of each pair on this side, counted from the side's first, uint16."""
    other: int
    """First row of the other side."""
    partners: np.ndarray
    """The row of each pair on the other side, counted from `other`, uint16."""
    products: np.ndarray
    """float32."""


class _Lists(NamedTuple):
    """Each row's partners, itself first: [as row v | only as column i | dead], and both borders only move left."""

    start: np.ndarray
    """Where each list begins, and where the last ends, (n + 1,) int64."""
    row_end: np.ndarray
    """End of the partners that row v may gain from, (n,) int64."""
    end: np.ndarray
    """End of those that matter either way, (n,) int64."""
    partners: np.ndarray
    """Row numbers, (pairs,) int32."""
    upper: np.ndarray
    """Their u, (pairs,) float32."""


class _Search(NamedTuple):
    """What the compiled functions work on."""

    lists: _Lists
    vectors: Vectors
    covered: np.ndarray
    """m_v, (n,) float64."""
    bound: np.ndarray
    """h, (n,) float64; −inf once chosen."""
    rows: np.ndarray
    """Room for the rows that one candidate's gain comes from, (n,) int64."""
    cosines: np.ndarray
    """Room for their cosines, (n,) float64."""


def surviving_pairs(
    cover: Cover, tiles: SimilarityTiles, resources: Resources, room: int
) -> list[Pairs] | None:
    """The pairs that can still matter, each once; None where their lists would not fit."""
    thresholds = (cover.covered - tiles.error - 1e-6).astype(np.float32)
    if BYTES * _estimated_pairs(tiles, thresholds, resources) > 0.9 * room:
        return None

    def screen(corner: tuple[int, int]) -> Pairs:
        top, left = corner
        tile = tiles.tile(top, left)
        h, w = tile.shape
        return Pairs(
            top, left, *_screen(tile, thresholds[top : top + h], thresholds[left : left + w], top == left)
        )

    kept, total = [], 0
    for pairs in resources.map(screen, tiles.pairs()):
        kept.append(pairs)
        total += pairs.rows.size
        if BYTES * total > room:
            return None
    return kept


def _estimated_pairs(
    tiles: SimilarityTiles, thresholds: np.ndarray, resources: Resources, sample: int = 64
) -> float:
    n = len(thresholds)
    rows = np.linspace(0, n - 1, min(sample, n)).astype(np.int64)

    def count(block: slice, products: np.ndarray) -> int:
        return int((products > np.minimum(thresholds[block, None], thresholds[rows])).sum())

    kept = sum(tiles.columns(rows, resources, count))
    return kept / rows.size * n / 2


@compiled
def _screen(
    tile: np.ndarray, rows: np.ndarray, columns: np.ndarray, diagonal: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    h, w = tile.shape
    total = 0
    for v in range(h):
        for i in range(w):
            total += tile[v, i] > min(rows[v], columns[i])
    first, second = np.empty(total, np.uint16), np.empty(total, np.uint16)
    products = np.empty(total, np.float32)
    flags = np.zeros(-(-w // 8) * 8, np.uint8)
    eights = flags.view(np.uint64)  # few pairs are left, so most eights hold none
    kept = 0
    for v in range(h):
        threshold = rows[v]
        for i in range(w):
            flags[i] = tile[v, i] > min(threshold, columns[i])
        if diagonal:
            flags[: v + 1] = 0
        for eight in range(eights.size):
            if eights[eight]:
                for i in range(8 * eight, 8 * eight + 8):
                    if flags[i]:
                        first[kept], second[kept], products[kept] = v, i, tile[v, i]
                        kept += 1
    return first[:kept], second[:kept], products[:kept]


def pick_rest(cover: Cover, tiles: SimilarityTiles, kept: list[Pairs], resources: Resources) -> None:
    """Fill the cover's order from where it stands; empties `kept`."""
    n = cover.kernel.n
    bound = np.empty(n)
    lists = _lists(cover, tiles, kept, resources, bound)
    bound[cover.order[: cover.picked]] = -np.inf
    search = _Search(lists, cover.vectors, cover.covered, bound, np.empty(n, np.int64), np.empty(n))
    _greedy_lists(search, cover.order, cover.gains, cover.picked)
    cover.picked = cover.order.size


def _lists(
    cover: Cover, tiles: SimilarityTiles, kept: list[Pairs], resources: Resources, bound: np.ndarray
) -> _Lists:
    """The lists of all rows; writes every h, (n,), to `bound`.

    The threads take the lists of some rows each, and so look at all pairs of the tiles in those rows and columns.
    """
    n = cover.kernel.n
    starts = range(0, n, tiles.size)
    sides: dict[int, list[_Side]] = {top: [] for top in starts}
    for pairs in kept:
        sides[pairs.top].append(_Side(pairs.rows, pairs.left, pairs.columns, pairs.products))
        sides[pairs.left].append(_Side(pairs.columns, pairs.top, pairs.rows, pairs.products))
    kept.clear()

    def count(top: int) -> np.ndarray:
        lengths = np.ones(min(tiles.size, n - top), np.int64)
        for side in sides[top]:
            _count(side.own, lengths)
        return lengths

    start = np.concatenate([[0], np.cumsum(np.concatenate(list(resources.map(count, starts))))])
    index, upper = np.empty(start[-1], np.int32), np.empty(start[-1], np.float32)
    lists = _Lists(start, start[1:].copy(), start[1:].copy(), index, upper)

    def fill(top: int) -> None:
        rows = slice(top, min(top + tiles.size, n))
        index[start[rows]], upper[start[rows]] = np.arange(rows.start, rows.stop), 1.0
        free = start[rows] + 1
        for side in sides.pop(top):
            _place(side, tiles.error, free, lists)
        _divide(rows.start, rows.stop, lists, cover.covered, bound)

    for _ in resources.map(fill, starts):
        pass
    return lists


@compiled
def _count(own: np.ndarray, lengths: np.ndarray) -> None:
    for p in range(own.size):
        lengths[own[p]] += 1


@compiled
def _place(side: _Side, error: float, free: np.ndarray, lists: _Lists) -> None:
    """Enter the pairs of a tile in the lists of one side, each at its list's first free place."""
    own, partners, products = side.own, side.partners, side.products
    index, upper = lists.partners, lists.upper
    for p in range(own.size):
        place = free[own[p]]
        free[own[p]] += 1
        index[place] = side.other + np.int64(partners[p])
        upper[place] = np.ceil((np.float64(products[p]) + error) / STEP) * STEP


@compiled
def _divide(first: int, stop: int, lists: _Lists, covered: np.ndarray, bound: np.ndarray) -> None:
    """Put what each of some rows may gain from first in its list, and sum what may be gained from the row itself."""
    start, row_end, index, upper = lists.start, lists.row_end, lists.partners, lists.upper
    for v in range(first, stop):
        h, own = 0.0, covered[v]
        p, end = start[v], row_end[v]
        for q in range(p, end):
            h += max(np.float64(upper[q]) - covered[index[q]], 0.0)
        while p < end:
            if upper[p] > own:
                p += 1
            else:
                end -= 1
                _swap(index, upper, p, end)
        row_end[v], bound[v] = end, h


@compiled
def _greedy_lists(search: _Search, order: np.ndarray, gains: np.ndarray, done: int) -> None:
    """Greedy over the lists, from pick number `done` on; writes order and gains, (budget,)."""
    bound, rows, cosines = search.bound, search.rows, search.cosines
    n = bound.size
    close, exact, candidates = np.empty(n, np.int64), np.empty(n), np.empty(n, np.int64)
    tops = np.full((n + BLOCK - 1) // BLOCK, np.inf)
    for step in range(done, order.size):
        close[0] = _largest(bound, tops)
        count = 1
        best = exact[0] = _evaluate(search, close[0])[0]
        for i in _at_least(best - tie_width(best), bound, tops, candidates):
            if bound[i] >= best - tie_width(best) and i != close[0]:
                exact[count] = _evaluate(search, i)[0]
                close[count] = i
                best = max(best, exact[count])
                count += 1
        if best <= 0.0:
            fill_ascending(bound, order, gains, step)
            return
        pick = n
        for c in range(count):
            if exact[c] >= best - tie_width(best):
                pick = min(pick, close[c])
        gain, size = _evaluate(search, pick)
        order[step], gains[step], bound[pick] = pick, gain, -np.inf
        for q in range(size):
            _cover(search, rows[q], cosines[q])


@compiled_max
def _top(values: np.ndarray) -> float:
    best = -np.inf
    for i in range(values.size):
        best = max(best, values[i])
    return best


@compiled
def _largest(bound: np.ndarray, tops: np.ndarray) -> int:
    """Position of the largest bound. Bounds only fall, so a block's top from earlier is at least its top now."""
    while True:
        block = int(np.argmax(tops))
        values = bound[block * BLOCK : (block + 1) * BLOCK]
        top = _top(values)
        if top == tops[block]:
            return block * BLOCK + int(np.argmax(values))
        tops[block] = top


@compiled
def _at_least(floor: float, bound: np.ndarray, tops: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Positions of the bounds that reach the floor."""
    count = 0
    for block in range(tops.size):
        if tops[block] >= floor:
            for i in range(block * BLOCK, min((block + 1) * BLOCK, bound.size)):
                if bound[i] >= floor:
                    out[count] = i
                    count += 1
    return out[:count]


@compiled
def _evaluate(search: _Search, i: int) -> tuple[float, int]:
    """Gain of i in float64; writes the rows that it comes from and their cosines, and returns their number.

    Pairs that no longer matter either way leave the list.
    """
    row_end, end = search.lists.row_end[i], search.lists.end
    index, upper, covered = search.lists.partners, search.lists.upper, search.covered
    vectors, rows, cosines = search.vectors, search.rows, search.cosines
    gain, size = 0.0, 0
    p = search.lists.start[i]
    while p < end[i]:
        v = index[p]
        if upper[p] > covered[v]:
            cosine = cosine64(vectors, v, i)
            if cosine > covered[v]:
                gain += cosine - covered[v]
                rows[size], cosines[size] = v, cosine
                size += 1
        elif p >= row_end:
            end[i] -= 1
            _swap(index, upper, p, end[i])
            continue
        p += 1
    return gain, size


@compiled
def _cover(search: _Search, v: int, new: float) -> None:
    """m_v := new, and every bound follows."""
    row_end, index, upper, bound = (
        search.lists.row_end,
        search.lists.partners,
        search.lists.upper,
        search.bound,
    )
    old = search.covered[v]
    search.covered[v] = new
    p = search.lists.start[v]
    while p < row_end[v]:
        u = np.float64(upper[p])
        bound[index[p]] -= (u - old) - max(u - new, 0.0)
        if u > new:
            p += 1
        else:
            row_end[v] -= 1
            _swap(index, upper, p, row_end[v])


@compiled
def _swap(index: np.ndarray, upper: np.ndarray, p: int, q: int) -> None:
    index[p], index[q] = index[q], index[p]
    upper[p], upper[q] = upper[q], upper[p]
