from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from smart.mixture import TaskBudgets, TaylorSoftmax, distribute
from smart.templates import TEMPLATES


@dataclass(frozen=True)
class Pool:
    """A made-up collection and a mixture of it."""

    rows: pa.Table
    """Sorted by (task, template type); `row` has gaps, as after drops."""
    tasks: TaskBudgets

    def chosen(self) -> pa.Table:
        """The first rows of each group, as many as its budget."""
        start = np.cumsum(self.tasks.sizes.ravel()) - self.tasks.sizes.ravel()
        taken = [np.arange(s, s + k) for s, k in zip(start, self.tasks.budgets.ravel(), strict=True)]
        return self.rows.take(pa.array(np.concatenate(taken)))


def make_pool(tasks: int = 12, selected: int = 9, budget: int = 150, seed: int = 0) -> Pool:
    rng = np.random.default_rng(seed)
    names = sorted((f"sub{rng.integers(3)}", f"task, {number}") for number in range(tasks))
    sizes = rng.integers(0, 40, (tasks, 4))
    order = rng.permutation(tasks)[:selected]
    table = distribute(names, sizes, order, np.sort(rng.gamma(1, 3, selected))[::-1], TaylorSoftmax(), budget)
    group = np.repeat(np.arange(tasks * 4), sizes.ravel())
    n = len(group)
    rows = pa.table(
        {
            "submixture": [names[g // 4][0] for g in group],
            "task_name": [names[g // 4][1] for g in group],
            "template_type": [TEMPLATES[g % 4] for g in group],
            "inputs": [f"Question {number} «ä»:\nhow many?" for number in range(n)],
            "targets": [str(number % 7) for number in range(n)],
            "row": np.sort(rng.permutation(3 * n)[:n]),
        }
    )
    return Pool(rows, table)
