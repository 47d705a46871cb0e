"""What each task of the pool gives: decided, and written as tasks.csv."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from smart.mixture.allocation import allocate, split_templates
from smart.mixture.weighting import TaskTable, Weighting
from smart.runtime.escapes import csv_lines, text_of_csv
from smart.templates import TEMPLATES

COLUMNS = ("submixture", "task_name", "order", "gain", "weight", "size", "budget")
"""Of tasks.csv, before a column for each template type."""


@dataclass(frozen=True)
class TaskBudgets:
    """What stage 1 decided, for every task of the pool, in the pool's order."""

    tasks: tuple[tuple[str, str], ...]
    """(submixture, task name) of each."""
    sizes: np.ndarray
    """int64 (tasks, templates), rows in the pool by template type."""
    order: np.ndarray
    """int64 (tasks,), place in the greedy order, from 0; -1 where not selected."""
    gains: np.ndarray
    """float64 (tasks,), marginal gain of the pick; NaN where not selected or where there are no gains."""
    weights: np.ndarray
    """float64 (tasks,), summing to 1; 0 where not selected."""
    budgets: np.ndarray
    """int64 (tasks, templates), rows in the mixture by template type."""
    templates: tuple[str, ...] = TEMPLATES
    """The pool's template types: FLAN's four, or chat alone."""

    @property
    def selected(self) -> np.ndarray:
        """int64 (selected,), positions of the selected tasks, in greedy order."""
        return np.argsort(self.order, kind="stable")[(self.order < 0).sum() :]

    @property
    def submixtures(self) -> np.ndarray:
        """str (tasks,)."""
        return np.array([submixture for submixture, _ in self.tasks])


def distribute(
    tasks: Sequence[tuple[str, str]],
    sizes: np.ndarray,
    order: np.ndarray,
    gains: np.ndarray | None,
    weighting: Weighting,
    budget: int,
    templates: tuple[str, ...] = TEMPLATES,
) -> TaskBudgets:
    """Stage 1 after the greedy: weights, rows of each task, rows of each template type.

    Args:
        tasks: (submixture, task name) of every task of the pool.
        sizes: int64 (tasks, templates), rows by template type.
        order: int64 (selected,), positions of the selected tasks, in greedy order.
        gains: float64 (selected,); None where the function gives none: the weighting then sees zeros.
        weighting: how to weigh the selected tasks.
        budget: rows of the mixture.
        templates: names of the template types.

    Raises:
        Infeasible: when the selected tasks hold fewer rows than `budget`.
        UserError: by the weighting.
    """
    table = TaskTable(
        submixtures=tuple(tasks[task][0] for task in order),
        names=tuple(tasks[task][1] for task in order),
        gains=np.zeros(len(order)) if gains is None else np.asarray(gains, np.float64),
        sizes=sizes[order],
    )
    weights = weighting(table)
    rows = allocate(weights, table.sizes.sum(axis=1), budget)
    n = len(tasks)
    return TaskBudgets(
        tasks=tuple(tasks),
        sizes=sizes,
        order=_spread(np.arange(len(order)), order, np.full(n, -1)),
        gains=_spread(np.nan if gains is None else gains, order, np.full(n, np.nan)),
        weights=_spread(weights, order, np.zeros(n)),
        budgets=split_templates(_spread(rows, order, np.zeros(n, np.int64)), sizes),
        templates=templates,
    )


def _spread(values: np.ndarray | float, order: np.ndarray, empty: np.ndarray) -> np.ndarray:
    """From selected tasks to all tasks of the pool."""
    empty[order] = values
    return empty


@dataclass(frozen=True)
class SubmixtureTotal:
    """One submixture's part."""

    name: str
    selected: int
    tasks: int
    rows: int
    size: int


def submixture_totals(table: TaskBudgets) -> list[SubmixtureTotal]:
    """Each submixture's part, the most rows first."""
    totals = []
    for name in np.unique(table.submixtures):
        members = table.submixtures == name
        rows, size = int(table.budgets[members].sum()), int(table.sizes[members].sum())
        selected = int((table.order[members] >= 0).sum())
        totals.append(SubmixtureTotal(str(name), selected, int(members.sum()), rows, size))
    return sorted(totals, key=lambda total: -total.rows)


def write_tasks(path: Path, table: TaskBudgets) -> None:
    """Write tasks.csv: the selected tasks in greedy order, then the others; floats as their exact repr.

    A name that a spreadsheet would take for a formula stands behind an apostrophe, which `read_tasks` takes away.
    """
    lines: list[Sequence[object]] = [(*COLUMNS, *table.templates)]
    for task in (*table.selected, *np.flatnonzero(table.order < 0)):
        gain, budgets = float(table.gains[task]), table.budgets[task].tolist()
        lines.append(
            [
                *table.tasks[task],
                int(table.order[task]) if table.order[task] >= 0 else "",
                "" if np.isnan(gain) else gain,
                float(table.weights[task]),
                int(table.sizes[task].sum()),
                sum(budgets),
                *budgets,
            ]
        )
    path.write_text(csv_lines(lines), encoding="utf-8", newline="")


def read_tasks(path: Path) -> list[dict[str, str]]:
    """tasks.csv as `write_tasks` wrote it: column → text, for each task of the pool."""
    with path.open(encoding="utf-8", newline="") as file:
        return [{column: text_of_csv(cell) for column, cell in line.items()} for line in csv.DictReader(file)]
