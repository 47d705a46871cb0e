"""The columns of a file, or of a split of a data set, that make rows of a collection, by the names people give them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc

from smart.collection.kept import Kept
from smart.collection.schema import LABELS
from smart.config import UserError
from smart.reading import (
    CONVERSATION,
    SHAPED,
    TASKS,
    ArrowFile,
    Fault,
    NoShapeError,
    Shaped,
    as_text,
    is_text,
    read_mapped,
    read_shaped,
    shape_table,
    task_column,
)

log = logging.getLogger(__name__)

KNOWN = (*LABELS, *SHAPED)
"""Columns that mean something here."""
_MOST_TASKS = 1_000


@dataclass(frozen=True)
class Columns:
    """Rows of one file or split, unchecked."""

    columns: dict[str, pa.ChunkedArray]
    """inputs and targets, or conversation; those of LABELS that are there; further columns that were asked for."""
    faults: list[Fault]
    cut: int = 0
    task: str | None = None
    """The column that became task_name, where it is one of TASKS."""
    names: Sequence[str] = ()
    """All columns of the file."""
    digest: str = ""
    """xxh3_128 of the file."""
    files: Sequence[ArrowFile] = ()
    """Where the texts lie as Arrow on disk."""

    @property
    def has_turns(self) -> bool:
        return CONVERSATION in self.columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))


@dataclass(frozen=True)
class Names:
    """What the user says of columns."""

    renamed: Mapping[str, str] = field(default_factory=dict)
    """What files call our columns, `collection.columns`; each must be there."""
    task: str | None = None
    """The column of tasks, `collection.task`; it must be there."""
    more: Sequence[str] = ()
    """Further columns of text, which are read where a file has them."""

    @property
    def theirs(self) -> dict[str, str]:
        return {**self.renamed, **({"task_name": self.task} if self.task else {})}

    def require(self, where: str, names: Sequence[str]) -> None:
        """Stop where a column is not there."""
        keys = {f"collection.columns.{ours}": name for ours, name in self.renamed.items()}
        for key, name in {**keys, "collection.task": self.task}.items():
            if name is not None and name not in names:
                raise UserError(f"{where}: no column {name} ({key}); it has: {', '.join(names) or 'none'}")


def read_columns(path: str, asked: Names, kept: Kept | None = None) -> Columns:
    """The rows of a file.

    Args:
        kept: where they are kept as Arrow, from which they are mapped.

    Raises:
        UserError: for a file that cannot be read, or one with rows that lacks the texts or a column that was named.
    """
    more, file = [*LABELS, *TASKS, *asked.more], None
    try:
        if kept is None:
            rows = read_shaped(path, asked.theirs, more)
        else:
            rows, file = read_mapped(path, asked.theirs, more, kept.folder / "files", kept.hashes)
    except NoShapeError as error:
        asked.require(path, error.names)
        raise _unnamed(error) from error
    if rows.count:
        asked.require(path, rows.names)
    columns = _columns(rows, rows.more, asked, rows.names, rows.digest)
    return replace(columns, files=[file] if file else [])


def table_columns(where: str, given: Mapping[str, pa.ChunkedArray], asked: Names) -> Columns:
    """The rows of a split; the rest is as `read_columns` has it.

    Args:
        where: how errors name it.
        given: all its columns.
    """
    names = list(given)
    asked.require(where, names)
    theirs = {name: asked.theirs.get(name, name) for name in (*KNOWN, *TASKS, *asked.more)}
    ours = {name: given[column] for name, column in theirs.items() if column in given}
    try:
        shaped = shape_table(where, {name: column for name, column in ours.items() if name in SHAPED})
    except NoShapeError as error:
        raise _unnamed(NoShapeError(where, error.known, names)) from error
    further, faults = {}, []
    for name in (name for name in ours if name not in SHAPED):
        further[name], found = as_text(theirs[name], ours[name])
        faults += found
    whole = Shaped(shaped.columns, [*faults, *shaped.faults], shaped.cut)
    return _columns(whole, further, asked, names)


def _columns(
    shaped: Shaped,
    further: Mapping[str, pa.ChunkedArray],
    asked: Names,
    names: Sequence[str],
    digest: str = "",
) -> Columns:
    if asked.renamed.get("inputs") == "instruction" and "input" in names:
        log.warning(
            "The column input is left out: without collection.columns it goes behind the instruction, after an empty"
            " line."
        )
    columns = {name: further[name] for name in LABELS if name in further}
    wrong = {fault.column for fault in shaped.faults}
    task = None if "task_name" in columns else task_column(further, wrong)
    if task:
        columns["task_name"] = further[task]
    # Of columns that were only looked at, what is no text is no fault.
    used = {asked.theirs.get(name, name) for name in columns}
    idle = {*TASKS, *asked.more} - used
    faults = [fault for fault in shaped.faults if fault.column not in idle]
    columns |= {name: further[name] for name in asked.more if name in further and name not in columns}
    return Columns({**columns, **shaped.columns}, faults, shaped.cut, task, names, digest)


def could_be_tasks(columns: Mapping[str, pa.ChunkedArray]) -> list[str]:
    """Those of a table's columns that hold text with few different values."""
    found = []
    for name, column in columns.items():
        if name in KNOWN or not is_text(column.type):
            continue
        values = len(pc.unique(column.cast(pa.string()).drop_null()))
        if 2 <= values <= min(_MOST_TASKS, max(2, len(column) // 4)):
            found.append(name)
    return found


def _unnamed(error: NoShapeError) -> UserError:
    return UserError(
        f"{error}. Name yours with collection.columns.inputs=NAME and collection.columns.targets=NAME"
    )
