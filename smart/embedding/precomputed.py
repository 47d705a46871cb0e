"""Vectors that the user made elsewhere, one for each row of the collection."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from smart.config import Problems, UserError, counted
from smart.embedding.prompts import Prompts
from smart.embedding.vectors import Vectors, map_vectors
from smart.runtime.content import FileState, check_unchanged, hash_content, state_of
from smart.runtime.manifest import make_key

VERSION = 1
BLOCK = 65_536


@dataclass(frozen=True)
class RowReader:
    """Reads rows of vectors from a user's file, which must stay as it was; can be pickled."""

    file: Path
    state: FileState
    rows: np.ndarray
    """Row of the file for each position in group order."""

    def __call__(self, start: int, stop: int) -> np.ndarray:
        """Rows start … stop - 1, a copy.

        Raises:
            UserError: where the file has changed since its key was made, or a machine does not have it.
        """
        found: np.ndarray = self._array[self.rows[start:stop]]
        if self.file.is_file():  # a machine numbers devices in its own way
            check_unchanged({self.file: (state_of(self.file)[0], *self.state[1:])})
        else:
            check_unchanged({self.file: self.state})
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        return RowReader, (self.file, self.state, self.rows)

    @cached_property
    def _array(self) -> np.ndarray:
        return map_vectors(self.file)


@dataclass(frozen=True)
class Precomputed:
    """A .npy file (rows, d) of floats, row i being the vector of row i of the collection as read.

    The file is read where it lies, through a memory map: a copy would double its disk, and cut float32
    vectors down to float16. Rows that were dropped from the pool leave their vectors unused.

    It is not an `Encoder`: its vectors belong to the rows of one collection, not to texts, so `embed` takes them
    as a whole instead of encoding prompts.
    """

    path: str | None = None
    """The .npy file."""

    def validate(self, problems: Problems) -> None:
        if self.path is None or not Path(self.path).is_file():
            problems.add("encoder.path", self.path, "is not a file", "name a .npy of one vector a row")

    def fetch(self) -> None:
        """Do nothing: the file is there."""

    def key(self, prompts: Prompts) -> str:
        """Name the vectors by the file's bytes and the rows taken from it."""
        return make_key({"encoder": "precomputed"}, [hash_content(self._file), prompts.hash_rows()], VERSION)

    def vectors(self, prompts: Prompts, folder: Path) -> Vectors:
        """Vectors in group order; FOLDER/KEY holds only what is learnt about them.

        Raises:
            UserError: where the file is not a float matrix with a row for each row of the collection, a vector
                that is used is not finite, or the file changes while it is used.
        """
        before = {self._file: state_of(self._file)}
        array = self._load(prompts.rows_read)
        self._check(array, prompts)
        rows = prompts.row_numbers()
        key = self.key(prompts)
        check_unchanged(before)
        read = RowReader(self._file.absolute(), before[self._file], rows)
        return Vectors(key, folder / key, len(rows), array.shape[1], 0, read)

    @property
    def _file(self) -> Path:
        if self.path is None:
            raise UserError("encoder.path=null: name a .npy of one vector a row")
        return Path(self.path)

    def _load(self, rows_read: int) -> np.ndarray:
        try:
            array = np.load(self._file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"encoder.path={self.path}: cannot be read as a .npy file ({error})") from error
        if not isinstance(array, np.ndarray):
            raise UserError(f"encoder.path={self.path}: is an archive; save one matrix with numpy.save")
        if array.ndim != 2 or array.dtype.kind != "f" or not array.shape[1]:
            raise UserError(
                f"encoder.path={self.path}: holds {array.dtype} {array.shape}, not floats of shape (rows, d)"
            )
        if len(array) != rows_read:
            raise UserError(
                f"encoder.path={self.path}: holds {counted(len(array), 'vector')}, but the collection has "
                f"{counted(rows_read, 'row')} as read; make one vector for each row, files sorted by path, "
                "before anything is dropped"
            )
        return array

    def _check(self, array: np.ndarray, prompts: Prompts) -> None:
        used = np.zeros(len(array), dtype=bool)
        used[prompts.row_numbers()] = True
        for start in range(0, len(array), BLOCK):
            with np.errstate(over="ignore"):
                block = array[start : start + BLOCK].astype(np.float32)
            bad = np.flatnonzero(used[start : start + BLOCK] & ~np.isfinite(block).all(axis=1))
            if len(bad):
                listed = ", ".join(str(start + row) for row in bad[:5])
                raise UserError(f"encoder.path={self.path}: vectors of rows {listed} … are not finite")
