"""Partition and merge: approximate, and close."""

import numpy as np
import pytest

from smart.submodular import FacilityLocation, GraphCut, LogDeterminant, Random, maximize, quality, regret
from tests.submodular.examples import clustered


def value(f, order):
    return regret(f, order).gains.sum()


@pytest.mark.parametrize("make", [FacilityLocation, LogDeterminant, GraphCut])
def test_keeps_most_of_what_exact_greedy_wins_over_random(make):
    f = make(clustered(600))
    exact = value(f, maximize(f, 30).order)
    chance = value(f, maximize(Random(600, seed=1), 30).order)
    chosen = maximize(f, 30, optimizer="partition", parts=4, seed=0)
    assert chosen.approximate
    assert chosen.optimizer == "partition"
    assert len(np.unique(chosen.order)) == 30
    assert 0.9 <= (value(f, chosen.order) - chance) / (exact - chance) <= 1.1


@pytest.mark.parametrize("budget", [1, 7, 25, 99, 100])
@pytest.mark.parametrize("parts", [1, 3, 8, 100])
def test_any_budget_and_number_of_parts_gives_distinct_rows(budget, parts):
    chosen = maximize(GraphCut(clustered(100)), budget, optimizer="partition", parts=parts)
    assert len(np.unique(chosen.order)) == len(chosen.order) == len(chosen.gains) == budget


def test_few_rows_make_fewer_parts_unless_a_number_was_asked_for():
    f = GraphCut(clustered(3))
    assert sorted(maximize(f, 3, optimizer="partition").order) == [0, 1, 2]
    with pytest.raises(ValueError, match="parts=8: must be from 1 to 3"):
        maximize(f, 3, optimizer="partition", parts=8)


def test_one_part_is_exact():
    f = FacilityLocation(clustered(200))
    np.testing.assert_array_equal(
        maximize(f, 50, optimizer="partition", parts=1).order, maximize(f, 50).order
    )


def test_the_seed_decides_the_parts():
    f = FacilityLocation(clustered(400))
    runs = [maximize(f, 60, optimizer="partition", seed=seed).order for seed in (0, 0, 1)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert (runs[0] != runs[2]).any()


@pytest.mark.parametrize("make", [FacilityLocation, LogDeterminant, GraphCut])
def test_a_full_order_begins_with_a_merge_and_goes_on_in_the_parts_orders(make):
    f = make(clustered(600))
    full = maximize(f, 600, optimizer="partition", parts=4, seed=0).order
    assert sorted(full.tolist()) == list(range(600))
    merged = 600 // 4**2
    for piece in np.array_split(np.random.default_rng(0).permutation(600), 4):
        piece = np.sort(piece)
        alone = piece[maximize(f.take(piece), len(piece)).order]
        rest = full[merged:]
        np.testing.assert_array_equal(rest[np.isin(rest, piece)], alone[~np.isin(alone, full[:merged])])
    for budget, least in ((merged, 0.9), (150, 0.3)):
        exact, chance = maximize(f, budget).order, maximize(Random(600, seed=1), budget).order
        assert quality(f, full[:budget], exact, chance) > least
        assert quality(f, exact, exact, chance) == 1.0
        assert quality(f, chance, exact, chance) == 0.0
