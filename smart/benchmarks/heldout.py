"""Files of unseen tasks: rows in the columns of a collection on which models are scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from smart.config import UserError
from smart.conversation import from_json
from smart.reading import (
    CONVERSATION,
    TASKS,
    TEXT,
    TEXTS,
    Fault,
    Kind,
    NoShapeError,
    ShapedRows,
    apart,
    fault_where,
    filled,
    read,
    read_shaped,
    refusal,
    said,
    task_column,
)

_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("inputs", "targets", "task_name", "task_source"), TEXT),
    **dict.fromkeys(("references", "options"), TEXTS),
}
_TEXTS = ("inputs", "targets")
_TASKS = ("task_name", *TASKS)
"""Columns that may name a row's task; the first that is there does."""


def read_heldout(file: Path, key: str) -> pa.Table:
    """The file as a table of inputs and targets, or of conversation; task_name; and task_source, references and options
    where it has them.

    Without inputs and targets it may have any shape that a collection may have. A file without task_name takes another
    column that may name a row's task, else its own name.

    Args:
        key: the option that names the file.

    Raises:
        UserError: where it cannot be read, is in no known shape, or has rows that cannot be used.
    """
    if not file.is_file():
        raise UserError(f"{key}={file}: no such file")
    rows = read(str(file), _KINDS)
    columns, faults, count = dict(rows.columns), list(rows.faults), rows.count
    shaped = None
    if not set(_TEXTS) <= columns.keys() or "task_name" not in columns:
        shaped = _read_shaped(file, key)
    if not count:
        raise UserError(f"{key}={file}: holds no rows")
    if shaped is not None:
        wrong = {fault.column for fault in shaped.faults}
        task = "task_name" if "task_name" in shaped.more else task_column(shaped.more, wrong)
        columns = {name: column for name, column in columns.items() if name not in _TEXTS} | shaped.columns
        columns["task_name"] = _tasks(shaped, task, file)
        # Of columns that were only looked at, what is no text is no fault.
        faults = [fault for fault in faults if fault.column not in (*_TEXTS, *_TASKS)]
        faults += [fault for fault in shaped.faults if fault.column == task or fault.column not in _TASKS]
    faults += _faults(columns)
    if errors := [str(fault) for fault in apart(faults, count)[1]]:
        raise UserError(refusal(f"{key}={file}", errors, "Fix them, or leave them out."))
    return pa.table(columns)


def _read_shaped(file: Path, key: str) -> ShapedRows:
    try:
        return read_shaped(str(file), more=_TASKS)
    except NoShapeError as error:
        raise UserError(f"{key}={error}") from error


def _tasks(shaped: ShapedRows, column: str | None, file: Path) -> pa.ChunkedArray:
    """The name of each row's task."""
    own = file.name.partition(".")[0]
    if column is None:
        return pa.chunked_array([pa.repeat(own, shaped.count)])
    return shaped.more[column] if column == "task_name" else filled(shaped.more[column], own)


def _faults(columns: Mapping[str, pa.ChunkedArray]) -> Iterator[Fault]:
    """What is no fault of a file, and cannot be scored."""
    for name in (*_TEXTS, "task_name"):
        if name in columns:
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


def texts_of(table: pa.Table) -> tuple[list[str], list[str]]:
    """Of each row what is asked, with all that stands before it, and the answer: two lists of texts."""
    if CONVERSATION not in table.column_names:
        return table["inputs"].to_pylist(), table["targets"].to_pylist()
    turns = [from_json(text)["messages"] for text in table[CONVERSATION].to_pylist()]
    before = ["\n\n".join(said(message) for message in messages[:-1]) for messages in turns]
    return before, [said(messages[-1]) for messages in turns]


def heldout_texts(file: Path) -> dict[str, list[str]]:
    """Name of each task of a collection file, such as heldout/TASK → what its prompts say beside the instructions.

    Lines that more than a tenth of a task's prompts have, and at least two, are its instructions: other tasks may
    well be told the same.

    Raises:
        UserError: where the file cannot be used.
    """
    table = read_heldout(file, "heldout_data")
    prompts: dict[str, list[str]] = {}
    for task, prompt in zip(table["task_name"].to_pylist(), texts_of(table)[0], strict=True):
        prompts.setdefault(f"heldout/{task}", []).append(prompt)
    return {task: _own_lines(texts) for task, texts in prompts.items()}


def _own_lines(texts: list[str]) -> list[str]:
    seen = Counter(line for text in texts for line in set(text.splitlines()))
    often = max(1, len(texts) // 10)
    return ["\n".join(line for line in text.splitlines() if seen[line] <= often) for text in texts]
