import numpy as np
import pyarrow as pa
import pytest

from smart.embedding import Prompts

from .examples import prompts


def test_take_gives_the_texts_in_order_over_chunks_slices_and_empty_chunks() -> None:
    texts = [f"text {i} äß" * (i % 5) for i in range(40)]
    chunks = [pa.array(texts)[:7], pa.array(texts)[7:30], pa.array([], pa.string()), pa.array(texts)[30:]]
    order = np.random.default_rng(1).integers(0, 40, 60)
    pool = Prompts(pa.chunked_array(chunks), order, np.arange(40), 40)
    for start, stop in ((0, 60), (13, 14), (13, 47), (50, 99)):
        assert pool.take(start, stop).to_pylist() == [texts[i] for i in order[start:stop]]


def test_hash_depends_on_texts_and_order_but_not_on_how_they_lie_in_memory() -> None:
    order, rows = np.array([2, 0, 1]), np.arange(3)

    def hashed(texts: list[str], order: np.ndarray = order, kind: str = "string", cut: int = 0) -> str:
        chunks = [pa.array(texts[:cut], kind), pa.array(["cut off", *texts[cut:]], kind)[1:]]
        return Prompts(pa.chunked_array(chunks), order, rows, 3).text_hash

    base = hashed(["a", "bc", "d"])
    assert base == hashed(["a", "bc", "d"], cut=2) == hashed(["a", "bc", "d"], kind="large_string")
    changed = [
        hashed(["a", "b", "cd"]),
        hashed(["a", "bc", "e"]),
        hashed(["a", "bc", "d"], np.array([0, 1, 2])),
    ]
    assert len({base, *changed}) == 4


def test_row_numbers_follow_the_order() -> None:
    pool = prompts()
    np.testing.assert_array_equal(pool.row_numbers(), 2 * pool.order)
    np.testing.assert_array_equal(pool.row_numbers(np.array([3, 1])), 2 * pool.order[[3, 1]])


def test_no_prompts_null_prompts_and_missing_row_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="no prompts"):
        Prompts(pa.chunked_array([["a"]]), np.arange(0), np.arange(1), 2)
    with pytest.raises(ValueError, match="null in 1 prompt"):
        Prompts(pa.chunked_array([["a", None]]), np.arange(2), np.arange(2), 2)
    with pytest.raises(ValueError, match="2 prompts, but 3 row numbers"):
        Prompts(pa.chunked_array([["a", "b"]]), np.arange(2), np.arange(3), 3)
