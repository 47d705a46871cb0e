from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smart.config import UserError
from smart.mixture import allocate, split_templates


def allocate_by_loop(weights: list[float], sizes: list[int], budget: int) -> list[int]:
    """One row at a time, as the method is told."""
    rows = [math.floor(budget * weight) for weight in weights]
    for position in range(budget - sum(rows)):
        rows[position] += 1
    excess = sum(max(row - size, 0) for row, size in zip(rows, sizes, strict=True))
    rows = [min(row, size) for row, size in zip(rows, sizes, strict=True)]
    while excess:
        for position, size in enumerate(sizes):
            if excess and rows[position] < size:
                rows[position] += 1
                excess -= 1
    return rows


def split_by_loop(budget: int, sizes: list[int]) -> list[int]:
    """Each group's exact share of its pair, rounded down for the second of the pair."""
    from fractions import Fraction

    def second(rows: int, first: int, other: int) -> int:
        return math.floor(Fraction(rows * other, first + other)) if other else 0

    few = second(budget, sizes[0] + sizes[1], sizes[2] + sizes[3])
    zero = budget - few
    zs_noopt, fs_noopt = second(zero, sizes[0], sizes[1]), second(few, sizes[2], sizes[3])
    return [zero - zs_noopt, zs_noopt, few - fs_noopt, fs_noopt]


@pytest.mark.parametrize(
    ("weights", "sizes", "budget", "expected"),
    [
        ([0.5, 0.3, 0.2], [9, 9, 9], 10, [5, 3, 2]),  # nothing left over
        ([0.4, 0.3, 0.3], [9, 9, 9], 5, [3, 1, 1]),  # floors 2, 1, 1; the remainder to the first
        ([1 / 3] * 3, [9, 9, 9], 8, [3, 3, 2]),  # a remainder of two
        (
            [1 / 49] * 49,
            [1] * 49,
            49,
            [1] * 49,
        ),  # 49 x (1/49) is below 1: every task gets its row as remainder
        ([0.8, 0.1, 0.1], [2, 9, 9], 10, [2, 4, 4]),  # 6 too many: three rounds of two
        ([0.8, 0.1, 0.1], [3, 9, 9], 10, [3, 4, 3]),  # 5 too many: the odd one to the first with room
        ([0.8, 0.1, 0.1], [2, 2, 9], 10, [2, 2, 6]),  # one fills up on the way
        ([1.0, 0.0, 0.0], [2, 9, 9], 4, [2, 1, 1]),  # weight zero: by position, where there is room to fill
        ([2.0, 1.0, 1.0], [9, 9, 9], 8, [4, 2, 2]),  # not normalised
        ([0.9, 0.1], [4, 5], 9, [4, 5]),  # everything
        ([0.5, 0.5], [4, 5], 0, [0, 0]),
        ([0.5, 0.5], [0, 5], 3, [0, 3]),  # an empty task
        ([1.0], [7], 7, [7]),
    ],
)
def test_allocate(weights: list[float], sizes: list[int], budget: int, expected: list[int]) -> None:
    rows = allocate(np.array(weights), np.array(sizes), budget)
    assert rows.tolist() == expected
    assert rows.dtype == np.int64


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_allocate_equals_the_loop(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 12))
    raw = data.draw(st.lists(st.floats(0, 1e6), min_size=n, max_size=n).filter(lambda w: sum(w) > 1e-9))
    sizes = data.draw(st.lists(st.integers(0, 60), min_size=n, max_size=n))
    budget = data.draw(st.integers(0, sum(sizes)))
    weights = np.array(raw) / np.sum(raw)
    rows = allocate(weights, np.array(sizes), budget)
    assert rows.tolist() == allocate_by_loop(weights.tolist(), sizes, budget)
    assert rows.sum() == budget
    assert (rows <= sizes).all()


def test_allocate_is_closed_form() -> None:
    # One row at a time this would be 1e12 steps.
    rows = allocate(np.array([1.0, 0.0, 0.0]), np.array([5, 10**12, 10**12]), 10**12)
    assert rows.tolist() == [5, 499_999_999_998, 499_999_999_997]


def test_a_budget_that_the_tasks_cannot_hold() -> None:
    with pytest.raises(
        UserError, match=r"budget=21: the 3 selected tasks can give 20 rows; ask for at most 20"
    ):
        allocate(np.ones(3) / 3, np.array([10, 5, 5]), 21)


@pytest.mark.parametrize("weights", [[0.5, -0.1, 0.6], [0.5, np.nan, 0.5], [np.inf, 0, 0], [0.0, 0.0, 0.0]])
def test_weights_that_are_none(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights must be finite, not negative and not all zero"):
        allocate(np.array(weights), np.array([3, 3, 3]), 3)


@pytest.mark.parametrize(("shape", "budget"), [((3,), -1), ((2,), 1), ((3, 1), 1)])
def test_arguments_that_do_not_fit(shape: tuple[int, ...], budget: int) -> None:
    with pytest.raises(ValueError, match="cannot divide"):
        allocate(np.ones(shape), np.array([3, 3, 3]), budget)


@pytest.mark.parametrize(
    ("budget", "sizes", "expected"),
    [
        (10, [6, 5, 4, 3], [4, 3, 2, 1]),  # few-shot floor(70/18) = 3, zero-shot 7; then floors 3 and 1
        (1, [1, 99, 99, 99], [1, 0, 0, 0]),  # every remainder goes to the first
        (1, [0, 0, 0, 3], [0, 0, 0, 1]),  # only what exists
        (5, [0, 9, 0, 9], [0, 3, 0, 2]),
        (49, [48, 0, 0, 1], [48, 0, 0, 1]),  # whole, though 49 x (1/49) is below 1 in floating point
        (0, [1, 2, 3, 4], [0, 0, 0, 0]),
        (0, [0, 0, 0, 0], [0, 0, 0, 0]),
    ],
)
def test_split_templates(budget: int, sizes: list[int], expected: list[int]) -> None:
    assert split_templates(budget, np.array(sizes)).tolist() == expected


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 300), min_size=4, max_size=4), st.floats(0, 1))
def test_split_templates_equals_exact_fractions(sizes: list[int], share: float) -> None:
    budget = round(share * sum(sizes))
    rows = split_templates(budget, np.array(sizes))
    assert rows.tolist() == split_by_loop(budget, sizes)
    assert rows.sum() == budget
    assert (rows <= sizes).all()


def test_split_templates_takes_all_tasks_at_once() -> None:
    sizes = np.random.default_rng(0).integers(0, 50, (30, 4))
    budgets = sizes.sum(axis=1) // 3
    rows = split_templates(budgets, sizes)
    assert rows.tolist() == [split_by_loop(int(b), s.tolist()) for b, s in zip(budgets, sizes, strict=True)]


@pytest.mark.parametrize("budget", [-1, 11])
def test_split_templates_refuses_what_a_task_does_not_hold(budget: int) -> None:
    with pytest.raises(ValueError, match="between 0 and the rows"):
        split_templates(budget, np.array([1, 2, 3, 4]))
