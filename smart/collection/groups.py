"""Tasks and (task, template) groups of a table, as integer arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from smart.collection.tables import codes
from smart.templates import CHAT, CHAT_TEMPLATES, TEMPLATES


@dataclass(frozen=True)
class Groups:
    """Which rows belong to which task and template type.

    Group g = len(templates) * task + template holds the table's rows `order[offsets[g]:offsets[g + 1]]`, in table
    order.
    """

    tasks: tuple[tuple[str, str], ...]
    """(submixture, task_name), sorted."""
    sizes: np.ndarray
    """int64 (tasks, templates): rows per task and template."""
    order: np.ndarray
    """int64 (n,): positions in the table, sorted by group; stable."""
    offsets: np.ndarray
    """int64 (tasks * templates + 1,)"""
    templates: tuple[str, ...] = TEMPLATES
    """The pool's template types: FLAN's four, or chat alone."""

    @classmethod
    def of(cls, table: pa.Table) -> Groups:
        """Group the rows of a collection by their labels; it takes some 50 bytes a row while it works.

        Raises:
            ValueError: for a template type outside TEMPLATES; `load` leaves none.
        """
        submixtures, submixture = codes(table["submixture"])
        names, task = codes(table["task_name"])
        task += submixture * len(names)
        del submixture
        # Codes are ranks, so sorting the pairs' numbers sorts the tasks.
        pairs, task = _ranks(task, len(submixtures) * len(names))
        values, template = codes(table["template_type"])
        templates = CHAT_TEMPLATES if values == [CHAT] else TEMPLATES
        width = len(templates)
        task *= width
        task += np.array([templates.index(value) for value in values], np.int64)[template]
        del template
        sizes = np.bincount(task, minlength=width * len(pairs)).astype(np.int64)
        small = (
            task.astype(np.uint16) if len(sizes) <= 1 << 16 else task
        )  # sorted by counting, where it is small
        return cls(
            tasks=tuple(
                (submixtures[pair // len(names)], names[pair % len(names)]) for pair in pairs.tolist()
            ),
            sizes=sizes.reshape(-1, width),
            order=np.argsort(small, kind="stable"),
            offsets=np.concatenate([[0], np.cumsum(sizes)]),
            templates=templates,
        )

    def name(self, group: int) -> tuple[str, str, str]:
        """(submixture, task_name, template type) of a group."""
        task, template = divmod(group, len(self.templates))
        return (*self.tasks[task], self.templates[template])


def _ranks(values: np.ndarray, beyond: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values (each from 0 to `beyond` - 1) sorted, and for each value the place of its equal."""
    if beyond > 1 << 24:
        distinct, places = np.unique(values, return_inverse=True)
        return distinct, places
    distinct = np.flatnonzero(np.bincount(values, minlength=beyond))
    rank = np.zeros(beyond, np.int64)
    rank[distinct] = np.arange(len(distinct))
    return distinct, rank[values]
