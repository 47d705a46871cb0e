"""The prompts of a pool in group order, read a block at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from smart.config import counted
from smart.runtime.files import hash_bytes
from smart.runtime.progress import progress

BLOCK = 50_000


@dataclass(frozen=True, eq=False)
class Prompts:
    """The prompts to embed, their order, and the row of each in the collection.

    Raises:
        ValueError: for no prompt, a null prompt, or texts and rows of different lengths.
    """

    texts: pa.ChunkedArray
    """(m,) the pool's prompts."""
    order: np.ndarray
    """int64 (n,) positions in `texts`: vector i belongs to texts[order[i]]."""
    rows: np.ndarray
    """int64 (m,) row numbers in the collection as read, before any drop."""
    rows_read: int
    """How many rows the collection had as read."""

    def __post_init__(self) -> None:
        if not len(self.order):
            raise ValueError("no prompts")
        if self.texts.null_count:
            raise ValueError(f"null in {counted(self.texts.null_count, 'prompt')}")
        if len(self.rows) != len(self.texts):
            raise ValueError(
                f"{counted(len(self.texts), 'prompt')}, but {counted(len(self.rows), 'row number')}"
            )

    def __len__(self) -> int:
        return len(self.order)

    def take(self, start: int, stop: int) -> pa.LargeStringArray:
        """Prompts start … stop - 1 in group order.

        ChunkedArray.take copies all of the column first; this touches only the rows it returns.
        """
        positions = self.order[start:stop]
        chunk = np.searchsorted(self._starts, positions, side="right") - 1
        by_chunk = np.argsort(chunk, kind="stable")
        used, first = np.unique(chunk[by_chunk], return_index=True)
        parts = [
            self._chunks[number].take(pa.array(positions[where] - self._starts[number]))
            for number, where in zip(used, np.split(by_chunk, first[1:]), strict=True)
        ]
        return pa.concat_arrays(parts).take(pa.array(np.argsort(by_chunk)))

    def row_numbers(self, positions: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Row numbers in the collection as read, for positions in group order."""
        return self.rows[self.order[positions]]

    def hash_texts(self) -> str:
        """Hash of the prompts in group order."""
        return hash_bytes(self._buffers())

    def hash_rows(self) -> str:
        """Hash of the row numbers in group order, for vectors that are looked up by row."""
        return hash_bytes([self.row_numbers().astype("<i8").tobytes()])

    def _buffers(self) -> Iterator[bytes | memoryview]:
        with progress(total=len(self), desc="Reading prompts", unit="row") as bar:
            for start in range(0, len(self), BLOCK):
                texts = self.take(start, start + BLOCK)
                lengths = pc.binary_length(texts).to_numpy()
                yield lengths.astype("<i8").tobytes()
                yield memoryview(texts.buffers()[2])[: lengths.sum()]
                bar.update(len(texts))

    @cached_property
    def _chunks(self) -> list[pa.LargeStringArray]:
        # 64-bit offsets, so that a block of long prompts cannot overflow; the text itself is not copied.
        return self.texts.cast(pa.large_string()).chunks

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.cumsum([0, *(len(chunk) for chunk in self._chunks[:-1])], dtype=np.int64)
