"""How a step is cut into micro-batches and dealt to processes: arithmetic."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smart.training.batching import MICRO_BATCH_COST, Batching

KINDS = {
    "count": Batching(8),
    "padded": Batching(8, tokens=8192),
    "packed": Batching(8, tokens=8192, packing=True),
}


def instruction_lengths(rows: int, seed: int = 0) -> np.ndarray:
    """Lengths like those of FLAN's prompts, median 145 and 90th percentile 490 tokens, with a tail to 4,096."""
    rng = np.random.default_rng(seed)
    lengths = rng.lognormal(math.log(145), math.log(490 / 145) / 1.2816, rows)
    tail = rng.random(rows) < 0.01
    lengths[tail] = np.exp(rng.uniform(math.log(1024), math.log(4096), tail.sum()))
    return np.clip(lengths, 3, 4096).astype(np.int64)


def tokens_of(batching: Batching, lengths: np.ndarray, world: int) -> np.ndarray:
    """Tokens computed, int64 (rounds, processes)."""
    return np.array(
        [[batching.computed(lengths[part]) for part in parts] for parts in batching.cut(lengths, world)]
    )


@given(
    lengths=st.lists(st.integers(1, 5000), min_size=1, max_size=80),
    world=st.integers(1, 9),
    tokens=st.sampled_from([None, 1, 300, 4096]),
    packing=st.booleans(),
)
def test_every_row_is_in_one_micro_batch_that_is_no_larger_than_asked(lengths, world, tokens, packing):
    sizes = np.array(lengths)
    batching = Batching(4, tokens, packing)
    rounds = batching.cut(sizes, world)
    assert all(len(parts) == world for parts in rounds)
    parts = [part for parts in rounds for part in parts]
    assert sorted(np.concatenate(parts)) == list(range(len(sizes)))
    for part in parts:
        if tokens is None:
            assert len(part) <= 4
        else:
            assert len(part) <= 1 or batching.computed(sizes[part]) <= tokens
    assert any(len(part) for part in rounds[-1])
    again = batching.cut(sizes, world)
    assert [part.tolist() for parts in again for part in parts] == [part.tolist() for part in parts]


def exhaustive(lengths: np.ndarray, limit: int) -> int:
    """The least padded tokens plus MICRO_BATCH_COST a micro-batch, by trying all cuts of the sorted rows."""
    lengths = np.sort(lengths)[::-1]
    costs = []
    for cut in itertools.product([False, True], repeat=len(lengths) - 1):
        parts = np.split(lengths, np.flatnonzero(cut) + 1)
        padded = [int(part[0]) * len(part) for part in parts]
        if all(cost <= limit or len(part) == 1 for cost, part in zip(padded, parts, strict=True)):
            costs.append(sum(padded) + MICRO_BATCH_COST * len(parts))
    return min(costs)


@given(
    lengths=st.lists(st.integers(1, 900), min_size=1, max_size=9), limit=st.sampled_from([500, 1000, 4000])
)
def test_on_one_process_padding_and_micro_batches_cost_least(lengths, limit):
    sizes = np.array(lengths)
    computed = tokens_of(Batching(8, limit), sizes, 1)
    assert computed.sum() + MICRO_BATCH_COST * len(computed) == exhaustive(sizes, limit)


@pytest.mark.parametrize(("kind", "bound"), [("packed", 1.05), ("padded", 1.15)])
@pytest.mark.parametrize("world", [1, 4, 8])
def test_processes_hardly_wait_for_each_other(kind, bound, world):
    lengths = instruction_lengths(64 * 60)
    slowest = ideal = 0
    for step in lengths.reshape(-1, 64):
        slowest += tokens_of(KINDS[kind], step, world).sum(0).max() * world
        ideal += max(step.sum(), world * step.max())
    assert 1 <= slowest / ideal <= bound


def test_packed_rows_take_as_few_micro_batches_as_can_be():
    for step in instruction_lengths(64 * 60).reshape(-1, 64):
        computed = tokens_of(KINDS["packed"], step, 1)
        assert len(computed) == math.ceil(step.sum() / 8192)


def test_the_longest_go_to_the_process_with_the_fewest_tokens():
    lengths = np.array([100, 90, 80, 70, 10, 10, 10, 10])
    computed = tokens_of(Batching(1), lengths, 2)
    assert computed.tolist() == [[100, 90], [70, 80], [10, 10], [10, 10]]
    assert computed.sum(0).tolist() == [190, 190]


def test_a_process_without_rows_gets_empty_micro_batches():
    rounds = Batching(8, tokens=1000).cut(np.array([900, 800]), 3)
    assert [[len(part) for part in parts] for parts in rounds] == [[1, 1, 0]]
