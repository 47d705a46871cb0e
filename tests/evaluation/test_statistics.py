"""Intervals and tests, against values worked out by hand and against simulations in which the truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from smart.evaluation import statistics
from smart.evaluation.statistics import (
    group_difference,
    holm,
    mcnemar,
    mean_score,
    paired_difference,
    score_interval,
)

SIZES = (40, 60, 150)


@pytest.fixture
def few_draws(monkeypatch):
    monkeypatch.setattr(statistics, "DRAWS", 400)


def answers(rng: np.random.Generator, accuracy: float = 0.6) -> list[np.ndarray]:
    return [(rng.random(size) < accuracy).astype(float) for size in SIZES]


def test_micro_counts_items_and_macro_counts_subtasks():
    subtasks = [np.array([1.0, 0, 0, 0]), np.array([1.0, 1])]
    assert mean_score(subtasks, "micro") == pytest.approx(3 / 6)
    assert mean_score(subtasks, "macro") == pytest.approx((1 / 4 + 1) / 2)


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [(0, 0, 1), (5, 5, 1), (0, 5, 2 / 2**5), (1, 7, 2 * (1 + 8) / 2**8), (2, 8, 2 * (1 + 10 + 45) / 2**10)],
)
def test_mcnemar_equals_the_binomial_sum(gained, lost, p):
    assert mcnemar(gained, lost) == pytest.approx(p)
    assert mcnemar(lost, gained) == pytest.approx(p)


def test_holm_equals_the_definition():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == pytest.approx([1, 1])
    assert len(holm([])) == 0


@pytest.mark.parametrize("average", ["micro", "macro"])
def test_intervals_equal_those_of_a_plain_bootstrap(average):
    rng = np.random.default_rng(1)
    subtasks = answers(rng)
    plain = [
        mean_score([rng.choice(scores, len(scores)) for scores in subtasks], average) for _ in range(4_000)
    ]
    interval = score_interval(subtasks, average)
    assert [interval.low, interval.high] == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=0.006)
    assert interval.value == mean_score(subtasks, average)


def test_items_are_resampled_within_their_subtasks():
    # Each subtask is all right or all wrong, so within them nothing can vary.
    interval = score_interval([np.ones(10), np.zeros(30)])
    assert (interval.low, interval.value, interval.high) == (0.25, 0.25, 0.25)


def test_pairing_finds_a_difference_that_two_separate_intervals_hide():
    first = [np.array([1.0] * 60 + [0.0] * 40)]
    second = [np.array([1.0] * 52 + [0.0] * 48)]
    difference = paired_difference(first, second)
    assert (difference.gained, difference.lost, difference.test) == (8, 0, "exact McNemar")
    assert difference.p == pytest.approx(2 / 2**8)
    assert difference.interval.low > 0
    assert score_interval(first).low < score_interval(second).high


def test_scores_that_are_no_decisions_are_bootstrapped():
    rng = np.random.default_rng(2)
    second = [rng.normal(size=size) for size in SIZES]
    difference = paired_difference([scores + 0.5 for scores in second], second)
    assert difference.test == "paired bootstrap"
    assert difference.interval.value == pytest.approx(0.5)
    assert difference.p < 0.01
    assert paired_difference(second, second).p == 1


def test_paired_scores_need_the_same_items():
    with pytest.raises(ValueError, match="same items"):
        paired_difference([np.ones(3)], [np.ones(4)])
    with pytest.raises(ValueError, match="same items"):
        group_difference([np.ones((3, 3))], [np.ones((3, 4))])


def test_one_seed_is_no_group():
    with pytest.raises(ValueError, match="at least 2 seeds"):
        group_difference([np.ones((1, 3))], [np.ones((3, 3))])


def test_equal_groups_do_not_differ_and_constant_ones_do():
    same = [np.tile([1.0, 0, 1], (3, 1))]
    assert group_difference(same, same).p == 1
    assert group_difference([np.ones((3, 4))], [np.zeros((3, 4))]).p == 0


def test_the_last_bits_of_sums_are_no_difference():
    rng = np.random.default_rng(7)
    for size in (3, 7, 59, 143):
        # Runs of one group are alike, and both groups are: whatever remains is rounding.
        same = [np.tile(rng.normal(3, 1, size), (3, 1)), np.tile(rng.normal(0, 1, 2 * size), (3, 1))]
        difference = group_difference(same, same)
        assert (difference.p, difference.interval.value) == (1, 0)


def test_the_same_seed_gives_the_same_numbers():
    subtasks = answers(np.random.default_rng(3))
    assert score_interval(subtasks) == score_interval(subtasks)


def runs(
    rng: np.random.Generator, difficulty: list[np.ndarray], seeds: int, effect: float
) -> list[np.ndarray]:
    """Right and wrong answers of runs that differ by a random effect each, on items that differ in difficulty."""
    shift = effect + rng.normal(scale=0.05, size=(seeds, 1))
    return [(rng.random((seeds, len(d))) < np.clip(d + shift, 0, 1)).astype(float) for d in difficulty]


def coverage(trials: int) -> float:
    rng = np.random.default_rng(4)
    means = (0.3, 0.5, 0.8)
    truth = np.average(means, weights=SIZES)
    covered = 0
    for trial in range(trials):
        subtasks = [(rng.random(size) < mean).astype(float) for size, mean in zip(SIZES, means, strict=True)]
        interval = score_interval(subtasks, seed=trial)
        covered += interval.low <= truth <= interval.high
    return covered / trials


def false_positives(trials: int) -> float:
    rng = np.random.default_rng(5)
    return float(
        np.mean([paired_difference(answers(rng), answers(rng), seed=i).p < 0.05 for i in range(trials)])
    )


def group_coverage(trials: int, effect: float, draws: int = 200) -> tuple[float, float]:
    """How often the interval holds the effect, and how often p < 0.05."""
    rng = np.random.default_rng(6)
    covered = found = 0
    for trial in range(trials):
        difficulty = [rng.uniform(0.2, 0.7, size) for size in SIZES]
        first, second = (runs(rng, difficulty, 3, shift) for shift in (effect, 0.0))
        difference = group_difference(first, second, seed=trial, draws=draws)
        covered += difference.interval.low <= effect <= difference.interval.high
        found += difference.p < 0.05
    return covered / trials, found / trials


def test_in_a_short_simulation_the_truth_lies_inside_and_nothing_is_found_where_nothing_is(few_draws):
    assert 0.91 <= coverage(300) <= 0.985
    assert false_positives(300) <= 0.08
    covered, found = group_coverage(150, effect=0.0)
    assert covered >= 0.90
    assert found <= 0.10
    assert group_coverage(40, effect=0.4)[1] >= 0.95


@pytest.mark.full
def test_in_a_long_simulation_coverage_and_false_positives_are_as_promised(few_draws):
    assert 0.935 <= coverage(4_000) <= 0.965
    assert false_positives(4_000) <= 0.058
    covered, found = group_coverage(3_000, effect=0.1)
    assert covered >= 0.94
    covered, found = group_coverage(3_000, effect=0.0)
    assert covered >= 0.94
    assert found <= 0.06
