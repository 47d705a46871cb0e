"""Intervals and tests against values worked out by hand, and against scipy where it has the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from scipy import stats

from smart.evaluation.statistics import (
    LEVEL,
    Difference,
    Interval,
    Strata,
    adjust,
    group_difference,
    holm,
    is_skewed,
    mean_interval,
    mean_score,
    mid_p,
    paired_difference,
    ratio_scores,
    run_noise,
    score_interval,
    seed_parts,
    spending_levels,
)

SIZES = (40, 60, 150)


def answers(rng: np.random.Generator, accuracy: float = 0.6) -> list[np.ndarray]:
    return [(rng.random(size) < accuracy).astype(float) for size in SIZES]


def bounds(interval: Interval) -> list[float]:
    return [interval.low, interval.high]


def test_micro_counts_items_and_macro_counts_subtasks() -> None:
    subtasks = [np.array([1.0, 0, 0, 0]), np.array([1.0, 1])]
    assert mean_score(subtasks, "micro") == pytest.approx(3 / 6)
    assert mean_score(subtasks, "macro") == pytest.approx((1 / 4 + 1) / 2)


def test_strata_have_satterthwaites_degrees_of_freedom() -> None:
    """The difference of two subtasks' means is Welch's, whose variance and freedom scipy has."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=7), rng.normal(scale=3, size=12)
    variance, freedom = Strata.of([7, 12], "macro").variance(np.concatenate([first, -second]))
    welch = stats.ttest_ind(first, second, equal_var=False)
    assert freedom == pytest.approx(welch.df)
    assert (first.mean() - second.mean()) / (4 * variance) ** 0.5 == pytest.approx(welch.statistic)


def test_a_subtask_of_one_item_takes_the_spread_of_the_others() -> None:
    strata = Strata.of([2, 3, 1], "micro")
    scores = np.array([0.0, 2, 1, 2, 3, 9])
    pooled = (2 + 2) / 3
    variance, _ = strata.variance(scores)
    assert variance == pytest.approx((4 * 2 / 2 + 9 * 1 / 3 + 1 * pooled) / 36)


def test_subtasks_of_one_item_each_are_one_sample() -> None:
    scores = [np.array([x]) for x in (0.0, 1, 1, 0, 1, 1, 1)]
    together = [np.concatenate(scores)]
    for average in ("micro", "macro"):
        assert score_interval(scores, average) == score_interval(together)
        assert paired_difference(scores, scores[::-1], average) == paired_difference(
            together, [together[0][::-1]]
        )


@pytest.mark.parametrize(("right", "items"), [(0, 4), (4, 4), (0, 1), (57, 57)])
def test_where_nothing_varies_the_interval_is_wilsons(right: int, items: int) -> None:
    scores = np.repeat([1.0, 0.0], [right, items - right])
    wilson = stats.binomtest(right, items).proportion_ci(method="wilson")
    assert bounds(score_interval([scores])) == pytest.approx([wilson.low, wilson.high])


def test_one_subtask_of_decisions_is_wilsons_of_one_item_less() -> None:
    """V has n − 1 where Wilson's own has n."""
    interval = score_interval([np.repeat([1.0, 0.0], [6, 4])])
    p, n, z = 0.6, 9, stats.norm.ppf(0.975)
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    assert bounds(interval) == pytest.approx([centre - reach, centre + reach])


def test_subtasks_that_are_all_right_or_all_wrong_still_leave_a_width() -> None:
    interval = score_interval([np.ones(10), np.zeros(30)])
    wilson = stats.binomtest(10, 40).proportion_ci(method="wilson")
    assert bounds(interval) == pytest.approx([wilson.low, wilson.high])


def test_numbers_have_the_interval_of_t() -> None:
    scores = np.random.default_rng(1).normal(size=9)
    expected = stats.ttest_1samp(scores, 0).confidence_interval()
    assert bounds(score_interval([scores])) == pytest.approx([expected.low, expected.high])


def test_a_loss_below_1_is_no_share() -> None:
    scores = [np.array([0.9, 0.99, 0.98, 0.97])]
    assert score_interval(scores, bounded=False).high > 1 > score_interval(scores).high


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [
        *((0, 0, 1), (5, 5, 1), (0, 5, 1 / 2**5), (0, 1, 0.5)),
        (1, 7, 2 * (1 + 8) / 2**8 - 8 / 2**8),
        (2, 8, 2 * (1 + 10 + 45) / 2**10 - 45 / 2**10),
    ],
)
def test_mid_p_equals_the_binomial_sum(gained: int, lost: int, p: float) -> None:
    assert mid_p(gained, lost) == pytest.approx(p)
    assert mid_p(lost, gained) == pytest.approx(p)


def test_pairing_finds_a_difference_that_two_separate_intervals_hide() -> None:
    first, second = [np.repeat([1.0, 0], [60, 40])], [np.repeat([1.0, 0], [52, 48])]
    difference = paired_difference(first, second)
    assert (difference.gained, difference.lost, difference.test) == (8, 0, "mid-p McNemar")
    assert difference.p == pytest.approx(1 / 2**8)
    assert difference.interval.low > 0
    assert score_interval(first).low < score_interval(second).high


def test_unequal_subtasks_under_the_macro_mean_have_no_mcnemar() -> None:
    first, second = answers(np.random.default_rng(2)), answers(np.random.default_rng(3))
    assert paired_difference(first, second, "macro").test == "paired t"
    even = [x[:40] for x in first], [x[:40] for x in second]
    assert paired_difference(*even, "macro").test == "mid-p McNemar"


def test_pairs_of_numbers_have_the_paired_t() -> None:
    rng = np.random.default_rng(4)
    first, second = rng.normal(0.5, size=12), rng.normal(size=12)
    difference, expected = paired_difference([first], [second]), stats.ttest_rel(first, second)
    assert difference.p == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval()
    assert bounds(difference.interval) == pytest.approx([interval.low, interval.high])


def test_few_decisions_that_differ_have_more_variance() -> None:
    """Bonett & Price (2012)."""
    first = np.array([1.0, 1, 0, 0, 0, 0, 0, 0])
    difference = paired_difference([first], [np.zeros(8)])
    variance = first.var(ddof=1) / 8 + 2 / 10**2
    reach = stats.t.ppf(0.975, 7) * variance**0.5
    assert bounds(difference.interval) == pytest.approx([0.25 - reach, 0.25 + reach])


def test_paired_scores_need_the_same_items() -> None:
    with pytest.raises(ValueError, match="same items"):
        paired_difference([np.ones(3)], [np.ones(4)])
    with pytest.raises(ValueError, match="same items"):
        group_difference([np.ones((3, 3))], [np.ones((3, 4))])


def test_runs_that_differ_in_their_seed_alone_are_welchs_groups() -> None:
    """All items of a run move together, so that they tell nothing of their own."""
    rng = np.random.default_rng(5)
    levels = rng.normal(size=3), rng.normal(scale=2, size=5)
    groups = [np.tile(level[:, None], (1, 8)) for level in levels]
    difference = group_difference([groups[0]], [groups[1]], bounded=False)
    welch = stats.ttest_ind(*levels, equal_var=False)
    assert difference.p == pytest.approx(welch.pvalue, rel=1e-6)
    interval = welch.confidence_interval()
    assert bounds(difference.interval) == pytest.approx([interval.low, interval.high])


def test_runs_that_agree_on_every_item_are_one_run() -> None:
    """Then the items alone tell: the paired t of the means over runs."""
    rng = np.random.default_rng(6)
    first, second = rng.normal(size=20), rng.normal(size=20)
    tiled = [np.tile(x, (3, 1)) for x in (first, second)]
    difference = group_difference([tiled[0]], [tiled[1]], bounded=False)
    assert difference.p == pytest.approx(stats.ttest_rel(first, second).pvalue, rel=1e-6)


def test_the_parts_of_a_groups_variance() -> None:
    """By hand, on two runs of three items."""
    runs, strata = np.array([[1.0, 2, 6], [2.0, 2, 11]]), Strata.of([3], "micro")
    residuals = runs - runs.mean(axis=0) - runs.mean(axis=1, keepdims=True) + runs.mean()
    noise = (residuals**2).sum() / (1 * 2) / (2 * 3)
    assert run_noise(runs, strata) == pytest.approx(noise)
    parts = seed_parts([runs], strata)
    assert parts.seeds == pytest.approx(np.var([3, 5], ddof=1) / 2)
    assert parts.items == pytest.approx(np.var([1.5, 2, 8.5], ddof=1) / 3 - noise)


@settings(max_examples=40, deadline=None)
@given(some.integers(0, 2**32 - 1), some.integers(3, 5), some.floats(0, 1.5))
def test_p_is_below_the_level_where_the_interval_leaves_out_0(seed: int, runs: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    items, seeds = rng.normal(size=(2, 1, 30)), rng.normal(scale=0.3, size=(2, runs, 1))
    first, second = items + seeds + rng.normal(scale=0.2, size=(2, runs, 30))
    difference = group_difference([first + shift], [second], bounded=False)
    assert difference.p is not None
    at = difference.interval
    assert (difference.p < LEVEL) == (not at.low <= 0 <= at.high)


def test_two_seeds_have_no_test_and_it_says_why() -> None:
    runs = [np.random.default_rng(7).normal(size=(2, 30))]
    difference = group_difference(runs, [np.tile(runs[0], (2, 1))])
    assert difference.p is None
    assert not difference.interval.known
    assert difference.test == "none: 2 and 4 seeds, 3 are needed"
    assert mean_interval(runs).low < runs[0].mean() < mean_interval(runs).high


def test_equal_groups_do_not_differ_and_constant_ones_do() -> None:
    same = [np.tile([1.0, 0, 1], (3, 1))]
    assert group_difference(same, same).p == 1
    one, other = [np.ones((3, 40))], [np.zeros((3, 40))]
    assert group_difference(one, other).p < 1e-9  # type: ignore[operator]
    assert group_difference(one, other, bounded=False).p == pytest.approx(2.0**-39)


def test_the_last_bits_of_sums_are_no_difference() -> None:
    rng = np.random.default_rng(7)
    for size in (3, 7, 59, 143):
        # Runs of one group are alike, and both groups are: whatever remains is rounding.
        same = [np.tile(rng.normal(3, 1, size), (3, 1)), np.tile(rng.normal(0, 1, 2 * size), (3, 1))]
        difference = group_difference(same, same)
        assert (difference.p, difference.interval.value) == (1, 0)


SUBTASKS = some.lists(some.integers(1, 4), min_size=1, max_size=5)
SHARES = some.sampled_from([0.0, 0.0, 0.1, 1 / 3, 0.9, 1.0, 1.0])
DECISIONS = some.sampled_from([0.0, 1.0])


def test_no_p_is_above_one() -> None:
    """Of equal numbers on both sides; of 3 and 3 the sums of the binomial's table give 1 + 2e-16."""
    found = [float(mid_p(n, n)) for n in range(40)]
    assert found == pytest.approx([1] * 40)
    assert max(found) <= 1


@settings(max_examples=60, deadline=None)
@given(some.data(), SUBTASKS, some.sampled_from([SHARES, DECISIONS]), some.sampled_from(["micro", "macro"]))
def test_no_interval_has_width_zero_or_leaves_its_range(data, sizes, values, average) -> None:
    def drawn(runs: int) -> list[np.ndarray]:
        numbers = data.draw(some.lists(values, min_size=runs * sum(sizes), max_size=runs * sum(sizes)))
        return np.split(np.array(numbers).reshape(runs, -1), np.cumsum(sizes)[:-1], axis=1)

    first, second = drawn(3), drawn(4)
    one, other = [x[0] for x in first], [x[0] for x in second]
    found = [score_interval(one, average), mean_interval(first, average)]
    differences = [paired_difference(one, other, average), group_difference(first, second, average)]
    differences.append(paired_difference(one, one, average))
    for lowest, interval in [(0, x) for x in found] + [(-1, x.interval) for x in differences]:
        assert lowest <= interval.low <= interval.value <= interval.high <= 1
        assert interval.high - interval.low > 1e-3
    assert all(x.p is not None and 0 <= x.p <= 1 for x in differences)


@pytest.mark.parametrize("scores", [np.full(5, 2.5), np.array([3.0]), np.full(7, 0.1 + 0.2)])
def test_numbers_that_do_not_vary_have_no_interval(scores: np.ndarray) -> None:
    """Nothing says on what scale they could have varied; and it is not an interval of width zero."""
    for interval in (
        score_interval([scores], bounded=False),
        mean_interval([np.tile(scores, (3, 1))], bounded=False),
        paired_difference([scores], [scores], bounded=False).interval,
        group_difference([np.tile(scores, (3, 1))], [np.tile(scores, (3, 1))], bounded=False).interval,
    ):
        assert not interval.known
        assert interval.as_json()["low"] is None
    assert paired_difference([scores], [scores], bounded=False).p == 1
    assert paired_difference([scores + 1], [scores], bounded=False).p == 2.0 ** (1 - len(scores))


def test_a_loss_per_token_varies_as_a_ratio_does() -> None:
    """Cochran (1977), equation 2.46: Σ (y − R x)² / (n − 1) / (n x̄²)."""
    rng = np.random.default_rng(8)
    tokens = rng.integers(1, 50, 30).astype(float)
    losses = tokens * (2 + rng.normal(scale=0.1, size=30))
    scores, ratio = ratio_scores(losses, tokens), losses.sum() / tokens.sum()
    assert scores.mean() == pytest.approx(ratio)
    expected = ((losses - ratio * tokens) ** 2).sum() / 29 / (30 * tokens.mean() ** 2)
    assert scores.var(ddof=1) / 30 == pytest.approx(expected)
    assert losses.var(ddof=1) / (30 * tokens.mean() ** 2) > 50 * expected, "what losses alone vary by"


@pytest.mark.parametrize(
    ("most", "levels"),
    [
        (5, [0.0114, 0.0244, 0.0392]),
        (6, [0.0056, 0.0144, 0.0257, 0.0376]),
        (10, [0.0003, 0.0018, 0.0049, 0.0093, 0.0148, 0.0209, 0.0273, 0.0339]),
    ],
)
def test_spending_levels_from_three_seeds_on(most: int, levels: list[float]) -> None:
    assert spending_levels([k / most for k in range(3, most + 1)]) == pytest.approx(levels, abs=6e-5)


def test_spending_levels_spend_what_they_should() -> None:
    """The chance to cross any of the bounds, by an integral of scipy's, is the whole level."""
    times = np.array([0.4, 0.7, 1.0])
    z = stats.norm.isf(spending_levels(times) / 2)
    correlations = np.sqrt(np.minimum.outer(times, times) / np.maximum.outer(times, times))
    inside = stats.multivariate_normal(cov=correlations, seed=0).cdf(z, lower_limit=-z)
    assert 1 - inside == pytest.approx(0.05, abs=1e-4)
    assert spending_levels([1.0]) == pytest.approx([0.05])
    with pytest.raises(ValueError, match="must grow"):
        spending_levels([0.5, 0.5])


def test_skewed_scores_are_marked_where_they_are_few() -> None:
    rng = np.random.default_rng(9)
    assert is_skewed(rng.lognormal(size=30), "number")
    assert not is_skewed(rng.lognormal(size=5_000), "number")
    assert not is_skewed(rng.normal(size=30), "number")
    assert not is_skewed(np.repeat([1.0, 0.0], [1, 29]), "decision"), "Wilson's form is for these"
    assert score_interval([rng.lognormal(size=30)]).skewed


def test_holm_equals_the_definition() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == pytest.approx([1, 1])
    assert len(holm([])) == 0


def test_what_has_no_test_does_not_count_among_the_tests() -> None:
    nothing = Interval(0, -np.inf, np.inf)
    listed = [Difference(nothing, p, "a test") for p in (0.01, None, 0.03)]
    assert adjust(listed) == [pytest.approx(0.02), None, pytest.approx(0.03)]
