"""A mixture folder: two Parquet files, tasks.csv, a card, figures, and the manifest that makes it whole."""

from __future__ import annotations

from collections.abc import Mapping
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
from smart.runtime.files import atomic_folder
from smart.runtime.manifest import write_manifest
from smart.templates import SEPARATOR

# TRL's trainer wants the response under this name, and joins the two with nothing between: hence the separator.
COMPLETION = "completion"
ROW_GROUP = 10_000


def write_mixture(
    folder: Path,
    rows: pa.Table,
    validation: pa.Table | None,
    tasks: TaskBudgets,
    manifest: Mapping[str, Any],
    *,
    seed: int = 23,
    separator: str = SEPARATOR,
    task_embeddings: np.ndarray | None = None,
    log: str = "",
) -> dict[str, Any]:
    """Write the mixture; `folder` is whole afterwards, or as it was before on an error.

    The Parquet files and tasks.csv depend on the arguments alone, and on `rows` as a set, not on its order.

    Args:
        folder: replaced if it is there.
        rows: the chosen rows; columns submixture, task_name, template_type, inputs, targets, row (int64).
        validation: validation rows, alike; written in their order. None for no validation split.
        tasks: what every task of the pool gives; `rows` holds exactly its budgets.
        manifest: the content of manifest.json, without `files`, which is added here.
        seed: of the shuffle of the training rows.
        separator: between prompt and response, where both are joined.
        task_embeddings: float (tasks, d), for the map of the tasks; None for no map.
        log: what the run said, kept as select.log.

    Returns:
        The manifest as written.

    Raises:
        ValueError: when `rows` doesn't hold as many rows as the budgets say.
    """
    if rows.num_rows != tasks.budgets.sum():
        raise ValueError(f"{counted(rows.num_rows, 'row')} chosen for budgets of {tasks.budgets.sum():,}")
    held_out = validation.num_rows if validation is not None else 0
    with atomic_folder(folder) as draft:
        order = shuffle(rows["row"].to_numpy(), seed)
        _write_split(draft / "train.parquet", rows, order, separator)
        if validation is not None and held_out:
            _write_split(draft / "validation.parquet", validation, np.arange(held_out), separator)
        write_tasks(draft / "tasks.csv", tasks)
        figures = draw_figures(draft / "figures", tasks, task_embeddings)
        card = render_card(folder.name, tasks, held_out, manifest, figures)
        (draft / "README.md").write_text(card, encoding="utf-8")
        (draft / "select.log").write_text(log, encoding="utf-8")
        content = write_manifest(draft, manifest)
    return content


def _write_split(path: Path, rows: pa.Table, order: np.ndarray, separator: str) -> None:
    """Write rows in `order`, a row group at a time, so that the reordered text is never whole in memory."""
    table = _columns(rows, separator)
    repeated = [name for name in table.column_names if name not in ("prompt", "row")]
    # Without the Arrow schema readers see plain strings, however wide the offsets were here.
    with pq.ParquetWriter(
        path, table.schema, compression="zstd", use_dictionary=repeated, store_schema=False
    ) as writer:
        for start in range(0, len(order), ROW_GROUP):
            writer.write_table(
                table.take(pa.array(order[start : start + ROW_GROUP])), row_group_size=ROW_GROUP
            )


def _columns(rows: pa.Table, separator: str) -> pa.Table:
    def text(name: str) -> pa.Array:
        # 64-bit offsets: the prompts of a mixture may exceed 2 GiB.
        return rows[name].cast(pa.large_string()).combine_chunks()

    response = text("targets")
    columns = {
        "prompt": text("inputs"),
        "response": response,
        **{name: text(name) for name in ("submixture", "task_name", "template_type")},
        "row": rows["row"].cast(pa.int64()).combine_chunks(),
        COMPLETION: pc.binary_join_element_wise(
            pa.scalar(separator, pa.large_string()), response, pa.scalar("", pa.large_string())
        ),
    }
    return pa.table(columns)
