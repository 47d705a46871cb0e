"""Rows whose prompts have nearly the vector of an earlier row's: exact, within each task, by products of matrices.

Two rows of a task, of whatever template types, are semantic duplicates if the cosine of their vectors is at least a
threshold, twice, as for near-duplicates of texts:

- of the vectors as they are (SemDeDup, Abbas et al., 2023, https://arxiv.org/abs/2303.09540);
- of what is particular to the rows: their unit vectors less the mean of their group, (task, template type), where a
  group has more than FEW rows. Prompts of a group share a definition and examples, most of a few-shot prompt, and their
  vectors differ little: by the first alone different questions would be duplicates.

Of near rows the first stays: a row is dropped if it is near an earlier one that is not dropped. Products of float32
find pairs with a margin for their rounding, and float64 decides, so the rows do not depend on threads.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from threadpoolctl import threadpool_limits

from smart.collection import Groups
from smart.embedding import Vectors
from smart.runtime.executor import map_unordered, packs
from smart.runtime.progress import progress
from smart.selection.shingles import drop_later
from smart.submodular import single_threaded_blas

FEW = 10
"""Of a group with as few rows nothing is known to be the group's."""
NOTHING = 1e-3
"""Length below which what is particular to a row is rounding: such a row is compared as it is."""
BLOCK = 1_024
"""Rows that are compared with those that stay, at a time."""
TILE = 4_096
"""Rows that stay with which a block is compared at a time."""
ROUNDING = 1e-3
"""More than the error of a cosine in float32."""
NUMBERS = 1 << 22
"""Of the vectors of pairs that are decided by float64 at a time."""
ALONE = 20_000
"""Rows from which a task gets all threads to itself, in its products of matrices; others share them, one each."""
TOGETHER = 4_000
"""Rows of tasks that a thread is given at a time."""


def semantic_duplicates(vectors: Vectors, groups: Groups, threshold: float, threads: int) -> np.ndarray:
    """bool (n,): rows of the pool that are near an earlier row of their task which stays, for any number of threads.

    A task of n rows takes n² d operations at most, and 8 n d bytes of memory.

    Args:
        vectors: of the pool, in the order of `groups`.
        threshold: the least cosine of duplicates, above 0 and at most 1.
    """
    width = len(groups.templates)
    sizes = np.diff(groups.offsets[::width])
    dropped = np.zeros(vectors.n, bool)

    def look(tasks: list[int]) -> list[np.ndarray]:
        return [_of_task(vectors, groups, task, threshold) for task in tasks]

    largest_first = np.argsort(-sizes, kind="stable").tolist()
    large = int((sizes >= ALONE).sum())
    with progress(total=vectors.n, desc="Looking for semantic duplicates", unit=" rows") as bar:

        def go(tasks: list[int], threads: int) -> None:
            todo = packs(tasks, lambda task: int(sizes[task]), TOGETHER)
            for pack, found in map_unordered(look, todo, threads):
                for rows in found:
                    dropped[rows] = True
                bar.update(int(sizes[pack].sum()))

        with threadpool_limits(threads, user_api="blas"):
            go(largest_first[:large], threads=1)
        with single_threaded_blas():
            go(largest_first[large:], threads)
    return dropped


def _of_task(vectors: Vectors, groups: Groups, task: int, threshold: float) -> np.ndarray:
    """Positions in the pool of the rows of a task that are dropped."""
    width = len(groups.templates)
    edges = groups.offsets[width * task : width * (task + 1) + 1]
    rows = groups.order[edges[0] : edges[-1]]
    if len(rows) < 2:
        return rows[:0]
    by_row = np.argsort(rows)
    whole = _unit(vectors[int(edges[0]) : int(edges[-1])])
    own = _particular(whole, np.diff(edges))
    return rows[by_row[drop_near(whole[by_row], own[by_row], threshold)]]


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def _particular(unit: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Unit vectors (n, d) less the mean of their group, at unit length; `sizes` are the rows of each group."""
    own = unit.copy()
    for rows in np.split(own, np.cumsum(sizes)[:-1]):
        if len(rows) > FEW:
            rows -= rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    nothing = np.linalg.norm(own, axis=1) < NOTHING
    own[nothing] = unit[nothing]
    return _unit(own)


def drop_near(whole: np.ndarray, own: np.ndarray, threshold: float) -> np.ndarray:
    """bool (n,): rows of which both vectors, float32 (n, d) of unit length or 0, are near those of an earlier row.

    The arrays are used up: the rows that stay are moved to their front.
    """
    n, kept = len(whole), 0
    dropped = np.zeros(n, bool)
    for start in range(0, n, BLOCK):
        rows = slice(start, min(start + BLOCK, n))
        ours, particular = whole[rows].copy(), own[rows].copy()
        near = np.zeros(len(ours), bool)
        for first in range(0, kept, TILE):
            tile = slice(first, min(first + TILE, kept))
            later, _ = _near_pairs(ours, particular, whole[tile], own[tile], threshold)
            near[later] = True
        left = np.flatnonzero(~near)
        ours, particular = ours[left], particular[left]
        later, earlier = _near_pairs(ours, particular, ours, particular, threshold)
        inside, mine = later > earlier, np.zeros(len(left), bool)
        drop_later(later[inside], earlier[inside], mine)
        near[left] = mine
        dropped[rows] = near
        stay = kept + int((~mine).sum())
        whole[kept:stay], own[kept:stay] = ours[~mine], particular[~mine]
        kept = stay
    return dropped


def _near_pairs(
    whole: np.ndarray, own: np.ndarray, other_whole: np.ndarray, other_own: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """(row, other row) of all near pairs, by row."""
    found = np.nonzero(own @ other_own.T >= threshold - ROUNDING)
    near = [
        (_cosines(whole[rows], other_whole[others]) >= threshold)
        & (_cosines(own[rows], other_own[others]) >= threshold)
        for rows, others in _parts(found, max(1, NUMBERS // own.shape[1]))
    ]
    mask = np.concatenate([np.zeros(0, bool), *near])
    return found[0][mask], found[1][mask]


def _parts(pairs: tuple[np.ndarray, ...], size: int) -> Iterator[tuple[np.ndarray, ...]]:
    for start in range(0, len(pairs[0]), size):
        yield tuple(places[start : start + size] for places in pairs)


def _cosines(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """float64 (pairs,), exactly 1 of equal vectors."""
    one, two = one.astype(np.float64), two.astype(np.float64)
    lengths = np.sqrt((one * one).sum(axis=1) * (two * two).sum(axis=1))
    return (one * two).sum(axis=1) / np.where(lengths > 0, lengths, 1)
