"""Which column names a row's task, where none is called task_name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from smart.reading.values import is_blank, is_text

TASKS = ("source", "dataset", "source_dataset", "category", "task", "domain")
"""Columns of text from which tasks are taken where there is no task_name; the first that is there."""


def task_column(columns: Mapping[str, pa.ChunkedArray], wrong: Iterable[str] = ()) -> str | None:
    """The first of TASKS that holds text.

    Args:
        wrong: columns with values that are no text.
    """
    return next(
        (name for name in TASKS if name in columns and name not in wrong and _has_text(columns[name])), None
    )


def _has_text(column: pa.ChunkedArray) -> bool:
    return is_text(column.type) and column.null_count < len(column)


def filled(column: pa.ChunkedArray, otherwise: str) -> pa.ChunkedArray:
    """Texts, with another in place of nulls and blanks: the task of a row that doesn't say its own."""
    column = column.cast(pa.string())
    there = pc.fill_null(pc.invert(is_blank(column)), False)
    return pc.if_else(there, column, otherwise)
