"""Which examples make a step: arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from smart.training.batching import Batching
from smart.training.order import Order, make_stream


def make_order(rows=100, examples=100, batch=16, micro=4, world=1, seed=5) -> Order:
    lengths = np.random.default_rng(0).integers(5, 300, rows)
    return Order(make_stream(rows, examples, seed), lengths, batch, Batching(micro), world)


def test_every_row_once_an_epoch():
    stream = make_stream(10, 25, seed=3)
    assert sorted(stream[:10]) == sorted(stream[10:20]) == list(range(10))
    assert len(set(stream[20:])) == 5
    assert stream[:10].tolist() != stream[10:20].tolist()
    np.testing.assert_array_equal(stream, make_stream(10, 25, seed=3))
    assert stream.tolist() != make_stream(10, 25, seed=4).tolist()


def test_a_longer_run_begins_like_a_shorter_one():
    np.testing.assert_array_equal(make_stream(10, 25, seed=3)[:7], make_stream(10, 7, seed=3))


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("micro", [1, 2, 4])
@pytest.mark.parametrize("examples", [16, 100, 97, 3, 161])
def test_steps_hold_the_same_examples_however_they_are_cut(world, micro, examples):
    order = make_order(examples=examples, micro=micro, world=world)
    for step in range(order.steps):
        rounds = order.step(step)
        assert all(len(parts) == world for parts in rounds)
        assert max(len(part) for parts in rounds for part in parts) <= micro
        together = np.concatenate([part for parts in rounds for part in parts])
        assert sorted(together) == sorted(order.stream[step * 16 : (step + 1) * 16])
        if (step + 1) * 16 <= examples:
            assert {len(part) for parts in rounds for part in parts} == {micro}


def micro_batches(order: Order, rank: int = 0) -> list[np.ndarray]:
    return [rows for step in range(order.steps) for rows in order.micro_batches(step, rank)]


def test_ranks_take_equally_many_micro_batches_and_like_lengths():
    order = make_order(rows=400, examples=397, batch=64, world=2)
    first, second = micro_batches(order), micro_batches(order, 1)
    assert len(first) == len(second)
    assert sum(map(len, first)) + sum(map(len, second)) == 397
    longest = [[max(order.lengths[rows]) for rows in rank if len(rows)] for rank in (first, second)]
    assert np.mean(np.abs(np.array(longest[0]) - np.array(longest[1]))) < 30


def test_like_lengths_share_a_micro_batch():
    order = make_order(rows=512, examples=512, batch=64, micro=8)
    padded = sum(len(rows) * max(order.lengths[rows]) for rows in micro_batches(order))
    rows = order.stream.reshape(-1, 8)
    unsorted = sum(8 * max(order.lengths[batch]) for batch in rows)
    tokens = order.lengths[order.stream].sum()
    assert padded / tokens < 1.15 < 1.5 < unsorted / tokens
