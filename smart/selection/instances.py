"""Stage 2: which rows of each group, (task, template type), by the order of its instances."""

from __future__ import annotations

from typing import Any

import numpy as np

from smart.config import UserError
from smart.embedding import Vectors
from smart.mixture import TaskBudgets
from smart.reading import RowView
from smart.runtime.files import hash_bytes
from smart.selection.config import SelectConfig
from smart.selection.orderings import PART, SAMPLE, Orderer, order_groups
from smart.selection.pool import Pool
from smart.submodular import MemoryLimitError, maximize


def choose_rows(config: SelectConfig, pool: Pool, vectors: Vectors | None, tasks: TaskBudgets) -> RowView:
    """The first rows of each group's order, as many as its budget; in the collection's order.

    Raises:
        UserError: where exact orderings need more memory than memory_limit.
    """
    groups, given = pool.groups, tasks.budgets.ravel()
    wanted = groups_to_order(tasks)
    if vectors is not None and config.instance_fn.needs_vectors:
        cache = config.cache / "orderings"
        try:
            with config.instance_fn.explained("instance_fn"):
                orders = order_groups(
                    make_orderer(config), vectors, groups.offsets, wanted, cache, config.workers()
                )
        except MemoryLimitError as error:
            raise UserError(f"instance_fn={config.instance_fn.name}: {error}") from error
    else:
        orders = {group: _random_order(config, pool, group) for group in wanted}
    keep = np.zeros(len(pool.rows), bool)
    for group in np.flatnonzero(given).tolist():
        rows = groups.order[groups.offsets[group] : groups.offsets[group + 1]]
        keep[rows[orders[group][: given[group]]] if group in orders else rows] = True
    return pool.rows.keep(keep)


def groups_to_order(tasks: TaskBudgets) -> list[int]:
    """Numbers of the groups that give rows. One that is taken whole needs no order."""
    given, sizes = tasks.budgets.ravel(), tasks.sizes.ravel()
    return np.flatnonzero((given > 0) & (given < sizes)).tolist()


def make_orderer(config: SelectConfig) -> Orderer:
    """How the groups of this selection are ordered."""
    settings: dict[str, dict[str, Any]] = {
        "exact": {},
        "lazy": {"optimizer": "lazy"},
        "naive": {"optimizer": "naive"},
        "partition": {"parts_of": PART, "seed": config.seed},
    }
    return Orderer(
        config.instance_fn.make,
        {"fn": config.deciding()["instance_fn"], **settings[config.optimizer]},
        None if config.memory_limit is None else config.memory(),
        config.optimizer,
        config.seed,
        config.instance_fn.single_threaded,
    )


def approximation(
    config: SelectConfig, pool: Pool, vectors: Vectors | None, tasks: TaskBudgets
) -> dict[str, Any] | None:
    """Which orders are not exact greedy's, and how good they are, measured; None where all are exact."""
    orderer, offsets = make_orderer(config), pool.groups.offsets
    split = [
        group
        for group in groups_to_order(tasks)
        if orderer.parts(int(offsets[group + 1] - offsets[group])) > 1
    ]
    if vectors is None or not config.instance_fn.needs_vectors or not split:
        return None
    largest = max(split, key=lambda group: offsets[group + 1] - offsets[group])
    return {
        "optimizer": "partition",
        "groups": len(split),
        "quality": round(orderer.quality(vectors[int(offsets[largest]) : int(offsets[largest + 1])]), 4),
        "quality_is": f"(f - f_random) / (f_exact - f_random) on {SAMPLE} rows of the largest group, a tenth chosen",
    }


def _random_order(config: SelectConfig, pool: Pool, group: int) -> np.ndarray:
    # Seeded by what the group is, so that budgets nest and another task in the pool changes nothing here.
    task, template = divmod(group, len(pool.groups.templates))
    name = [str(config.seed), *pool.groups.tasks[task], str(template)]
    seed = int(hash_bytes(part.encode() for part in name)[:15], 16)
    size = int(pool.groups.offsets[group + 1] - pool.groups.offsets[group])
    return maximize(config.instance_fn.make(n=size, seed=seed), budget=size).order
