"""Stage 1: which tasks, and how many rows each of them and of its template types gives."""

from __future__ import annotations

import io

import numpy as np

from smart.config import Infeasible, code_of_targets, counted
from smart.mixture import TaskBudgets, distribute
from smart.runtime.files import hash_bytes
from smart.runtime.manifest import make_key
from smart.runtime.plans import may_write
from smart.runtime.sealed import read_sealed, write_sealed
from smart.selection.config import SelectConfig
from smart.selection.pool import Pool
from smart.submodular import maximize

VERSION = 1
"""Raised whenever the same function orders the same tasks otherwise."""


def resolve_sizes(config: SelectConfig, pool: Pool) -> tuple[int, int]:
    """The numbers of tasks and rows that are asked for, once the pool is known.

    Raises:
        Infeasible: for more tasks than the pool has, or more rows than it holds.
    """
    tasks, rows = len(pool.groups.tasks), len(pool.rows)
    if config.num_tasks is not None and config.num_tasks > tasks:
        raise Infeasible(
            f"num_tasks={config.num_tasks}: the pool has {counted(tasks, 'task')}",
            "leave it null for all of them",
        )
    budget = int(config.budget.of(rows))
    if budget > rows:
        raise Infeasible(
            f"budget={config.budget.text}: the pool holds {counted(rows, 'row')}", f"ask for at most {rows}"
        )
    return config.num_tasks or tasks, budget


def budget_tasks(
    config: SelectConfig, pool: Pool, task_means: np.ndarray | None, num_tasks: int, budget: int
) -> TaskBudgets:
    """An order of tasks by fn, weights from its gains, rows for each task and template type.

    Args:
        task_means: float32 (tasks, d); None where fn needs no vectors.

    Raises:
        Infeasible: where the selected tasks hold fewer rows than `budget`.
    """
    fn, groups = config.fn, pool.groups
    if fn.needs_vectors:
        assert task_means is not None
        order, gains = _order_by_vectors(config, task_means, num_tasks)
    else:
        with fn.explained("fn"):
            f = fn.make(n=len(groups.tasks), seed=config.seed)
            order, gains = maximize(f, budget=num_tasks, threads=config.cores()).order, None
    return distribute(groups.tasks, groups.sizes, order, gains, config.weighting, budget, groups.templates)


def _order_by_vectors(
    config: SelectConfig, task_means: np.ndarray, num_tasks: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tasks in greedy order, int64 (num_tasks,), and their gains, float64; kept, since budgets share them."""
    part = config.deciding()["fn"]
    asked = {"fn": part, "code": code_of_targets(part), "num_tasks": num_tasks}
    key = make_key(asked, [hash_bytes([np.ascontiguousarray(task_means).tobytes()])], VERSION)
    file = config.cache / "tasks" / f"{key}.sealed"
    content = read_sealed(file, key)
    if content is not None:
        with np.load(io.BytesIO(content)) as kept:
            return kept["order"], kept["gains"]
    with config.fn.explained("fn"):
        chosen = maximize(config.fn.make(task_means), budget=num_tasks, threads=config.cores())
    if may_write():
        buffer = io.BytesIO()
        np.savez(buffer, order=chosen.order, gains=chosen.gains)
        write_sealed(file, key, buffer.getvalue())
    return chosen.order, chosen.gains
