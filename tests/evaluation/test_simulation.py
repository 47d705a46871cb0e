"""In simulations whose truth is known, intervals hold it and tests find nothing where nothing is; mutants don't."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.statistics import CASES, DRAWS, SPREADS, Case, draw_runs, group_case, look_case
from smart.evaluation import statistics
from smart.evaluation.statistics import SeedParts, Strata

NAMED = {case.name: case for case in CASES}


def failing(cases: list[Case], draws: int) -> dict[str, float]:
    rates = {case.name: case(draws) for case in cases if not case.limit}
    return {name: rate for name, rate in rates.items() if not NAMED[name].accepts(rate, draws)}


def test_every_case_in_short() -> None:
    assert failing(CASES, 600) == {}


@pytest.mark.full
@pytest.mark.parametrize("family", dict.fromkeys(case.family for case in CASES))
def test_every_case(family: str) -> None:
    assert failing([case for case in CASES if case.family == family], DRAWS) == {}


Patch = Callable[[pytest.MonkeyPatch], None]


def n_for_n_minus_1(patch: pytest.MonkeyPatch) -> None:
    right = Strata.within

    def within(self: Strata, deviations: np.ndarray, repeats: int = 1) -> np.ndarray:
        return right(self, deviations, repeats) * (self.sizes - 1) / self.sizes

    patch.setattr(Strata, "within", within)


def noise_of_runs_twice(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(statistics, "run_noise", lambda runs, strata: 0.0)


def z_for_t(patch: pytest.MonkeyPatch) -> None:
    right = statistics.t_quantile
    patch.setattr(statistics, "t_quantile", lambda freedom, level=0.05: right(freedom * 0 + 1e6, level))


def items_only(patch: pytest.MonkeyPatch) -> None:
    right = statistics.seed_parts

    def seed_parts(groups: list[np.ndarray], strata: Strata) -> SeedParts:
        parts = right(groups, strata)
        return SeedParts(parts.seeds * 0, parts.seed_freedom, parts.items, parts.item_freedom)

    patch.setattr(statistics, "seed_parts", seed_parts)


GROUPS = "groups: 69 tasks, 3 and 3 seeds,"
MUTANTS: list[tuple[Patch, str]] = [
    (n_for_n_minus_1, "one model: 57 × 2, right: 0.2 to 0.9"),
    (n_for_n_minus_1, "one model: 57 × 2, normal"),
    (n_for_n_minus_1, "pairs: 57 × 2, normal, found"),
    (noise_of_runs_twice, f"{GROUPS} noise"),
    (z_for_t, "one model: 1 × 8, normal"),
    (z_for_t, f"{GROUPS} seeds"),
    (items_only, f"{GROUPS} seeds"),
]


@pytest.mark.parametrize(("mutate", "name"), MUTANTS, ids=lambda x: getattr(x, "__name__", x))
def test_a_mutant_is_found(mutate: Patch, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = NAMED[name]
    assert case.accepts(case(DRAWS), DRAWS)
    mutate(monkeypatch)
    assert not case.accepts(case(DRAWS), DRAWS)


def test_bounds_on_z_find_too_much_at_looks() -> None:
    case = look_case(10, "seeds", SPREADS["seeds"], bounds_on_z=True)
    assert not case.accepts(case(600), 600)


def test_a_run_named_three_times_finds_too_much() -> None:
    """Why a run counts once, however often it is named."""
    case = group_case("69 tasks", (3, 3), "seeds", SPREADS["seeds"], [69], False)
    strata = Strata.of([69], "micro")

    def found(rng: np.random.Generator, draws: int) -> np.ndarray:
        first, second = (
            draw_runs(rng, draws, 1, [69], SPREADS["seeds"], False).repeat(3, axis=1) for _ in range(2)
        )
        (_, low, high), _ = statistics.group_bounds(first, second, strata, "number")
        return (low > 0) | (high < 0)

    copies = Case("groups", "copies", "seeds", "found", found)
    assert case.accepts(case(600), 600)
    assert not copies.accepts(copies(600), 600)
