"""xxh3_64 of each text of a column, by compiled code: the package xxhash's own function, called for each text."""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.util import find_spec
from itertools import pairwise

import numpy as np
import pyarrow as pa
import xxhash

from smart.reading.hash_kernel import compiled


def text_hashes(column: pa.ChunkedArray) -> np.ndarray:
    """xxh3_64 of each text of a large_string column, uint64 (n,); the texts are not copied. Of null any number."""
    hashes = np.empty(len(column), np.uint64)
    start = 0
    for chunk in column.chunks:
        _, offsets, data = chunk.buffers()
        part = hashes[start : start + len(chunk)]
        start += len(chunk)
        if len(chunk) == 0:
            continue
        edges = np.frombuffer(offsets, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
        hash_spans(b"" if data is None else data, edges, part)
    return hashes


def row_hashes(X: np.ndarray) -> np.ndarray:
    """xxh3_64 of the bytes of each row of a matrix, uint64 (n,)."""
    X = np.ascontiguousarray(X)
    hashes = np.empty(len(X), np.uint64)
    edges = np.arange(len(X) + 1, dtype=np.int64) * X[:1].nbytes
    hash_spans(X.reshape(-1).view(np.uint8), edges, hashes)
    return hashes


def hash_spans(data: bytes | np.ndarray | pa.Buffer, edges: np.ndarray, into: np.ndarray) -> None:
    """xxh3_64 of data[edges[i]:edges[i + 1]] for each i, written to `into` (uint64)."""
    flat, edges = np.frombuffer(data, np.uint8), np.ascontiguousarray(edges)
    function = _library_function()
    if function is None:
        spans = pairwise(edges.tolist())
        into[:] = [xxhash.xxh3_64_intdigest(flat[start:stop].data) for start, stop in spans]
        return
    compiled()(function, flat.ctypes.data, edges.ctypes.data, len(into), into.ctypes.data)


@cache
def _library_function() -> int | None:
    """Where the package's library has its function; None where it does not show it."""
    spec = find_spec("xxhash._xxhash")
    try:
        function = ctypes.CDLL(spec.origin if spec else None).XXH3_64bits
    except (AttributeError, OSError):
        return None
    return ctypes.cast(function, ctypes.c_void_p).value
