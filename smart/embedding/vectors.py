"""Vectors in group order, wherever they lie, and the statistics of one pass over them."""

from __future__ import annotations

import io
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from smart.config import UserError, counted
from smart.reading import row_hashes
from smart.runtime.files import hash_bytes
from smart.runtime.locks import owned
from smart.runtime.manifest import make_key
from smart.runtime.progress import progress
from smart.runtime.sealed import read_sealed, write_sealed
from smart.templates import TEMPLATES

BLOCK = 16_384


@dataclass(frozen=True, eq=False)
class Vectors:
    """Vectors (n, d) in group order, memory-mapped: `vectors[start:stop]` copies only what it returns."""

    key: str
    """Names the prompts, their order, the encoder and the storage type."""
    folder: Path
    """Where the vectors, or what is known about them, are kept."""
    n: int
    d: int
    truncated: int
    """Prompts that the encoder cut."""
    read: Callable[[int, int], np.ndarray]
    """read(start, stop) gives rows start … stop - 1 in any float type; can be pickled where workers are processes."""

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, rows: slice) -> np.ndarray:
        """float32 (k, d), a copy.

        Raises:
            ValueError: for a slice with a step.
        """
        start, stop, step = rows.indices(self.n)
        if step != 1:
            raise ValueError(f"vectors are read in order, but the slice has step {step}")
        return np.array(self.read(start, max(start, stop)), dtype=np.float32)

    def keep(self, mask: np.ndarray) -> Vectors:
        """The vectors where `mask` (bool, (n,)) holds, under a key of their own, without copying them."""
        places = np.flatnonzero(mask)
        key = make_key({"rows": hash_bytes([places.astype("<i8").tobytes()])}, [self.key], 1)
        read = _SomeRows(self.read, places)
        return Vectors(key, self.folder.parent / key, len(places), self.d, self.truncated, read)


@dataclass(frozen=True)
class _SomeRows:
    """Reads the rows at some places, which ascend; can be pickled where `read` can."""

    read: Callable[[int, int], np.ndarray]
    places: np.ndarray

    def __call__(self, start: int, stop: int) -> np.ndarray:
        places = self.places[start:stop]
        if not len(places):
            return self.read(0, 0)
        first = int(places[0])
        found: np.ndarray = self.read(first, int(places[-1]) + 1)[places - first]
        return found


class ShardReader:
    """Reads rows of vectors that lie in .npy files, each mapped when it is first needed; can be pickled."""

    def __init__(self, paths: Sequence[Path], shard_rows: int) -> None:
        self._paths, self._shard_rows = tuple(paths), shard_rows
        self._arrays: dict[int, np.ndarray] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardReader, (self._paths, self._shard_rows)

    def __call__(self, start: int, stop: int) -> np.ndarray:
        """Rows start … stop - 1; a view where they lie in one file."""
        numbers = range(start // self._shard_rows, max(start, stop - 1) // self._shard_rows + 1)
        firsts = [number * self._shard_rows for number in numbers]
        parts = [
            self._array(number)[max(0, start - first) : stop - first]
            for number, first in zip(numbers, firsts, strict=True)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _array(self, number: int) -> np.ndarray:
        if number not in self._arrays:
            self._arrays[number] = map_vectors(self._paths[number])
        return self._arrays[number]


def map_vectors(path: Path) -> np.ndarray:
    """A .npy file, mapped.

    Raises:
        UserError: where it is not there, as for a worker on another machine.
    """
    try:
        mapped: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: is not there on {platform.node()}",
            "vectors must lie on a file system that all machines share, under the same name",
        ) from error
    return mapped


@dataclass(frozen=True, eq=False)
class TaskStatistics:
    """Means of tasks and counts of distinct vectors, from one pass over the vectors."""

    task_means: np.ndarray
    """float32 (tasks, d): mean of a task's vectors over all template types, not normalised."""
    distinct: np.ndarray
    """int64 (tasks * templates,): distinct vectors in each group."""


def task_statistics(vectors: Vectors, offsets: np.ndarray, templates: int = len(TEMPLATES)) -> TaskStatistics:
    """Task means (stage 1 of the method) and distinct vectors per group, kept beside the vectors.

    Args:
        offsets: int64 (tasks * templates + 1,), group g being vectors offsets[g] … offsets[g + 1] - 1.
        templates: how many groups a task has.

    Raises:
        ValueError: where the offsets do not cover the vectors, or a task holds none.
    """
    ends = offsets[::templates]
    if offsets[0] != 0 or offsets[-1] != vectors.n or (len(offsets) - 1) % templates:
        raise ValueError(
            f"offsets {offsets[0]} … {offsets[-1]} do not cover {counted(vectors.n, 'vector')} in groups of {templates}"
        )
    if np.any(np.diff(ends) <= 0):
        raise ValueError(f"task {np.flatnonzero(np.diff(ends) <= 0)[0]} holds no vectors")
    layout = [] if templates == len(TEMPLATES) else [f"{templates} a task".encode()]
    groups = hash_bytes([offsets.astype("<i8").tobytes(), *layout])
    path, key = vectors.folder / f"summary-{groups[:16]}.sealed", f"{vectors.key}-{groups}"
    with owned(vectors.folder):
        content = read_sealed(path, key)
        if content is not None:
            with np.load(io.BytesIO(content)) as arrays:
                return TaskStatistics(arrays["task_means"], arrays["distinct"])
        statistics = _pass_over(vectors, offsets, templates)
        buffer = io.BytesIO()
        np.savez(buffer, task_means=statistics.task_means, distinct=statistics.distinct)
        write_sealed(path, key, buffer.getvalue())
    return statistics


def _pass_over(vectors: Vectors, offsets: np.ndarray, templates: int) -> TaskStatistics:
    groups = len(offsets) - 1
    sums = np.zeros((groups // templates, vectors.d))
    distinct = np.zeros(groups, dtype=np.int64)
    with progress(total=vectors.n, desc="Task means", unit="row") as bar:
        for group in range(groups):
            seen = [np.empty(0, np.uint64)]
            for start in range(offsets[group], offsets[group + 1], BLOCK):
                block = vectors[start : min(start + BLOCK, offsets[group + 1])]
                sums[group // templates] += block.sum(axis=0, dtype=np.float64)
                seen.append(row_hashes(block))
                bar.update(len(block))
            distinct[group] = len(np.unique(np.concatenate(seen)))
    sizes = np.diff(offsets[::templates])
    return TaskStatistics((sums / sizes[:, None]).astype(np.float32), distinct)
