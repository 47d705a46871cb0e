"""Which validation rows, and the order of the training rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from smart.mixture.allocation import allocate
from smart.reading import RowView


def shuffle(rows: np.ndarray, seed: int) -> np.ndarray:
    """A random order that depends on which rows were chosen and the seed, not on how they were found.

    Args:
        rows: int64 (n,), row numbers in the collection.
        seed: of the PCG64 generator.

    Returns:
        int64 (n,), positions in `rows`: its sorted order, permuted.
    """
    canonical = np.argsort(rows, kind="stable")
    return canonical[np.random.Generator(np.random.PCG64(seed)).permutation(len(rows))]


def sample_validation(pool: RowView, rows: int, seed: int) -> RowView:
    """A task-stratified sample of the pool's validation split; it doesn't depend on the mixture.

    Every task gives one row (the largest first, where there are fewer rows than tasks); the rest is
    proportional to the tasks' sizes. Within a task, rows are drawn at random.

    Args:
        pool: the validation split, with labels submixture and task_name.
        rows: how many to keep; the whole split when it holds fewer.
        seed: of the PCG64 generator.

    Returns:
        The kept rows, in the pool's order.
    """
    if rows >= len(pool):
        return pool
    submixture, name = _codes(pool.labels["submixture"]), _codes(pool.labels["task_name"])
    _, task, sizes = np.unique(submixture * (name.max() + 1) + name, return_inverse=True, return_counts=True)
    falling = np.argsort(-sizes, kind="stable")
    kept = np.zeros(len(sizes), np.int64)
    kept[falling[:rows]] = 1
    kept[falling] += allocate(sizes[falling] / len(pool), sizes[falling] - 1, rows - int(kept.sum()))

    drawn = np.random.Generator(np.random.PCG64(seed)).permutation(len(pool))
    drawn = drawn[np.argsort(task[drawn], kind="stable")]
    place = np.arange(len(pool)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    mask = np.zeros(len(pool), bool)
    mask[drawn[place < np.repeat(kept, sizes)]] = True
    return pool.keep(mask)


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    """int64 (n,), the place of each value among the column's sorted distinct values."""
    encoded = pc.dictionary_encode(column.cast(pa.large_string())).combine_chunks()
    places = pc.rank(encoded.dictionary, tiebreaker="dense").to_numpy().astype(np.int64)
    return places[encoded.indices.to_numpy()]
