"""The one check that rows of every source pass: what cannot be used is an error, or dropped and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from smart.collection.schema import CHAT_SCHEMA, LABELS, SCHEMA, TEXTS
from smart.config import UserError, counted
from smart.reading import (
    CONVERSATION,
    ROW,
    ArrowFile,
    Fault,
    RowView,
    apart,
    as_text,
    fault_where,
    is_blank,
    refusal,
)
from smart.templates import CHAT_TEMPLATES, TEMPLATES


@dataclass(frozen=True)
class Part:
    """Rows of one file or data set, as its source hands them over."""

    where: str
    """How errors name it."""
    table: pa.Table
    """The columns of SCHEMA without row, or the labels and conversation; nulls where there is nothing usable."""
    faults: list[Fault] = field(default_factory=list)
    """Faults that the source saw itself; `check` finds nulls, blanks and unknown templates."""
    cut: int = 0
    """Conversations from which turns behind the last answer were left out."""
    files: Sequence[ArrowFile] = ()
    """Where the texts of all rows lie on disk, one file after the other, where they lie there as Arrow has them."""

    @classmethod
    def of(
        cls,
        where: str,
        columns: Mapping[str, pa.ChunkedArray | str],
        faults: Sequence[Fault] = (),
        cut: int = 0,
        files: Sequence[ArrowFile] = (),
    ) -> Part:
        """Bring columns to the schema's types; a string stands for the same value in every row.

        Rows are inputs and targets, or a conversation as `smart.conversation.to_json` writes it. What isn't text in
        UTF-8 becomes null, with a Fault.
        """
        count = max(len(column) for column in columns.values() if not isinstance(column, str))
        found, ready = list(faults), {}
        for name in (*LABELS, *([CONVERSATION] if CONVERSATION in columns else TEXTS)):
            column = columns[name]
            if isinstance(column, str):
                column = _constant(column, count)
            else:
                column, more = as_text(name, column)
                found += more
            ready[name] = _typed(column, CHAT_SCHEMA.field(name).type)
        return cls(where, pa.table(ready), found, cut, files)

    @property
    def has_turns(self) -> bool:
        return CONVERSATION in self.table.column_names


def _constant(value: str, count: int) -> pa.ChunkedArray:
    return pa.chunked_array([pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), [value])])


def _typed(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if column.type == kind:
        return column
    if pa.types.is_dictionary(kind):
        return column.cast(kind.value_type).dictionary_encode()
    return column.cast(kind)


def check(parts: Sequence[Part], bad_rows: str) -> tuple[RowView, dict[str, int]]:
    """Join the parts of a split, rows numbered over all of them before any drop.

    Args:
        parts: all of them with the same columns.
        bad_rows: "error" or "drop".

    Returns:
        The rows that can be used, and how many were dropped for which reason (each row under its first reason).

    Raises:
        UserError: naming file, column and first rows of what cannot be used; or if no row is left.
    """
    labels, keeps, dropped, errors, start = [], [], Counter[str](), [], 0
    for part in parts:
        count = len(part.table)
        keep, faults = apart([*part.faults, *_faults(part.table)], count)
        for fault in faults:
            if bad_rows == "error" and not fault.expected:
                errors.append(f"{part.where}: {fault}")
            dropped[fault.reason] += len(fault.rows)
        mine = part.table.select(LABELS)
        labels.append(mine if keep.all() else mine.filter(pa.array(keep)))
        keeps.append(keep)
        start += count
    if errors:
        way_out = "Fix them, or leave them out with bad_rows=drop (the manifest counts them)."
        raise UserError(refusal("the collection", errors, way_out))
    counts = dict(dropped)
    rows = np.flatnonzero(np.concatenate(keeps))
    if len(rows) == 0:
        read = f"{counted(start, 'row')} read" + "".join(
            f"; {count:,} dropped, {reason}" for reason, count in counts.items()
        )
        raise UserError(f"{parts[0].where}{' and the rest' * (len(parts) > 1)}: no rows to use ({read})")
    schema = CHAT_SCHEMA if parts[0].has_turns else SCHEMA
    texts = pa.schema([field for field in schema if field.name not in (*LABELS, ROW)])
    whole = pa.concat_tables(labels).unify_dictionaries().combine_chunks().append_column(ROW, pa.array(rows))
    return RowView(
        pa.concat_tables(part.table.select(texts.names) for part in parts).cast(texts),
        whole.cast(pa.schema([schema.field(name) for name in (*LABELS, ROW)])),
        rows,
    ), counts


def _faults(table: pa.Table) -> Iterator[Fault]:
    templates = CHAT_TEMPLATES if CONVERSATION in table.column_names else TEMPLATES
    for name in (*LABELS, *TEXTS):
        column = table[name]
        if column.null_count:
            yield from fault_where(name, "null", column.is_null().to_numpy())
        if name in LABELS:
            yield from _label_faults(name, column, templates)
        else:
            yield from fault_where(name, "empty", _true(is_blank(column)), column)


def _label_faults(name: str, column: pa.ChunkedArray, templates: Sequence[str]) -> Iterator[Fault]:
    values = [value for value in pc.unique(column).to_pylist() if value is not None]
    blank = [value for value in values if not value.strip()]
    unknown = [
        value for value in values if name == "template_type" and value.strip() and value not in templates
    ]
    for what, wrong in (("empty", blank), (f"none of {', '.join(templates)}", unknown)):
        if wrong:
            mask = pc.is_in(column.cast(pa.string()), pa.array(wrong, pa.string()))
            yield from fault_where(name, what, _true(mask), column)


def _true(mask: pa.ChunkedArray) -> np.ndarray:
    return pc.fill_null(mask, False).to_numpy()
