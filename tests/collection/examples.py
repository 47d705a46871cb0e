"""Small collections that tests write to disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from smart.templates import TEMPLATES

Row = dict[str, Any]


def rows(count: int, submixture: str = "sub", tasks: int = 3, seed: int = 0) -> list[Row]:
    """Different rows of several tasks and all template types, shuffled, with the schema's columns."""
    rng = np.random.default_rng(seed)
    return [
        {
            "submixture": submixture,
            "task_name": f"task{rng.integers(tasks)}",
            "template_type": TEMPLATES[rng.integers(4)],
            "inputs": f'question {index} of {submixture}\nwith a second line, a comma and "quotes"',
            "targets": f"answer {index} é",
        }
        for index in range(count)
    ]


def write_parquet(path: Path, records: list[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(records), path)
    return path


def write_jsonl(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def content(table: pa.Table) -> list[Row]:
    """Rows without their numbers."""
    return table.drop_columns("row").to_pylist()
