"""Some rows of a table whose texts stay on disk: labels in memory, texts where they lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from smart.reading.shapes import CONVERSATION

TEXT_COLUMNS = ("inputs", "targets", CONVERSATION)
ROW = "row"
"""The column of row numbers."""
_ROWS = 10_000


@dataclass(frozen=True, eq=False)
class RowView:
    """Rows that were chosen, and nothing of them copied: `take` and `batches` read the texts that they return.

    A table of text columns is mapped from disk as a rule, so that choosing rows of it costs a few bytes each.
    """

    texts: pa.Table
    """Columns of text, of rows chosen and of others."""
    labels: pa.Table
    """(n,) the other columns of the chosen rows, with `row`, the number of each in the collection as read."""
    positions: np.ndarray
    """int64 (n,): where each chosen row stands in `texts`."""

    @classmethod
    def of(cls, table: pa.Table) -> RowView:
        """All rows of a table."""
        texts = [name for name in TEXT_COLUMNS if name in table.column_names]
        large = pa.schema([(name, pa.large_string()) for name in texts])
        return cls(table.select(texts).cast(large), table.drop_columns(texts), np.arange(len(table)))

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def column_names(self) -> list[str]:
        labels = self.labels.column_names
        last = [ROW] if ROW in labels else []
        return [*(name for name in labels if name != ROW), *self.texts.column_names, *last]

    @property
    def rows(self) -> np.ndarray:
        """int64 (n,): row numbers in the collection as read."""
        return whole_numbers(self.labels[ROW])

    def keep(self, mask: np.ndarray) -> RowView:
        """The rows where `mask` (bool, (n,)) holds."""
        if mask.all():
            return self
        return RowView(self.texts, self.labels.filter(pa.array(mask)), self.positions[mask])

    def take(self, places: np.ndarray) -> pa.Table:
        """The rows at these places of the view, in memory, in this order."""
        positions = self.positions[places]
        labels = self.labels.take(pa.array(places))
        texts = {name: take_texts(self.texts[name], positions) for name in self.texts.column_names}
        whole = {**{name: labels[name] for name in labels.column_names}, **texts}
        return pa.table({name: whole[name] for name in self.column_names})

    def batches(self, rows: int = _ROWS) -> Iterator[pa.Table]:
        """All rows in their order, so many at a time."""
        for start in range(0, len(self), rows):
            yield self.take(np.arange(start, min(start + rows, len(self))))

    @cached_property
    def table(self) -> pa.Table:
        """All rows; their texts are copied into memory, unless they are all that there is."""
        if len(self) == len(self.texts) and (np.diff(self.positions) == 1).all():
            whole = {name: table[name] for table in (self.texts, self.labels) for name in table.column_names}
            return pa.table({name: whole[name] for name in self.column_names})
        tables = list(self.batches()) or [self.take(np.empty(0, np.int64))]
        return pa.concat_tables(tables).unify_dictionaries()


def whole_numbers(column: pa.ChunkedArray) -> np.ndarray:
    """int64 (n,) from a column of int64 without nulls; not copied if it lies in one piece.

    ChunkedArray.to_numpy imports pandas, for half a second.
    """
    parts = [
        np.frombuffer(chunk.buffers()[1], np.int64)[chunk.offset : chunk.offset + len(chunk)]
        for chunk in column.chunks
        if len(chunk)
    ]
    return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.int64), *parts])


def take_texts(column: pa.ChunkedArray, positions: np.ndarray) -> pa.LargeStringArray:
    """Texts at these positions of a large_string column, in this order.

    ChunkedArray.take copies all of the column first; this touches only the rows that it returns.
    """
    if not len(positions):
        return pa.array([], pa.large_string())
    starts = np.cumsum([0, *(len(chunk) for chunk in column.chunks)], dtype=np.int64)
    chunk = np.searchsorted(starts[1:-1], positions, side="right")
    by_chunk = np.argsort(chunk, kind="stable")
    used, first = np.unique(chunk[by_chunk], return_index=True)
    parts = [
        column.chunk(number).take(pa.array(positions[where] - starts[number]))
        for number, where in zip(used.tolist(), np.split(by_chunk, first[1:]), strict=True)
    ]
    if len(parts) == 1:  # stable, so the order is that of `positions`
        return parts[0]
    return pa.concat_arrays(parts).take(pa.array(np.argsort(by_chunk)))
