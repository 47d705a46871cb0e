"""The prompts of a pool in group order, read a block at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from smart.config import counted
from smart.reading import take_texts
from smart.runtime.files import hash_bytes
from smart.runtime.plans import may_write
from smart.runtime.progress import progress
from smart.runtime.sealed import read_sealed, write_sealed

BLOCK = 50_000


@dataclass(frozen=True, eq=False)
class Prompts:
    """The prompts to embed, their order, and the row of each in the collection.

    Raises:
        ValueError: for no prompt, a null prompt, or texts and rows of different lengths.
    """

    texts: pa.ChunkedArray
    """(m,) the prompts and, it may be, texts of rows that the pool does not have."""
    order: np.ndarray
    """int64 (n,) positions in `texts`: vector i belongs to texts[order[i]]."""
    rows: np.ndarray | None
    """int64 (m,) row numbers in the collection as read, before any drop; None where text i is row i."""
    rows_read: int
    """How many rows the collection had as read."""
    memory: Memory | None = None
    """Remembers the hash of the texts, so that it is not computed again."""

    def __post_init__(self) -> None:
        if not len(self.order):
            raise ValueError("no prompts")
        nulls = self.texts.is_null().to_numpy()[self.order].sum() if self.texts.null_count else 0
        if nulls:
            raise ValueError(f"null in {counted(nulls, 'prompt')}")
        if self.rows is not None and len(self.rows) != len(self.texts):
            raise ValueError(
                f"{counted(len(self.texts), 'prompt')}, but {counted(len(self.rows), 'row number')}"
            )

    def __len__(self) -> int:
        return len(self.order)

    def take(self, start: int, stop: int) -> pa.LargeStringArray:
        """Prompts start … stop - 1 in group order."""
        return take_texts(self._large, self.order[start:stop])

    def row_numbers(self, positions: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Row numbers in the collection as read, for positions in group order."""
        places = self.order[positions]
        return places if self.rows is None else self.rows[places]

    @cached_property
    def text_hash(self) -> str:
        """Hash of the prompts in group order."""
        known = self.memory.read() if self.memory else None
        if known is None:
            known = hash_bytes(self._buffers())
            if self.memory:
                self.memory.write(known)
        return known

    def hash_rows(self) -> str:
        """Hash of the row numbers in group order, for vectors that are looked up by row."""
        return hash_bytes([self.row_numbers().astype("<i8").tobytes()])

    @cached_property
    def _large(self) -> pa.ChunkedArray:
        # 64-bit offsets, so that a block of long prompts cannot overflow; the text itself is not copied.
        return self.texts.cast(pa.large_string())

    def _buffers(self) -> Iterator[bytes | memoryview]:
        with progress(total=len(self), desc="Reading prompts", unit="row") as bar:
            for start in range(0, len(self), BLOCK):
                texts = self.take(start, start + BLOCK)
                lengths = pc.binary_length(texts).to_numpy()
                yield lengths.astype("<i8").tobytes()
                yield memoryview(texts.buffers()[2])[: lengths.sum()]
                bar.update(len(texts))


@dataclass(frozen=True)
class Memory:
    """A file that remembers the hash of a pool's prompts."""

    path: Path
    key: str
    """Names the texts and their order."""

    def read(self) -> str | None:
        content = read_sealed(self.path, self.key)
        return None if content is None else content.decode()

    def write(self, hashed: str) -> None:
        if may_write():
            write_sealed(self.path, self.key, hashed.encode())
