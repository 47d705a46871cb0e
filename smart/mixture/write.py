"""A mixture folder: two Parquet files, tasks.csv, a card, figures, and the manifest that makes it whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from smart.config import counted
from smart.mixture.budgets import TaskBudgets, write_tasks
from smart.mixture.card import render_card
from smart.mixture.figures import draw_figures
from smart.mixture.rows import shuffle
from smart.mixture.turns import Layout, describe_turns
from smart.reading import CONVERSATION, RowView
from smart.runtime.files import atomic_folder
from smart.runtime.manifest import write_manifest
from smart.runtime.progress import Clock
from smart.templates import SEPARATOR

# TRL's trainer wants the response under this name, and joins the two with nothing between: hence the separator.
COMPLETION = "completion"
ROW_GROUP = 10_000


def write_mixture(
    folder: Path,
    rows: RowView,
    validation: RowView | None,
    tasks: TaskBudgets,
    manifest: Mapping[str, Any],
    *,
    seed: int = 23,
    separator: str = SEPARATOR,
    task_embeddings: np.ndarray | None = None,
    log: str = "",
    clock: Clock | None = None,
) -> dict[str, Any]:
    """Write the mixture; `folder` is whole afterwards, or as it was before on an error.

    The Parquet files and tasks.csv depend on the arguments alone, and on `rows` as a set, not on its order.

    Args:
        folder: replaced if it is there.
        rows: the chosen rows; columns submixture, task_name, template_type, inputs, targets, row (int64), and for
            rows with turns conversation. Their texts are read as they are written.
        validation: validation rows, alike; written in their order. None for no validation split.
        tasks: what every task of the pool gives; `rows` holds exactly its budgets.
        manifest: the content of manifest.json, without `files`, which is added here.
        seed: of the shuffle of the training rows.
        separator: between prompt and response, where both are joined. Conversations have none.
        task_embeddings: float (tasks, d), for the map of the tasks; None for no map.
        log: what the run said, kept as select.log.
        clock: of whose stages the manifest tells the seconds, this one included.

    Returns:
        The manifest as written.

    Raises:
        ValueError: when `rows` doesn't hold as many rows as the budgets say.
    """
    if len(rows) != tasks.budgets.sum():
        raise ValueError(f"{counted(len(rows), 'row')} chosen for budgets of {tasks.budgets.sum():,}")
    held_out = len(validation) if validation is not None else 0
    turns = describe_turns(rows)
    columns = _texts(separator)
    if turns is not None:
        columns = _turns(Layout.of([rows] if validation is None else [rows, validation]))
        manifest = {**manifest, "counts": {**manifest.get("counts", {}), **turns.counts()}}
    with atomic_folder(folder) as draft:
        order = shuffle(rows.rows, seed)
        _write_split(draft / "train.parquet", rows, order, columns)
        if validation is not None and held_out:
            _write_split(draft / "validation.parquet", validation, np.arange(held_out), columns)
        write_tasks(draft / "tasks.csv", tasks)
        figures = draw_figures(draft / "figures", tasks, task_embeddings, turns)
        card = render_card(folder.name, tasks, held_out, manifest, figures, turns)
        (draft / "README.md").write_text(card, encoding="utf-8")
        (draft / "select.log").write_text(log, encoding="utf-8")
        if clock:
            manifest = {**manifest, "seconds": clock.seconds}
        content = write_manifest(draft, manifest)
    return content


Columns = Callable[[pa.Table], pa.Table]
"""From rows of a collection to the columns that are written."""


def _write_split(path: Path, rows: RowView, order: np.ndarray, columns: Columns) -> None:
    """Write rows in `order`, a row group at a time, so that their text is never whole in memory."""
    schema = columns(rows.take(order[:0])).schema
    repeated = [name for name in schema.names if name not in ("prompt", "messages", "row")]
    # Without the Arrow schema readers see plain strings, however wide the offsets were here.
    with pq.ParquetWriter(
        path, schema, compression="zstd", use_dictionary=repeated, store_schema=False
    ) as writer:
        for start in range(0, len(order), ROW_GROUP):
            taken = rows.take(order[start : start + ROW_GROUP])
            writer.write_table(columns(taken), row_group_size=ROW_GROUP)


def _text(rows: pa.Table, name: str) -> pa.Array:
    # 64-bit offsets: the prompts of a mixture may exceed 2 GiB.
    return rows[name].cast(pa.large_string()).combine_chunks()


def _labels(rows: pa.Table) -> dict[str, pa.Array]:
    labels = {name: _text(rows, name) for name in ("submixture", "task_name", "template_type")}
    return {**labels, "row": rows["row"].cast(pa.int64()).combine_chunks()}


def _texts(separator: str) -> Columns:
    def columns(rows: pa.Table) -> pa.Table:
        response = _text(rows, "targets")
        completion = pc.binary_join_element_wise(
            pa.scalar(separator, pa.large_string()), response, pa.scalar("", pa.large_string())
        )
        return pa.table(
            {"prompt": _text(rows, "inputs"), "response": response, **_labels(rows), COMPLETION: completion}
        )

    return columns


def _turns(layout: Layout) -> Columns:
    def columns(rows: pa.Table) -> pa.Table:
        return pa.table({**layout.columns(rows[CONVERSATION].to_pylist()), **_labels(rows)})

    return columns
