"""Greedy orderings of whole groups, kept in cache/orderings: one serves every budget."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from smart.config import counted
from smart.embedding import Vectors
from smart.runtime.claims import Claims
from smart.runtime.executor import Executor, Worker, packs
from smart.runtime.files import hash_bytes
from smart.runtime.locks import owned
from smart.runtime.manifest import is_told, make_key, write_manifest
from smart.runtime.progress import progress
from smart.runtime.sealed import read_sealed, write_sealed
from smart.submodular import SetFunction, maximize, quality, single_threaded_blas
from smart.submodular.maximize import Optimizer
from smart.submodular.resources import parse_memory

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
"""Rows of groups that a worker is given at a time."""
MOST_PACKS = 4_096
"""Roughly; of more rows than TOGETHER times this, a worker is given more at a time."""


@dataclass(frozen=True)
class Orderer:
    """How a group is ordered: a set function of vectors, and the optimiser's settings."""

    function: Callable[..., SetFunction]
    """Makes the set function from vectors (n, d)."""
    config: Mapping[str, Any]
    """What decides the orderings, for their key."""
    memory: int | None
    """Bytes above the vectors, for all groups under way on a machine; None: 80 % of what is free there at the start."""
    optimizer: Optimizer = "exact"
    """partition splits groups of more than PART rows, which is approximate."""
    seed: int = 0
    """Seed of the parts."""
    single_threaded: bool = False
    """The function has no use for more than one thread, so that no group is worth all of them."""

    def order(self, X: np.ndarray, threads: int, share: int) -> np.ndarray:
        """Rows of X (n, d) in greedy order, with one of `share` equal parts of the memory."""
        parts = self.parts(len(X))
        memory = parse_memory(self.memory) // share
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
    orderer: Orderer,
    vectors: Vectors,
    offsets: np.ndarray,
    wanted: Sequence[int],
    cache: Path,
    executor: Executor,
) -> dict[int, np.ndarray]:
    """For each wanted group, its rows (counted from the group's first) in greedy order.

    Processes that order groups of the same vectors share them, whichever each of them wants.

    Args:
        offsets: int64 (groups + 1,); group g holds vectors[offsets[g]:offsets[g + 1]].
        wanted: numbers of groups; those not in the cache are computed, largest first.
        cache: the folder cache/orderings. What is finished is saved every ten seconds, so a kill loses little.
        executor: where they are computed.

    Returns:
        {group: int32 (rows,)}, a permutation each.
    """
    key = orderings_key(orderer, vectors.key, offsets)
    kept = _Kept(cache / key, key, np.diff(offsets))
    started = time.monotonic()
    kept.look()
    missing = [group for group in wanted if group not in kept.orders]
    if missing:
        with owned(kept.folder):  # what killed runs left is put right
            pass
        alone = math.inf if orderer.single_threaded else ALONE
        _Missing(missing, kept, alone).order(partial(OrderTask, orderer, vectors, offsets), executor)
    if missing or (kept.orders and not is_told(kept.folder, key)):
        with owned(kept.folder):
            kept.look()
            write_manifest(
                kept.folder,
                {
                    "kind": "orderings",
                    "key": key,
                    "inputs": [vectors.key],
                    "config": orderer.config,
                    "counts": {
                        "groups": len(kept.orders),
                        "rows": int(sum(len(order) for order in kept.orders.values())),
                    },
                    "seconds": round(time.monotonic() - started, 3),
                },
            )
    return {group: kept.orders[group] for group in wanted}


def read_shards(folder: Path, key: str, sizes: np.ndarray) -> dict[int, np.ndarray]:
    """All orderings that the cache holds; what is damaged, or of another key, is left out.

    Args:
        sizes: int64 (groups,): an order that is no permutation of so many rows is left out too.
    """
    kept = _Kept(folder, key, sizes)
    kept.look()
    return kept.orders


class _Kept:
    """FOLDER: shards of orders, to which several processes add."""

    def __init__(self, folder: Path, key: str, sizes: np.ndarray) -> None:
        self.folder, self.key, self.sizes = folder, key, sizes
        self.orders: dict[int, np.ndarray] = {}
        self._read: set[str] = set()

    def look(self) -> None:
        """Read the shards that have come since the last look."""
        names = set(os.listdir(self.folder)) if self.folder.is_dir() else set()
        for name in sorted(names - self._read):
            content = read_sealed(self.folder / name, f"{self.key}/{name}") if name.endswith(SUFFIX) else None
            if content is None:  # one that is damaged is made again under its name
                continue
            self._read.add(name)
            table = pq.read_table(pa.BufferReader(content))
            groups, orders = table["group"].to_numpy(), table["order"].combine_chunks()
            starts, flat = orders.offsets.to_numpy(), orders.values.to_numpy()
            found = {int(g): flat[starts[i] : starts[i + 1]] for i, g in enumerate(groups)}
            self.orders |= {
                g: order for g, order in found.items() if is_permutation(order, int(self.sizes[g]))
            }

    def save(self, orders: dict[int, np.ndarray]) -> None:
        """Keep finished orders."""
        save_shard(self.folder, self.key, orders)
        self.orders |= orders


def is_permutation(order: np.ndarray, n: int) -> bool:
    """Whether each of 0 … n - 1 is there once.

    >>> is_permutation(np.array([2, 0, 1]), 3), is_permutation(np.array([2, 0, 0]), 3)
    (True, False)
    """
    return len(order) == n and bool((np.sort(order) == np.arange(n)).all())


Pack = tuple[int, ...]
"""Numbers of groups that are ordered one after the other."""


def group_packs(sizes: np.ndarray, alone: float) -> list[Pack]:
    """All groups that hold rows, largest first, small ones together.

    Which groups are wanted has no part in it, so that runs which want different ones claim the same packs.

    Args:
        sizes: int64 (groups,).
        alone: rows from which a group makes a pack of its own.

    >>> group_packs(np.array([900, 0, 5000, 1200, 10]), alone=1000)
    [(2,), (3,), (0, 4)]
    """
    by_size: list[int] = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)].tolist()
    large = [(group,) for group in by_size if sizes[group] >= alone]
    least = max(TOGETHER, int(sizes.sum()) // MOST_PACKS)
    return [*large, *map(tuple, packs(by_size[len(large) :], lambda group: int(sizes[group]), least))]


class Portion(NamedTuple):
    """What is to be done of a pack."""

    pack: Pack
    groups: Pack
    """Those of its groups that are wanted and not known."""


@dataclass(frozen=True)
class OrderTask:
    """Gives the orders of a portion's groups."""

    orderer: Orderer
    vectors: Vectors
    offsets: np.ndarray
    wide: bool
    gpu = False

    @contextmanager
    def open(self, worker: Worker) -> Iterator[Callable[[Portion], list[np.ndarray]]]:
        """See `Task.open`."""
        orderer = replace(self.orderer, memory=parse_memory(self.orderer.memory))
        with single_threaded_blas():
            yield lambda portion: [self._order(orderer, group, worker) for group in portion.groups]

    def _order(self, orderer: Orderer, group: int, worker: Worker) -> np.ndarray:
        X = self.vectors[int(self.offsets[group]) : int(self.offsets[group + 1])]
        order = orderer.order(X, worker.threads, worker.share).astype(np.int32)
        if not is_permutation(order, len(X)):
            raise ValueError(f"the order of group {group} is no permutation of its {counted(len(X), 'row')}")
        return order


class _Missing:
    """Groups to be ordered, in packs that are shared with other processes, and saved as they come."""

    def __init__(self, groups: Sequence[int], kept: _Kept, alone: float) -> None:
        self.groups, self.kept, self.alone = set(groups), kept, alone
        self.claims = Claims(kept.folder, "{0[0]:07d}".format, self._is_done)
        total, desc = int(kept.sizes[list(groups)].sum()), f"Ordering {counted(len(groups), 'group')}"
        self.bar = progress(total=total, desc=desc, unit=" rows")
        self.unsaved: dict[Pack, dict[int, np.ndarray]] = {}
        self.last_saved = time.monotonic()

    def order(self, task: Callable[[bool], OrderTask], executor: Executor) -> None:
        """Order them all, unless others do: large groups on workers with all threads of a machine."""
        todo = [pack for pack in group_packs(self.kept.sizes, self.alone) if self._portion(pack).groups]
        with self.claims, self.bar:
            for left in self.claims.rounds(todo):
                for wide in (True, False):
                    mine = [pack for pack in left if (self.kept.sizes[pack[0]] >= self.alone) == wide]
                    portions = map(self._portion, self.claims.free(mine))
                    with closing(executor.map(task(wide), portions)) as found:
                        self._collect(found)

    def _collect(self, found: Iterable[tuple[Portion, list[np.ndarray]]]) -> None:
        try:
            for portion, orders in found:
                self.unsaved[portion.pack] = dict(zip(portion.groups, orders, strict=True))
                self.bar.update(sum(map(len, orders)))
                if time.monotonic() - self.last_saved > SAVE_EVERY:
                    self._save()
        finally:
            self._save()

    def _save(self) -> None:
        if self.unsaved:
            self.kept.save(
                {group: order for orders in self.unsaved.values() for group, order in orders.items()}
            )
        for pack in self.unsaved:
            self.claims.give_back(pack)
        self.unsaved, self.last_saved = {}, time.monotonic()

    def _portion(self, pack: Pack) -> Portion:
        return Portion(pack, tuple(g for g in pack if g in self.groups and g not in self.kept.orders))

    def _is_done(self, pack: Pack) -> bool:
        self.kept.look()
        if self._portion(pack).groups:
            return False
        self.bar.update(sum(int(self.kept.sizes[group]) for group in pack if group in self.groups))
        return True


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
