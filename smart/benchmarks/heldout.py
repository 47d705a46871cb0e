"""Files of unseen tasks: rows in the columns of a collection on which models are scored."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from smart.config import UserError


def read_heldout(file: Path, key: str) -> pa.Table:
    """The file as a table.

    Args:
        key: the option that names the file.

    Raises:
        UserError: where it cannot be read, or lacks inputs, targets or task_name.
    """
    if not file.is_file():
        raise UserError(f"{key}={file}: no such file")
    try:
        table = pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{key}={file}: cannot be read: {str(error).splitlines()[0]}") from error
    if missing := sorted({"inputs", "targets", "task_name"} - set(table.column_names)):
        raise UserError(f"{key}={file}: lacks the columns {', '.join(missing)}")
    return table


def heldout_texts(file: Path) -> dict[str, list[str]]:
    """Name of each task of a collection file, such as heldout/TASK → what its prompts say beside the instructions.

    Lines that more than a tenth of a task's prompts have, and at least two, are its instructions: other tasks may
    well be told the same.

    Raises:
        UserError: where the file cannot be used.
    """
    table = read_heldout(file, "heldout_data")
    prompts: dict[str, list[str]] = {}
    for task, prompt in zip(table["task_name"].to_pylist(), table["inputs"].to_pylist(), strict=True):
        prompts.setdefault(f"heldout/{task}", []).append(prompt)
    return {task: _own_lines(texts) for task, texts in prompts.items()}


def _own_lines(texts: list[str]) -> list[str]:
    seen = Counter(line for text in texts for line in set(text.splitlines()))
    often = max(1, len(texts) // 10)
    return ["\n".join(line for line in text.splitlines() if seen[line] <= often) for text in texts]
