"""What a parser of one format hands over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from smart.reading.faults import Fault

LINE = "line"
"""Stands for a column's name in faults of whole rows."""
BLOCK_BYTES = 1 << 24
"""About so much text is parsed at a time."""


@dataclass(frozen=True)
class Parsed:
    """Some rows, one after the other."""

    names: Sequence[str]
    """All columns of the file, as far as is known up to here; of equal names each."""
    count: int
    columns: dict[str, list[Any] | pa.ChunkedArray]
    """Of the columns asked for; None or null where a row has no such value, or is faulty as a whole."""
    faults: list[Fault] = field(default_factory=list)
    """Of whole rows, counted from the first of these."""


def blocks(items: Iterator[tuple[Any, int]], most: int) -> Iterator[list[Any]]:
    """Items in lists of about `most` bytes; each comes with its size."""
    block, size = [], 0
    for item, bytes_ in items:
        block.append(item)
        size += bytes_
        if size >= most:
            yield block
            block, size = [], 0
    if block:
        yield block
