from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from smart.mixture import sample_validation
from smart.mixture.rows import shuffle
from smart.reading import RowView


def split(**sizes: int) -> RowView:
    names = [name for name, size in sizes.items() for _ in range(size)]
    labels = {"submixture": ["s"] * len(names), "task_name": names, "row": np.arange(len(names))}
    return RowView.of(pa.table(labels))


def counts(rows: RowView) -> dict[str, int]:
    return dict(Counter(rows.labels["task_name"].to_pylist()))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (1, {"c": 1}),  # fewer rows than tasks: the largest tasks
        (2, {"c": 1, "b": 1}),
        (3, {"a": 1, "b": 1, "c": 1}),
        (13, {"a": 1, "b": 3, "c": 9}),  # one each; of the other 10 floors 7 and 2, the odd one to c
        (99, {"a": 2, "b": 28, "c": 69}),
        (100, {"a": 2, "b": 28, "c": 70}),
        (101, {"a": 2, "b": 28, "c": 70}),  # all there is
    ],
)
def test_validation_sizes(rows: int, expected: dict[str, int]) -> None:
    assert counts(sample_validation(split(a=2, b=28, c=70), rows, seed=23)) == expected


def test_validation_sample_is_random_within_a_task_and_fixed_by_the_seed() -> None:
    pool = split(a=500, b=1500)
    first = sample_validation(pool, 200, seed=23)
    assert first.labels.equals(sample_validation(pool, 200, seed=23).labels)
    assert not first.labels.equals(sample_validation(pool, 200, seed=24).labels)
    rows = first.rows
    assert (np.diff(rows) > 0).all()
    assert abs(rows[rows < 500].mean() - 250) < 60
    assert abs(rows[rows >= 500].mean() - 1250) < 100


def test_equal_task_names_in_two_submixtures_are_two_tasks() -> None:
    labels = {"submixture": ["x"] * 8 + ["y"] * 8, "task_name": ["t"] * 16, "row": np.arange(16)}
    kept = sample_validation(RowView.of(pa.table(labels)), 4, seed=0).labels["submixture"].to_pylist()
    assert Counter(kept) == {"x": 2, "y": 2}


def test_validation_takes_dictionary_columns_in_chunks() -> None:
    plain = split(a=20, b=30).labels
    coded = plain.set_column(1, "task_name", plain["task_name"].dictionary_encode())
    chunked = pa.concat_tables([coded.slice(0, 25), coded.slice(25)])
    kept, wanted = (sample_validation(RowView.of(table), 10, seed=1).rows for table in (chunked, plain))
    assert kept.tolist() == wanted.tolist()


def test_shuffle_depends_on_the_set_and_the_seed() -> None:
    rows = np.random.default_rng(0).permutation(1000)[:300] * 3
    shuffled = rows[shuffle(rows, 23)]
    again = np.sort(rows)
    np.testing.assert_array_equal(shuffled, again[shuffle(again, 23)])
    np.testing.assert_array_equal(np.sort(shuffled), again)
    assert (shuffled != again).any()
    assert (shuffled != rows[shuffle(rows, 24)]).any()
