"""Rows whose texts nearly repeat that of an earlier row: MinHash with locality-sensitive hashing, then true similarity.

Prompt and response are compared together: the same question with another answer is another lesson, if the answer is of
some length, and a response alone, such as "yes", says nothing.

Two rows are near-duplicates if the Jaccard similarity of their sets of 5-word shingles is at least a threshold, twice:

- for the whole texts, as usual (0.8 in Lee et al., 2022, https://arxiv.org/abs/2107.06499);
- for what is particular to the rows: without the shingles that more than COMMON of their task's rows have. Rows of a
  task share its definition, its examples and its options, which are most of the text where the question is short. By
  the whole texts alone different questions would be near-duplicates.

Of near rows the first stays: a row is dropped if it is near an earlier one that is not dropped. Rows without words are
near to none.

Signatures are those of datasketch's MinHash, bit for bit. They are made here since its objects take 25 times the time,
and its index 3 KB a row, in dictionaries; here it is 4 bytes for each band, and texts are read again where rows share
one. References: Broder, 1997; Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, chapter 3.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from smart.config import counted
from smart.runtime.executor import map_unordered
from smart.runtime.progress import progress
from smart.selection.shingles import (
    Sets,
    candidates,
    chain,
    drop_later,
    hash_sets,
    jaccard,
    minhash_bands,
    shingle_sets,
    without,
)

COMMON = 0.05
"""A shingle that more than this share of a task's rows have is part of the task, not of a row …"""
FEW = 10
"""… if more than so many rows have it: the same question may come in all template types, and more than once."""
SAMPLE = 10_000
"""Rows of a task that are looked at for common shingles, evenly spaced."""
PERMUTATIONS = 128
FOUND = 0.95
"""How probably a pair at the threshold is found; more similar ones are found more surely."""
BLOCK = 2_000
"""Rows whose sets are in memory at a time, for each thread."""
PAIRS = 8_192
"""Pairs that are verified at a time."""

Read = Callable[[np.ndarray], pa.LargeStringArray]
"""Gives the texts of the rows with these numbers, which ascend."""


def near_duplicates(read: Read, tasks: np.ndarray, threshold: float, threads: int) -> np.ndarray:
    """bool (n,): rows that are near an earlier row which stays. The same for any number of threads.

    Memory is 120 bytes a row (at a threshold of 0.8), and BLOCK texts with their sets for each thread.

    Args:
        read: gives texts; it is called from several threads.
        tasks: int64 (n,): a number for the task of each row, from 0.
        threshold: the least Jaccard similarity of near-duplicates, above 0 and at most 1.
    """
    n = len(tasks)
    common = _common_shingles(read, tasks, threads)
    bands = bands_for(threshold)
    hashes, whole = np.empty((bands, n), np.uint32), np.empty(n, np.uint64)
    moves = permutations()[:, : PERMUTATIONS // bands * bands]

    def look(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sets = shingle_sets(read(rows))
        return minhash_bands(without(sets, common, tasks[rows]), moves, bands), hash_sets(sets)

    with progress(total=n, desc="Looking for near-duplicates", unit=" rows") as bar:
        for rows, (found, values) in map_unordered(look, _blocks(np.arange(n)), threads):
            hashes[:, rows], whole[rows] = found, values
            bar.update(len(rows))
    dropped = _copies(whole, tasks)
    wanted = np.flatnonzero(~dropped & (whole != 0))
    before = hashes.view(np.int32)  # in its place, for memory
    for band, into in zip(hashes, before, strict=True):
        into[:] = chain(wanted[np.argsort(band[wanted], kind="stable")], band)
    del whole, wanted
    _drop_near(read, tasks, common, before, dropped, threshold)
    return dropped


def bands_for(threshold: float) -> int:
    """Into how many bands signatures are cut: the longest with which FOUND of the pairs at the threshold share one.

    >>> bands_for(0.8), bands_for(0.5), bands_for(1.0)
    (18, 42, 1)
    """
    lengths = (
        length
        for length in range(PERMUTATIONS, 1, -1)
        if 1 - (1 - threshold**length) ** (PERMUTATIONS // length) >= FOUND
    )
    return PERMUTATIONS // next(lengths, 1)


def permutations() -> np.ndarray:
    """uint32 (2, PERMUTATIONS): factors, which are odd, and summands; those of datasketch's MinHash(seed=1)."""
    generator = np.random.RandomState(1)
    factors = generator.randint(0, 1 << 31, PERMUTATIONS, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return np.array([factors, generator.randint(0, 1 << 32, PERMUTATIONS, dtype=np.uint32)])


def _blocks(rows: np.ndarray) -> list[np.ndarray]:
    return np.split(rows, range(BLOCK, len(rows), BLOCK))


def _common_shingles(read: Read, tasks: np.ndarray, threads: int) -> Sets:
    """For each task the shingles that more than COMMON, and more than FEW, of its rows have."""
    by_task = np.argsort(tasks, kind="stable")
    rows_of = np.split(by_task, np.cumsum(np.bincount(tasks))[:-1])
    found = [np.empty(0, np.uint64)] * len(rows_of)
    large = [task for task, rows in enumerate(rows_of) if len(rows) > FEW]

    def common(task: int) -> np.ndarray:
        rows = rows_of[task][:: -(-len(rows_of[task]) // SAMPLE)]
        parts = [shingle_sets(read(block)).values for block in _blocks(rows)]
        values, counts = np.unique(np.concatenate(parts), return_counts=True)
        return values[counts > max(FEW, COMMON * len(rows))]

    with progress(total=len(large), desc=f"Shingles of {counted(len(large), 'task')}", unit=" tasks") as bar:
        for task, values in map_unordered(common, large, threads):
            found[task] = values
            bar.update(1)
    return Sets(np.concatenate(found), np.cumsum([0, *map(len, found)]))


def _copies(whole: np.ndarray, tasks: np.ndarray) -> np.ndarray:
    """bool (n,): rows with the same shingles as an earlier row of their task.

    Whatever the first of them is near to, they are near to as well, so that they needn't be looked at.
    """
    order = np.lexsort((whole, tasks))  # stable
    same = (whole[order[1:]] == whole[order[:-1]]) & (tasks[order[1:]] == tasks[order[:-1]])
    copies = np.zeros(len(whole), bool)
    copies[order[1:]] = same & (whole[order[1:]] != 0)
    return copies


def _drop_near(
    read: Read, tasks: np.ndarray, common: Sets, before: np.ndarray, dropped: np.ndarray, threshold: float
) -> None:
    """Verify the rows that share a band, from the first row on, and mark in `dropped` those that are near."""
    told, start, room = np.full(len(dropped), -1, np.int32), 0, PAIRS
    with progress(total=len(dropped), desc="Verifying near-duplicates", unit=" rows") as bar:
        while start < len(dropped):
            later, earlier = np.empty((2, room), np.int64)
            stop, count = candidates(before, dropped, told, start, later, earlier)
            if stop == start:  # the pairs of this row alone are more
                room *= 2
                continue
            pairs = later[:count], earlier[:count]
            drop_later(*_near(read, tasks, common, pairs, threshold), dropped)
            bar.update(stop - start)
            start, room = stop, PAIRS


def _near(
    read: Read, tasks: np.ndarray, common: Sets, pairs: tuple[np.ndarray, np.ndarray], threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """The pairs that are near-duplicates, in their order."""
    if not len(pairs[0]):
        return pairs
    rows, places = np.unique(np.concatenate(pairs), return_inverse=True)
    later, earlier = np.split(places, 2)
    sets = shingle_sets(read(rows))
    own = without(sets, common, tasks[rows])
    near = jaccard(own, later, own, earlier) >= threshold
    near[near] = jaccard(sets, later[near], sets, earlier[near]) >= threshold
    return rows[later[near]], rows[earlier[near]]
