"""What the intervals and tests of smart.evaluation.statistics hold, in simulations whose truth is known.

    python -m benchmarks.statistics               # 10,000 draws a case; writes the tables of docs/statistics.md
    python -m benchmarks.statistics --draws 600   # quicker, and printed only

Each case draws data sets in which the true mean or difference is known, and counts how often a 95 % interval holds it,
or how often a test at 5 % finds a difference where there is none.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.submodular import processor
from smart.evaluation import statistics
from smart.evaluation.statistics import Average, Kind, Strata

DOCUMENT = Path(__file__).parents[1] / "docs" / "statistics.md"
DRAWS = 10_000
ACCEPTED = {"held": ((0.922, 0.978), (0.90, 0.99)), "found": ((0.025, 0.067), (0.01, 0.09))}
"""Rates with all draws, and with the 600 of a short run."""
_CHUNK = 500

Generator = np.random.Generator
Hits = np.ndarray
"""bool (draws,)"""
Rate = Literal["held", "found"]


@dataclass(frozen=True)
class Case:
    family: str
    row: str
    column: str
    rate: Rate
    """How often the interval holds the truth, or the test finds what is not there."""
    draw: Callable[[Generator, int], Hits]
    """(generator, draws) → for each data set, whether it did."""
    limit: str = ""
    """Why the accepted rates can't be had here; empty where they must be."""

    @property
    def name(self) -> str:
        return f"{self.family}: {self.row}, {self.column}"

    def __call__(self, draws: int) -> float:
        """The rate, the same each time."""
        rng = np.random.default_rng(list(self.name.encode()))
        sizes = [min(_CHUNK, draws - start) for start in range(0, draws, _CHUNK)]
        return float(np.concatenate([self.draw(rng, size) for size in sizes]).mean())

    def accepts(self, rate: float, draws: int) -> bool:
        low, high = ACCEPTED[self.rate][draws < DRAWS]
        return low <= rate <= high


# One model


def _holds(bounds: statistics.Bounds, truth: float | np.ndarray) -> Hits:
    _, low, high = bounds
    return (low <= truth) & (truth <= high)


UNEQUAL = tuple(np.linspace(3, 55, 27).astype(int))
SKEWED = "few and skewed: too narrow, and marked in reports"


def one_model() -> list[Case]:
    def decisions(
        row: str, sizes: Sequence[int], accuracy: tuple[float, float], average: Average = "micro"
    ) -> Case:
        strata = Strata.of(sizes, average)
        levels = np.random.default_rng(0).permutation(np.linspace(*accuracy, len(sizes)))
        weights = strata.weights if len(strata.weights) == len(sizes) else np.full(len(sizes), 1 / len(sizes))

        def draw(rng: Generator, draws: int) -> Hits:
            # One subtask has another accuracy in each draw: how often an interval holds a single one is up to chance.
            each = rng.uniform(*accuracy, (draws, 1)) if len(sizes) == 1 else levels[None]
            answers = rng.random((draws, sum(sizes))) < np.repeat(each, sizes, axis=1)
            return _holds(statistics.score_bounds(answers.astype(float), strata, "decision"), each @ weights)

        low = f"{accuracy[0]} to {accuracy[1]}"
        return Case("one model", row, f"right: {low}", "held", draw)

    def others(row: str, column: str, sizes: Sequence[int], kind: Kind, scores: Scorer) -> Case:
        strata = Strata.of(sizes, "micro")

        def draw(rng: Generator, draws: int) -> Hits:
            drawn, truth = scores(rng, (draws, strata.items))
            return _holds(statistics.score_bounds(drawn, strata, kind), truth)

        return Case("one model", row, column, "held", draw)

    usual, rare = (0.2, 0.9), (0.02, 0.1)
    layouts = {"57 × 2": [2] * 57, "57 × 5": [5] * 57, "57 × 20": [20] * 57, "27 × 5": [5] * 27}
    layouts |= {f"1 × {n}": [n] for n in (8, 30, 1000)}
    merged = "conservative: nothing tells how much a subtask of one item varies within"
    return [
        *(decisions(row, sizes, usual) for row, sizes in layouts.items()),
        decisions("27 unequal, micro", UNEQUAL, usual),
        decisions("27 unequal, macro", UNEQUAL, usual, "macro"),
        replace(decisions("57 × 1", [1] * 57, usual), limit=merged),
        *(decisions(row, sizes, rare) for row, sizes in layouts.items() if row in RARE),
        *(others(row, "normal", layouts[row], "number", _normal) for row in ("57 × 2", "1 × 8")),
        *(others(row, "like ROUGE", layouts[row], "share", _rouge) for row in ("57 × 2", "1 × 30")),
        *(
            replace(others(row, "lognormal", layouts[row], "number", _lognormal), limit=SKEWED)
            for row in ("27 × 5", "1 × 30")
        ),
    ]


RARE = ("27 × 5", "1 × 8", "1 × 30", "1 × 1000")

Scorer = Callable[[Generator, tuple[int, ...]], tuple[np.ndarray, float]]
"""Scores of a shape, and their true mean."""


def _normal(rng: Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, float]:
    return rng.normal(size=shape), 0.0


def _rouge(rng: Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, float]:
    """Nothing right in three of ten answers, all in one, a part in the others."""
    which, part = rng.random(shape), rng.beta(2, 3, shape)
    return np.where(which < 0.3, 0, np.where(which > 0.9, 1, part)), 0.1 + 0.6 * 0.4


def _lognormal(rng: Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, float]:
    return rng.lognormal(size=shape), float(np.exp(0.5))


# Losses per token


def losses() -> list[Case]:
    """Unseen tasks fewer than ten: fixed, each with a loss per token over items of very different length."""

    def case(tasks: int, items: int, pair: bool) -> Case:
        strata = Strata.of([items] * tasks, "macro")
        levels = np.linspace(1.5, 3, tasks)

        def model(rng: Generator, tokens: np.ndarray) -> np.ndarray:
            each = levels[:, None] + rng.normal(size=tokens.shape) / np.sqrt(tokens)
            return statistics.ratio_scores(tokens * each, tokens).reshape(len(tokens), -1)

        def draw(rng: Generator, draws: int) -> Hits:
            tokens = rng.integers(1, 40, (draws, tasks, items))
            scores = model(rng, tokens)
            if not pair:
                return _holds(statistics.score_bounds(scores, strata, "number"), float(levels.mean()))
            return statistics.pair_bounds(scores, model(rng, tokens), strata, "number")[1] < statistics.LEVEL

        column, rate = ("two models", "found") if pair else ("one model", "held")
        return Case("loss per token", f"{tasks} × {items}", column, rate, draw)

    return [case(*shape, pair) for shape in ((9, 20), (4, 8), (1, 30)) for pair in (False, True)]


# Pairs


def pairs() -> list[Case]:
    def decisions(
        row: str, sizes: Sequence[int], differ: float, rate: Rate = "found", average: Average = "micro"
    ) -> Case:
        strata = Strata.of(sizes, average)

        def draw(rng: Generator, draws: int) -> Hits:
            which = rng.random((draws, strata.items))
            first, second = (
                (turned).astype(float) for turned in (which < differ / 2, which > 1 - differ / 2)
            )
            bounds, p = statistics.pair_bounds(first, second, strata, "decision")
            return _holds(bounds, 0.0) if rate == "held" else p < statistics.LEVEL

        what = "held" if rate == "held" else "found"
        return Case("pairs", row, f"{differ:.0%} differ, {what}", rate, draw)

    def normal(row: str, sizes: Sequence[int]) -> Case:
        strata = Strata.of(sizes, "micro")
        offsets = np.repeat(np.linspace(-1, 1, len(sizes)) if len(sizes) > 1 else np.zeros(1), sizes)

        def draw(rng: Generator, draws: int) -> Hits:
            shared = rng.normal(scale=3, size=(draws, strata.items))
            first = shared + offsets + rng.normal(size=shared.shape)
            return statistics.pair_bounds(first, shared, strata, "number")[1] < statistics.LEVEL

        return Case("pairs", row, "normal, found", "found", draw)

    layouts = {"57 × 2": [2] * 57, "27 × 5": [5] * 27, "1 × 30": [30], "1 × 1000": [1000]}
    few = {("1 × 30", 0.1): "conservative: only 3 items differ on average, and no test of so few is exact"}
    return [
        *(
            replace(decisions(row, sizes, differ), limit=few.get((row, differ), ""))
            for row, sizes in layouts.items()
            for differ in (0.45, 0.1)
        ),
        *(decisions("57 × 2", layouts["57 × 2"], differ, "held") for differ in (0.45, 0.1)),
        decisions("27 unequal, macro", UNEQUAL, 0.45, average="macro"),
        normal("57 × 2", layouts["57 × 2"]),
        normal("27 × 5", layouts["27 × 5"]),
        normal("1 × 8", [8]),
    ]


# Groups of runs


@dataclass(frozen=True)
class Spread:
    """Standard deviations of what makes scores of runs differ."""

    noise: float
    """Of an item in one run."""
    seeds: float
    """Of a run."""
    items: float
    """Of an item in all runs of a group."""
    subtasks: float
    """Of a subtask in one run."""


SPREADS = {
    "noise": Spread(0.3, 0, 0, 0),
    "seeds": Spread(0.05, 0.1, 0, 0),
    "balanced": Spread(0.2, 0.02, 0.2, 0),
    "items": Spread(0.03, 0, 0.3, 0),
    "seed × subtask": Spread(0.1, 0.01, 0.1, 0.15),
}
LAYOUTS = {"57 × 2": ([2] * 57, True), "27 × 5": ([5] * 27, True), "69 tasks": ([69], False)}
"""Sizes, and whether scores are decisions."""


def draw_runs(
    rng: Generator,
    draws: int,
    runs: int,
    sizes: Sequence[int],
    spread: Spread,
    decisions: bool,
    seed_scale: float = 1,
) -> np.ndarray:
    """Runs of one group on items that every group answers alike, apart from the group's own effect on each.

    The true mean of decisions is 0.5: their probabilities lie evenly around it. Items' own levels are the same in all
    draws of two groups where they cancel, so they are left out.

    Returns:
        float (draws, runs, items)
    """
    items = sum(sizes)
    shape = (draws, runs, items)
    latent = rng.normal(scale=spread.items, size=(draws, 1, items)) if spread.items else np.zeros((1, 1, 1))
    latent = latent + rng.normal(scale=seed_scale * spread.seeds, size=(draws, runs, 1))
    if spread.subtasks and len(sizes) > 1:
        of_subtask = rng.normal(scale=spread.subtasks, size=(draws, runs, len(sizes)))
        latent = latent + np.repeat(of_subtask, sizes, axis=-1)
    if not decisions:
        return latent + rng.normal(scale=spread.noise, size=shape)
    # An answer is right where the latent score is above the item's difficulty; the subtasks' are symmetric around 0.
    hardness = np.repeat(np.linspace(-0.25, 0.25, len(sizes)), sizes)
    return (latent + rng.normal(scale=spread.noise, size=shape) > hardness).astype(float)


def groups() -> list[Case]:
    found = []
    for layout, (sizes, decisions) in LAYOUTS.items():
        for runs in ((3, 3), (5, 5), (3, 5)):
            for name, spread in SPREADS.items():
                found.append(group_case(layout, runs, name, spread, sizes, decisions))
    for runs in ((3, 3), (5, 5)):
        found.append(group_case("69 tasks", runs, "seeds, 4 : 1", SPREADS["seeds"], [69], False, 4))
    found.append(group_case("12 tasks", (3, 3), "items", SPREADS["items"], [12], False))
    return found


def group_case(
    layout: str,
    runs: tuple[int, int],
    name: str,
    spread: Spread,
    sizes: Sequence[int],
    decisions: bool,
    seed_scale: float = 1,
) -> Case:
    strata, kind = Strata.of(sizes, "micro"), _kind(decisions)

    def draw(rng: Generator, draws: int) -> Hits:
        first = draw_runs(rng, draws, runs[0], sizes, spread, decisions, seed_scale)
        second = draw_runs(rng, draws, runs[1], sizes, spread, decisions)
        bounds, _ = statistics.group_bounds(first, second, strata, kind)
        return ~_holds(bounds, 0.0)

    return Case("groups", f"{layout}, {runs[0]} and {runs[1]} seeds", name, "found", draw)


def _kind(decisions: bool) -> Kind:
    return "decision" if decisions else "number"


def means() -> list[Case]:
    found = []
    for layout, (sizes, decisions) in LAYOUTS.items():
        for runs in (2, 3, 5):
            for name, spread in SPREADS.items():
                found.append(mean_case(layout, runs, name, spread, sizes, decisions))
    return found


def mean_case(
    layout: str, runs: int, name: str, spread: Spread, sizes: Sequence[int], decisions: bool
) -> Case:
    strata, kind = Strata.of(sizes, "micro"), _kind(decisions)
    truth = 0.5 if decisions else 0.0

    def draw(rng: Generator, draws: int) -> Hits:
        drawn = draw_runs(rng, draws, runs, sizes, spread, decisions)
        return _holds(statistics.run_bounds(drawn, strata, kind), truth)

    limit = "conservative: two seeds" if runs == 2 else ""
    return Case("means over seeds", f"{layout}, {runs} seeds", name, "held", draw, limit)


# Looks


def looks() -> list[Case]:
    return [
        *(look_case(most, name, SPREADS[name]) for most in (5, 6, 10) for name in ("seeds", "balanced")),
        look_case(5, "seeds, 4 : 1", SPREADS["seeds"], 4),
    ]


def look_case(most: int, name: str, spread: Spread, seed_scale: float = 1, bounds_on_z: bool = False) -> Case:
    """A test after 3 seeds and after each further one, up to `most`.

    Args:
        bounds_on_z: what is not to be done: D/√V against the normal quantiles of the levels.
    """
    from scipy.stats import norm

    strata = Strata.of([69], "micro")
    seeds = range(statistics.FEWEST_SEEDS, most + 1)
    levels = statistics.spending_levels([k / most for k in seeds])

    def draw(rng: Generator, draws: int) -> Hits:
        first = draw_runs(rng, draws, most, [69], spread, False, seed_scale)
        second = draw_runs(rng, draws, most, [69], spread, False)
        found = np.zeros(draws, bool)
        for k, level in zip(seeds, levels, strict=True):
            (value, _, _), parts = statistics.group_bounds(first[:, :k], second[:, :k], strata, "number")
            quantile = norm.isf(level / 2) if bounds_on_z else parts.quantile(level)
            found |= np.abs(value) > quantile * np.sqrt(parts.variance)
        return found

    return Case("looks", f"3 to {most} seeds", name, "found", draw)


CASES = [*one_model(), *losses(), *pairs(), *groups(), *means(), *looks()]


def table(draws: int) -> str:
    """Every case as Markdown, and what it took."""
    started = time.monotonic()
    families = dict.fromkeys(case.family for case in CASES)
    parts = [_family(name, [case for case in CASES if case.family == name], draws) for name in families]
    error = (statistics.LEVEL * (1 - statistics.LEVEL) / draws) ** 0.5
    took = (
        f"`python -m benchmarks.statistics`, {draws:,} draws a case (standard error {error:.3f}), numpy"
        f" {np.__version__}, {os.cpu_count()} cores of {processor()}, {date.today()}:"
        f" {time.monotonic() - started:.0f} s."
    )
    return "\n\n".join([took, *parts])


def _family(name: str, cases: Sequence[Case], draws: int) -> str:
    columns, rows = (dict.fromkeys(getattr(case, side) for case in cases) for side in ("column", "row"))
    notes: dict[str, str] = {case.limit: "*" * place for place, case in enumerate(cases, 1) if case.limit}
    notes = {limit: "*" * place for place, limit in enumerate(notes, 1)}
    cells: dict[tuple[str, str], str] = {}
    for case in cases:
        cells[case.row, case.column] = f"{case(draws):.3f}{notes.get(case.limit, '')}".replace("*", "\\*")
    lines = [["", *columns], ["---"] * (1 + len(columns))]
    lines += [[row, *(cells.get((row, column), "") for column in columns)] for row in rows]
    said = [f"{mark.replace('*', chr(92) + '*')} {limit}." for limit, mark in notes.items()]
    shown = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join([f"### {TITLES[name]}", shown, *said])


TITLES = {
    "one model": "One model: intervals that hold the truth, by subtasks × items",
    "loss per token": "Loss per token of few tasks: intervals that hold the truth; differences found where none is",
    "pairs": "Two models: differences found where none is, and intervals that hold the truth",
    "groups": "Groups of runs: differences found where none is, by what makes scores vary",
    "means over seeds": "Mean of one group of runs: intervals that hold the truth",
    "looks": "A test after each seed: differences found where none is, at any look",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--draws", type=int, default=DRAWS)
    text = table(draws := parser.parse_args().draws)
    print(text)
    if draws >= DRAWS:
        document = DOCUMENT.read_text(encoding="utf-8")
        marked = f"<!-- made by benchmarks/statistics.py -->\n{text}\n<!-- end -->"
        made = re.sub(r"<!-- made by .*?<!-- end -->", lambda _: marked, document, flags=re.DOTALL)
        DOCUMENT.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
