"""Arrow tables of a collection: codes, hashes, duplicates and row filters, without copying texts."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import xxhash

from smart.collection.schema import LABELS, TEXTS
from smart.reading import CONVERSATION
from smart.runtime.files import hash_bytes


def codes(column: pa.ChunkedArray) -> tuple[list[str], np.ndarray]:
    """The distinct values of a label column sorted, and for each row (int64) which of them it has."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    encoded = column.unify_dictionaries()
    if encoded.num_chunks == 0:
        return [], np.empty(0, np.int64)
    stored = np.concatenate([chunk.indices.to_numpy(zero_copy_only=False) for chunk in encoded.chunks])
    values = encoded.chunk(0).dictionary.to_pylist()
    used = np.flatnonzero(np.bincount(stored, minlength=len(values)))
    used = np.array(sorted(used.tolist(), key=values.__getitem__), np.int64)
    rank = np.zeros(len(values), np.int64)
    rank[used] = np.arange(len(used))
    return [values[index] for index in used], rank[stored]


def text_hashes(column: pa.ChunkedArray) -> np.ndarray:
    """xxh3_64 of each text of a large_string column without nulls, uint64 (n,); the texts are not copied."""
    parts = [np.fromiter(_hash_chunk(chunk), np.uint64, len(chunk)) for chunk in column.chunks]
    return np.concatenate([np.empty(0, np.uint64), *parts])


def _hash_chunk(chunk: pa.LargeStringArray) -> list[int]:
    _, offsets, data = chunk.buffers()
    if len(chunk) == 0 or data is None:
        return [xxhash.xxh3_64_intdigest(b"")] * len(chunk)
    edges = np.frombuffer(offsets, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
    view, digest = memoryview(data), xxhash.xxh3_64_intdigest
    return [digest(view[start:stop]) for start, stop in pairwise(edges.tolist())]


def later_copies(table: pa.Table, hashes: tuple[np.ndarray, ...]) -> np.ndarray:
    """bool (n,): rows whose (task, template, inputs, targets, conversation) stood in an earlier row.

    Args:
        hashes: text_hashes of the inputs, the targets and, with turns, the conversations. They are at least 128 bits
            together: a chance match among 18 million rows has probability below 1e-23.
    """
    keys = [codes(table[name])[1] for name in LABELS] + list(hashes)
    order = np.lexsort(keys)  # stable, so the first of equal rows comes first
    copies = np.zeros(len(order), bool)
    copies[order[1:]] = np.logical_and.reduce([key[order[1:]] == key[order[:-1]] for key in keys])
    return copies


def fingerprint(table: pa.Table, hashes: tuple[np.ndarray, ...]) -> str:
    """Hash of a split's rows in order, whatever its chunks and the order of its dictionaries."""
    parts: list[bytes | memoryview] = []
    for name in LABELS:
        values, code = codes(table[name])
        parts += ["\0".join(values).encode(), code.tobytes()]
    parts += [array.tobytes() for array in hashes]
    return hash_bytes([*parts, table["row"].to_numpy().tobytes()])


def hash_texts(table: pa.Table) -> tuple[np.ndarray, ...]:
    """text_hashes of both text columns, and of the conversations, where there are any."""
    return tuple(text_hashes(table[name]) for name in (*TEXTS, CONVERSATION) if name in table.column_names)


def keep_rows(table: pa.Table, keep: np.ndarray) -> pa.Table:
    """The rows where `keep` (bool, (n,)) holds, in order.

    Where few rows of a batch go, what stays is a view of it, so that a table mapped from disk stays on disk.
    """
    if keep.all():
        return table
    batches, start = [], 0
    for batch in table.to_batches():
        batches += _keep_of_batch(batch, keep[start : start + len(batch)])
        start += len(batch)
    return pa.Table.from_batches(batches, table.schema)


def _keep_of_batch(batch: pa.RecordBatch, keep: np.ndarray) -> list[pa.RecordBatch]:
    edges = np.flatnonzero(np.diff(keep, prepend=False, append=False))
    runs = edges.reshape(-1, 2).tolist()
    if len(runs) > 1 + len(keep) // 16:  # many short runs: a copy is smaller than the views would be
        return [batch.filter(pa.array(keep))]
    return [batch.slice(start, stop - start) for start, stop in runs]
