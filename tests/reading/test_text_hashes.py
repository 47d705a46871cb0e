"""Hashes of texts are those of the package xxhash, by the compiled loop and without it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import xxhash

from smart.reading import row_hashes, text_hashes
from smart.reading.text_hashes import hash_spans

TEXTS = ["", "a", "é" * 100, "a", "b", "x" * 239, "x" * 241, "日本" * 5000]


@pytest.fixture(params=["compiled", "plain"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "plain":
        monkeypatch.setitem(hash_spans.__globals__, "_library_function", lambda: None)
    return request.param


def test_hashes_are_the_packages_own_over_chunks_slices_and_nulls(way: str) -> None:
    sliced = pa.array(["other", *TEXTS, None, "x"], pa.large_string()).slice(1, len(TEXTS) + 1)
    pieces = pa.chunked_array(
        [sliced.slice(0, 2), sliced.slice(2, 0), sliced.slice(2), pa.array([""], sliced.type)]
    )
    hashes = text_hashes(pieces)
    assert len(hashes) == len(TEXTS) + 2
    wanted = [xxhash.xxh3_64_intdigest(text.encode()) for text in TEXTS]
    assert hashes[: len(TEXTS)].tolist() == wanted
    assert hashes[-1] == wanted[0]


def test_hashes_of_rows_of_a_matrix(way: str) -> None:
    X = np.random.default_rng(0).random((5, 7)).astype(np.float32)
    wanted = [xxhash.xxh3_64_intdigest(row.tobytes()) for row in X]
    assert row_hashes(X).tolist() == row_hashes(np.asfortranarray(X)).tolist() == wanted
    assert len(row_hashes(X[:0])) == 0


def test_the_library_shows_its_function() -> None:
    """Where it doesn't, hashing is right and slow; the wheels of xxhash do."""
    assert hash_spans.__globals__["_library_function"]() is not None
