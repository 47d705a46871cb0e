"""Tasks and (task, template) groups of a table, as integer arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from smart.collection.tables import codes
from smart.templates import TEMPLATES


@dataclass(frozen=True)
class Groups:
    """Which rows belong to which task and template type.

    Group g = 4 * task + template holds the table's rows `order[offsets[g]:offsets[g + 1]]`, in table order.
    """

    tasks: tuple[tuple[str, str], ...]
    """(submixture, task_name), sorted."""
    sizes: np.ndarray
    """int64 (tasks, 4): rows per task and template, templates in the order of TEMPLATES."""
    order: np.ndarray
    """int64 (n,): positions in the table, sorted by group; stable."""
    offsets: np.ndarray
    """int64 (4 * tasks + 1,)"""

    @classmethod
    def of(cls, table: pa.Table) -> Groups:
        """Group the rows of a table in SCHEMA; it takes some 60 bytes a row while it works.

        Raises:
            ValueError: for a template type outside TEMPLATES; `load` leaves none.
        """
        submixtures, submixture = codes(table["submixture"])
        names, name = codes(table["task_name"])
        templates, template = codes(table["template_type"])
        # Codes are ranks, so sorting the pairs' numbers sorts the tasks.
        pairs, task = np.unique(submixture * len(names) + name, return_inverse=True)
        group = 4 * task + np.array([TEMPLATES.index(value) for value in templates], np.int64)[template]
        sizes = np.bincount(group, minlength=4 * len(pairs)).astype(np.int64)
        return cls(
            tasks=tuple(
                (submixtures[pair // len(names)], names[pair % len(names)]) for pair in pairs.tolist()
            ),
            sizes=sizes.reshape(-1, 4),
            order=np.argsort(group, kind="stable"),
            offsets=np.concatenate([[0], np.cumsum(sizes)]),
        )
