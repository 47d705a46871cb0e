"""Greedy orderings of whole groups, kept in cache/orderings: one serves every budget."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from smart.config import counted
from smart.embedding import Vectors
from smart.runtime.executor import map_unordered, packs
from smart.runtime.files import hash_bytes
from smart.runtime.locks import owned
from smart.runtime.manifest import is_intact, make_key, write_manifest
from smart.runtime.progress import progress
from smart.runtime.sealed import read_sealed, write_sealed
from smart.submodular import SetFunction, maximize, quality, single_threaded_blas
from smart.submodular.maximize import Optimizer

VERSION = 1
SUFFIX = ".sealed"
SAVE_EVERY = 10.0
"""Seconds between shards: what a kill can cost."""
PART = 20_000
"""The most rows that optimizer=partition orders at once."""
SAMPLE = 2_000
"""Rows on which the quality of a partition is measured."""
ALONE = 20_000
"""Rows from which a group gets all threads to itself; others share the cores, one thread each."""
TOGETHER = 2_000
"""Rows of groups that a thread is given at a time."""


@dataclass(frozen=True)
class Orderer:
    """How a group is ordered: a set function of vectors, and the optimiser's settings."""

    function: Callable[..., SetFunction]
    """Makes the set function from vectors (n, d)."""
    config: Mapping[str, Any]
    """What decides the orderings, for their key."""
    memory: int
    """Bytes above the vectors, for all groups under way."""
    optimizer: Optimizer = "exact"
    """partition splits groups of more than PART rows, which is approximate."""
    seed: int = 0
    """Seed of the parts."""
    single_threaded: bool = False
    """The function has no use for more than one thread, so that no group is worth all of them."""

    def order(self, X: np.ndarray, threads: int, share: int) -> np.ndarray:
        """Rows of X (n, d) in greedy order, with one of `share` equal parts of the memory."""
        parts = self.parts(len(X))
        memory = self.memory // share
        f = self.function(X)
        if parts > 1:
            return maximize(
                f, len(X), "partition", parts=parts, seed=self.seed, threads=threads, memory_limit=memory
            ).order
        whole: Optimizer = "exact" if self.optimizer == "partition" else self.optimizer
        return maximize(f, len(X), whole, threads=threads, memory_limit=memory).order

    def parts(self, rows: int) -> int:
        """Into how many parts a group of so many rows is split."""
        return -(-rows // PART) if self.optimizer == "partition" else 1

    def quality(self, X: np.ndarray) -> float:
        """How good the order in parts is on a sample of X (n, d), beside exact greedy and chance, at a tenth of it."""
        generator = np.random.default_rng(self.seed)
        f = self.function(X[np.sort(generator.permutation(len(X))[:SAMPLE])])
        chosen = maximize(
            f, budget=f.n, optimizer="partition", parts=self.parts(len(X)), seed=self.seed
        ).order
        exact, chance = maximize(f, budget=f.n // 10).order, generator.permutation(f.n)[: f.n // 10]
        return quality(f, chosen[: f.n // 10], exact, chance)


def orderings_key(orderer: Orderer, vectors_key: str, offsets: np.ndarray) -> str:
    groups = hash_bytes([np.ascontiguousarray(offsets, dtype="<i8").tobytes()])
    return make_key(orderer.config, [vectors_key, groups], VERSION)


def order_groups(
    orderer: Orderer, vectors: Vectors, offsets: np.ndarray, wanted: Sequence[int], cache: Path, threads: int
) -> dict[int, np.ndarray]:
    """For each wanted group, its rows (counted from the group's first) in greedy order.

    Args:
        offsets: int64 (groups + 1,); group g holds vectors[offsets[g]:offsets[g + 1]].
        wanted: numbers of groups; those not in the cache are computed, largest first.
        cache: the folder cache/orderings. What is finished is saved every ten seconds, so a kill loses little.

    Returns:
        {group: int32 (rows,)}, a permutation each.
    """
    key = orderings_key(orderer, vectors.key, offsets)
    folder = cache / key
    with owned(folder):
        sizes = np.diff(offsets)
        known = read_shards(folder, key, sizes)
        missing = sorted((g for g in wanted if g not in known), key=lambda g: (-sizes[g], g))
        started = time.monotonic()
        if missing:
            known |= _compute(orderer, vectors, offsets, missing, partial(save_shard, folder, key), threads)
        if missing or (known and not is_intact(folder, key, files=False)):
            write_manifest(
                folder,
                {
                    "kind": "orderings",
                    "key": key,
                    "inputs": [vectors.key],
                    "config": orderer.config,
                    "counts": {
                        "groups": len(known),
                        "rows": int(sum(len(order) for order in known.values())),
                    },
                    "seconds": round(time.monotonic() - started, 3),
                },
            )
    return {group: known[group] for group in wanted}


def read_shards(folder: Path, key: str, sizes: np.ndarray) -> dict[int, np.ndarray]:
    """All orderings that the cache holds; what is damaged, or of another key, is left out.

    Args:
        sizes: int64 (groups,): an order that is no permutation of so many rows is left out too.
    """
    known: dict[int, np.ndarray] = {}
    for shard in sorted(folder.glob(f"*{SUFFIX}")):
        content = read_sealed(shard, f"{key}/{shard.name}")
        if content is None:
            continue
        table = pq.read_table(pa.BufferReader(content))
        groups, orders = table["group"].to_numpy(), table["order"].combine_chunks()
        starts, flat = orders.offsets.to_numpy(), orders.values.to_numpy()
        found = {int(g): flat[starts[i] : starts[i + 1]] for i, g in enumerate(groups)}
        known |= {g: order for g, order in found.items() if is_permutation(order, int(sizes[g]))}
    return known


def is_permutation(order: np.ndarray, n: int) -> bool:
    """Whether each of 0 … n - 1 is there once.

    >>> is_permutation(np.array([2, 0, 1]), 3), is_permutation(np.array([2, 0, 0]), 3)
    (True, False)
    """
    return len(order) == n and bool((np.sort(order) == np.arange(n)).all())


def _compute(
    orderer: Orderer,
    vectors: Vectors,
    offsets: np.ndarray,
    missing: list[int],
    save: Callable[[dict[int, np.ndarray]], None],
    threads: int,
) -> dict[int, np.ndarray]:
    def rows(group: int) -> int:
        return int(offsets[group + 1] - offsets[group])

    alone = math.inf if orderer.single_threaded else ALONE
    large = [g for g in missing if rows(g) >= alone]
    small = missing[len(large) :]
    done: dict[int, np.ndarray] = {}
    unsaved: dict[int, np.ndarray] = {}
    last_saved = time.monotonic()

    def work(groups: list[int], inner: int, outer: int) -> list[np.ndarray]:
        parts = (vectors[int(offsets[group]) : int(offsets[group + 1])] for group in groups)
        found = [orderer.order(X, inner, outer).astype(np.int32) for X in parts]
        for group, order in zip(groups, found, strict=True):
            if not is_permutation(order, rows(group)):
                raise ValueError(
                    f"the order of group {group} is no permutation of its {counted(rows(group), 'row')}"
                )
        return found

    total = sum(map(rows, missing))
    try:
        desc = f"Ordering {counted(len(missing), 'group')}"
        with single_threaded_blas(), progress(total=total, desc=desc, unit=" rows") as bar:
            for groups, outer, inner in ((large, 1, threads), (small, threads, 1)):
                todo = packs(groups, rows, TOGETHER)
                for pack, orders in map_unordered(partial(work, inner=inner, outer=outer), todo, outer):
                    unsaved |= dict(zip(pack, orders, strict=True))
                    bar.update(sum(map(len, orders)))
                    if time.monotonic() - last_saved > SAVE_EVERY:
                        save(unsaved)
                        done |= unsaved
                        unsaved, last_saved = {}, time.monotonic()
    finally:
        if unsaved:
            save(unsaved)
    return done | unsaved


def save_shard(folder: Path, key: str, orders: dict[int, np.ndarray]) -> None:
    """Keep finished orders of groups, for `read_shards`."""
    groups = sorted(orders)
    table = pa.table(
        {
            "group": pa.array(groups, pa.int32()),
            "order": pa.array([orders[g] for g in groups], pa.large_list(pa.int32())),
        }
    )
    shard = folder / f"{groups[0]:07d}-{len(groups)}{SUFFIX}"
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    write_sealed(shard, f"{key}/{shard.name}", buffer.getvalue().to_pybytes())
