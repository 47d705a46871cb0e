"""Labels and texts of a collection as integer arrays: codes, duplicates, and one hash of it all."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from smart.collection.schema import LABELS, TEXTS
from smart.reading import CONVERSATION, RowView, text_hashes, whole_numbers
from smart.runtime.files import hash_bytes

_MIX = np.uint64(0x9E3779B97F4A7C15)
"""Of Knuth's multiplicative hashing: 2^64 divided by the golden ratio."""


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


def hash_texts(rows: RowView) -> tuple[np.ndarray, ...]:
    """xxh3_64, uint64 (n,), of both texts of each row, and of its conversation where there are any."""
    names = [name for name in (*TEXTS, CONVERSATION) if name in rows.texts.column_names]
    whole = len(rows) == len(rows.texts)
    hashes = (text_hashes(rows.texts[name]) for name in names)
    return tuple(found if whole else found[rows.positions] for found in hashes)


def later_copies(labels: pa.Table, hashes: tuple[np.ndarray, ...]) -> np.ndarray:
    """bool (n,): rows whose (task, template, inputs, targets, conversation) stood in an earlier row.

    Args:
        hashes: of the inputs, the targets and, with turns, the conversations. They are at least 128 bits together: a
            chance match among 18 million rows has probability below 1e-23.
    """
    mixed = np.zeros(len(labels), np.uint64)
    for part in (*(codes(labels[name])[1].view(np.uint64) for name in LABELS), *hashes):
        mixed *= _MIX
        mixed ^= mixed >> np.uint64(29)
        mixed += part
    order = np.argsort(mixed, kind="stable")  # so the first of equal rows comes first
    same = np.flatnonzero(mixed[order[1:]] == mixed[order[:-1]])
    suspects = np.unique(
        order[np.concatenate([same, same + 1])]
    )  # few: all the other rows have a mix of their own
    keys = [codes(labels[name])[1][suspects] for name in LABELS] + [part[suspects] for part in hashes]
    by_key = np.lexsort(keys)  # stable, too
    equal = np.logical_and.reduce([key[by_key[1:]] == key[by_key[:-1]] for key in keys])
    copies = np.zeros(len(labels), bool)
    copies[suspects[by_key[1:]][equal]] = True
    return copies


def fingerprint(labels: pa.Table, hashes: tuple[np.ndarray, ...]) -> str:
    """Hash of a split's rows in order, whatever its chunks and the order of its dictionaries.

    Args:
        labels: LABELS, and row.
        hashes: of the texts.
    """

    def parts() -> Iterator[bytes | memoryview]:
        for name in LABELS:
            values, code = codes(labels[name])
            yield "\0".join(values).encode()
            yield code.tobytes()
        for array in hashes:
            yield array.tobytes()
        yield whole_numbers(labels["row"]).tobytes()

    return hash_bytes(parts())
