"""Files of unseen tasks: rows in the columns of a collection on which models are scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from smart.config import UserError
from smart.reading import TEXT, TEXTS, Fault, Kind, apart, fault_where, read, refusal

_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("inputs", "targets", "task_name", "task_source"), TEXT),
    **dict.fromkeys(("references", "options"), TEXTS),
}
_NEEDED = ("inputs", "targets", "task_name")


def read_heldout(file: Path, key: str) -> pa.Table:
    """The file as a table of inputs, targets, task_name, and task_source, references and options where it has them.

    Args:
        key: the option that names the file.

    Raises:
        UserError: where it cannot be read, lacks inputs, targets or task_name, or has rows that cannot be used.
    """
    if not file.is_file():
        raise UserError(f"{key}={file}: no such file")
    rows = read(str(file), _KINDS)
    if missing := [name for name in _NEEDED if name not in rows.columns]:
        raise UserError(f"{key}={file}: lacks the columns {', '.join(missing)}")
    if not rows.count:
        raise UserError(f"{key}={file}: holds no rows")
    faults = [*rows.faults, *_faults(rows.columns)]
    if errors := [str(fault) for fault in apart(faults, rows.count)[1]]:
        raise UserError(refusal(f"{key}={file}", errors, "Fix them, or leave them out."))
    return pa.table(rows.columns)


def _faults(columns: Mapping[str, pa.ChunkedArray]) -> Iterator[Fault]:
    """What is no fault of a file, and cannot be scored."""
    for name in _NEEDED:
        yield from fault_where(name, "null", columns[name].is_null().to_numpy())
    names = columns["task_name"].to_pylist()
    yield from fault_where(
        "task_name", "blank", np.array([name is not None and not name.strip() for name in names])
    )
    for name in ("references", "options"):
        lists = [texts or () for texts in columns[name].to_pylist()] if name in columns else []
        yield from fault_where(name, "holds a null", np.array([None in texts for texts in lists], bool))
        if name == "options":  # without a token, an option has no likelihood
            blank = [any(text is not None and not text.strip() for text in texts) for texts in lists]
            yield from fault_where(name, "holds a blank text", np.array(blank, bool))


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
