"""Stage 1: which tasks, and how many rows each of them and of its template types gives."""

from __future__ import annotations

import numpy as np

from smart.config import Infeasible, counted
from smart.mixture import TaskBudgets, distribute
from smart.selection.config import SelectConfig
from smart.selection.pool import Pool
from smart.submodular import maximize


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
    with fn.explained("fn"):
        f = fn.make(task_means) if fn.needs_vectors else fn.make(n=len(groups.tasks), seed=config.seed)
        chosen = maximize(f, budget=num_tasks, threads=config.cores())
    gains = chosen.gains if fn.needs_vectors else None
    return distribute(
        groups.tasks, groups.sizes, chosen.order, gains, config.weighting, budget, groups.templates
    )
