"""The steps of a selection between its rooms: tasks and their budgets, instances, rows."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from smart.collection.tables import keep_rows
from smart.config import UserError
from smart.embedding import Outlook, Summary, Vectors, embed, look_up, summarize
from smart.mixture import TaskBudgets, distribute, sample_validation
from smart.runtime.files import hash_bytes
from smart.runtime.progress import Clock
from smart.selection.config import Request
from smart.selection.orderings import PART, SAMPLE, Orderer, order_groups
from smart.selection.pool import Pool
from smart.submodular import MemoryLimitError, maximize
from smart.submodular.resources import parse_memory
from smart.templates import TEMPLATES

log = logging.getLogger(__name__)

FEW_DISTINCT = 0.5
"""Below this share of distinct vectors, the order inside a group is mostly decided by ties."""


def check_sizes(request: Request, pool: Pool) -> tuple[int, int]:
    """The numbers of tasks and rows asked for, once the pool is known.

    Raises:
        UserError: for more tasks than the pool has, or more rows than it holds.
    """
    tasks, rows = len(pool.groups.tasks), len(pool.table)
    if request.num_tasks is not None and request.num_tasks > tasks:
        raise UserError(
            f"num_tasks={request.num_tasks}: the pool has {tasks} tasks; leave it null for all of them"
        )
    budget = request.budget.of(rows)
    if budget > rows:
        raise UserError(f"budget={request.budget.text}: the pool holds {rows:,} rows; ask for at most {rows}")
    return request.num_tasks or tasks, budget


def input_keys(request: Request, pool: Pool) -> list[str]:
    """What the mixture is made from: the collection's rows, and the vectors where an axis needs them."""
    rows = [pool.collection.fingerprint] + ([pool.contamination.key] if pool.contamination else [])
    outlook = look_ahead(request, pool)
    if outlook is None:
        return rows
    if outlook.key is None:
        if request.plan:
            return []
        request.encoder.fetch()
        outlook = look_ahead(request, pool)
    assert outlook is not None
    assert outlook.key is not None
    return [*rows, outlook.key]


def look_ahead(request: Request, pool: Pool) -> Outlook | None:
    """What embedding would do; None where no axis needs vectors."""
    return (
        look_up(pool.prompts, request.encoder, request.root / "cache/embeddings")
        if request.needs_vectors
        else None
    )


def make_vectors(request: Request, pool: Pool) -> tuple[Vectors, Summary] | None:
    """Vectors and task means, where an axis needs them."""
    if not request.needs_vectors:
        return None
    vectors = embed(pool.prompts, request.encoder, request.root / "cache/embeddings")
    return vectors, summarize(vectors, pool.groups.offsets)


@dataclass(frozen=True)
class Selection:
    """What was chosen, and what the manifest says of how."""

    tasks: TaskBudgets
    rows: pa.Table
    task_means: np.ndarray | None
    """float32 (tasks, d); None where no axis needed vectors."""
    warnings: list[str]
    counts: dict[str, int]
    distinct: dict[str, list[int]]
    """For each group, "submixture/task/template": distinct vectors, and rows; empty without vectors."""
    approximation: dict[str, Any] | None


def run(request: Request, pool: Pool, num_tasks: int, budget: int, clock: Clock) -> Selection:
    """Embeddings, tasks, orderings, rows: each stage with its seconds in `clock`."""
    with clock("embeddings"):
        made = make_vectors(request, pool)
    vectors, summary = made or (None, None)
    means = summary.task_means if summary else None
    with clock("tasks"):
        tasks = budget_tasks(request, pool, means, num_tasks, budget)
    with clock("orderings"):
        rows = choose_rows(request, pool, vectors, tasks)
    if vectors is None or summary is None:
        return Selection(tasks, rows, None, [], {}, {}, None)
    approximate = approximation(request, pool, vectors, tasks)
    warnings = few_distinct(pool, summary.distinct)
    counts = {"truncated_prompts": vectors.truncated, "distinct_vectors": int(summary.distinct.sum())}
    distinct = distinct_of_groups(pool, summary.distinct)
    return Selection(tasks, rows, means, warnings, counts, distinct, approximate)


def budget_tasks(
    request: Request, pool: Pool, task_means: np.ndarray | None, num_tasks: int, budget: int
) -> TaskBudgets:
    """Stage 1: an order of tasks by fn, weights from its gains, rows for each task and template type."""
    fn, groups = request.fn, pool.groups
    if fn.needs_vectors:
        chosen = maximize(fn.make(task_means), budget=num_tasks, threads=request.threads)
        gains: np.ndarray | None = chosen.gains
    else:
        chosen = maximize(fn.make(n=len(groups.tasks), seed=request.seed), budget=num_tasks)
        gains = None
    return distribute(groups.tasks, groups.sizes, chosen.order, gains, request.weighting, budget)


def orderer_of(request: Request) -> Orderer:
    partition = request.optimizer == "partition"
    deciding = {"fn": request.instance_fn.config} | (
        {"parts_of": PART, "seed": request.seed} if partition else {}
    )
    memory = parse_memory(request.memory_limit)
    fn = request.instance_fn
    return Orderer(fn.make, deciding, memory, partition, request.seed, fn.single_threaded)


def approximation(
    request: Request, pool: Pool, vectors: Vectors | None, tasks: TaskBudgets
) -> dict[str, Any] | None:
    """Which orders are not exact greedy's, and how good they are, measured; None where all are exact."""
    orderer, offsets = orderer_of(request), pool.groups.offsets
    split = [
        group for group in groups_in(tasks) if orderer.parts(int(offsets[group + 1] - offsets[group])) > 1
    ]
    if vectors is None or not request.instance_fn.needs_vectors or not split:
        return None
    largest = max(split, key=lambda group: offsets[group + 1] - offsets[group])
    return {
        "optimizer": "partition",
        "groups": len(split),
        "quality": round(orderer.quality(vectors[int(offsets[largest]) : int(offsets[largest + 1])]), 4),
        "quality_is": f"(f - f_random) / (f_exact - f_random) on {SAMPLE} rows of the largest group, a tenth chosen",
    }


def groups_in(tasks: TaskBudgets) -> list[int]:
    """Groups that give rows. One that is taken whole needs no order."""
    given, sizes = tasks.budgets.ravel(), tasks.sizes.ravel()
    return np.flatnonzero((given > 0) & (given < sizes)).tolist()


def choose_rows(request: Request, pool: Pool, vectors: Vectors | None, tasks: TaskBudgets) -> pa.Table:
    """Stage 2: the first rows of each group's order, as many as its budget; in the collection's order.

    Raises:
        UserError: where exact orderings need more memory than memory_limit.
    """
    groups, given = pool.groups, tasks.budgets.ravel()
    wanted = groups_in(tasks)
    if vectors is not None and request.instance_fn.needs_vectors:
        cache = request.root / "cache/orderings"
        try:
            orders = order_groups(
                orderer_of(request), vectors, groups.offsets, wanted, cache, request.threads
            )
        except MemoryLimitError as error:
            raise UserError(f"instance_fn={request.instance_fn.name}: {error}") from error
    else:
        orders = {group: _random_order(request, pool, group) for group in wanted}
    keep = np.zeros(len(pool.table), bool)
    for group in np.flatnonzero(given).tolist():
        rows = groups.order[groups.offsets[group] : groups.offsets[group + 1]]
        keep[rows[orders[group][: given[group]]] if group in orders else rows] = True
    return keep_rows(pool.table, keep)


def validation_rows(request: Request, pool: Pool) -> pa.Table | None:
    """The fixed sample of the pool's validation split; None where it has none or none was asked for."""
    split = pool.validation
    if split is None or not request.validation_rows:
        return None
    return sample_validation(split, request.validation_rows, request.seed)


def _random_order(request: Request, pool: Pool, group: int) -> np.ndarray:
    # Seeded by what the group is, so that budgets nest and another task in the pool changes nothing here.
    task, template = divmod(group, 4)
    name = [str(request.seed), *pool.groups.tasks[task], str(template)]
    seed = int(hash_bytes(part.encode() for part in name)[:15], 16)
    size = int(pool.groups.offsets[group + 1] - pool.groups.offsets[group])
    return maximize(request.instance_fn.make(n=size, seed=seed), budget=size).order


def distinct_of_groups(pool: Pool, distinct: np.ndarray) -> dict[str, list[int]]:
    """Distinct vectors and rows of each group that has rows."""
    sizes = np.diff(pool.groups.offsets)
    return {
        "/".join((*pool.groups.tasks[group // 4], TEMPLATES[group % 4])): [
            int(distinct[group]),
            int(sizes[group]),
        ]
        for group in np.flatnonzero(sizes).tolist()
    }


def few_distinct(pool: Pool, distinct: np.ndarray) -> list[str]:
    """Warnings for groups where most prompts have the same vector as another."""
    sizes = np.diff(pool.groups.offsets)
    share = distinct / np.maximum(sizes, 1)
    few = np.flatnonzero((share < FEW_DISTINCT) & (sizes > 1))
    if not len(few):
        return []
    worst = few[np.argsort(share[few], kind="stable")[:3]]
    names = ", ".join(
        f"{'/'.join(pool.groups.tasks[g // 4])} {TEMPLATES[g % 4]} ({distinct[g]} of {sizes[g]})"
        for g in worst
    )
    return [
        f"In {len(few)} of {(sizes > 0).sum()} groups fewer than half of the prompts have a vector of their own, so "
        f"which rows are chosen there is decided by ties: {names}. Prompts may be cut before they differ (see "
        "encoder.max_length and encoder.truncation) or repeat."
    ]
