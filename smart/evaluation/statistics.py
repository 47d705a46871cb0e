"""Whether a difference of scores is one: arrays in, numbers out.

Scores of a suite are a list of arrays, one for each subtask, with one number for each item. Items are a sample of
what a subtask could ask; the subtasks themselves are fixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Average = Literal["micro", "macro"]
DRAWS = 2_000
_CHUNK = 4_000_000
_ROUNDING = 1e-12
"""Share of the largest score that adding in another order can change."""


@dataclass(frozen=True)
class Interval:
    """An estimate and the bounds that hold its true value in 95 of 100 cases."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """How much higher the first one scores than the second."""

    interval: Interval
    p: float
    """Probability of a difference at least as large if there were none."""
    test: str
    gained: int | None = None
    """Items of which only the first is right; None where scores are no decisions or runs are several."""
    lost: int | None = None
    """Items of which only the second is right."""


def mean_score(subtasks: Sequence[np.ndarray], average: Average) -> float:
    """Micro: the mean over items. Macro: the mean over subtasks of their means."""
    return float(_weights(subtasks, average) @ [scores.mean() for scores in subtasks])


def score_interval(
    subtasks: Sequence[np.ndarray], average: Average = "micro", *, seed: int = 23, level: float = 0.95
) -> Interval:
    """Percentile bootstrap over items within subtasks (Efron & Tibshirani 1993, chapter 13).

    Args:
        subtasks: float (items,) each.
    """
    draws = _draw_means(subtasks, average, np.random.default_rng(seed))
    return _percentiles(mean_score(subtasks, average), draws, level)


def paired_difference(
    first: Sequence[np.ndarray], second: Sequence[np.ndarray], average: Average = "micro", *, seed: int = 23
) -> Difference:
    """Two models on the same items: bootstrap interval of the difference, and whether it could be chance.

    For right or wrong answers and the micro mean, the exact McNemar test: items on which just one of the two is right
    are as likely to favour either (Dietterich 1998). Otherwise a paired bootstrap of the difference around its mean.

    Raises:
        ValueError: if the two do not have the same numbers of items.
    """
    if [len(scores) for scores in first] != [len(scores) for scores in second]:
        raise ValueError("paired scores need the same items in both models")
    differences = [np.subtract(a, b, dtype=float) for a, b in zip(first, second, strict=True)]
    value = mean_score(differences, average)
    draws = _draw_means(differences, average, np.random.default_rng(seed))
    interval = _percentiles(value, draws, 0.95)
    gained, lost = (int(sum((sign * d > 0).sum() for d in differences)) for sign in (1, -1))
    if not all(np.isin(scores, (0, 1)).all() for scores in (*first, *second)):
        return Difference(interval, _centred_p(value, draws), "paired bootstrap")
    if average == "macro":
        return Difference(interval, _centred_p(value, draws), "paired bootstrap", gained, lost)
    return Difference(interval, mcnemar(gained, lost), "exact McNemar", gained, lost)


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided exact p-value of `gained` against `lost` under equal chances (binomial with 1/2)."""
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def group_difference(
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    average: Average = "micro",
    *,
    seed: int = 23,
    draws: int = DRAWS,
) -> Difference:
    """Two groups of runs over seeds on the same items: does the way in which they were made differ?

    Hierarchical bootstrap: seeds of each group are drawn again, then items within subtasks, the same for all runs. Few
    seeds drawn from themselves vary too little, by (k - 1) / k, so their deviations are widened by its root; the bounds
    are t quantiles of the draws' standard error, with degrees of freedom by Satterthwaite (1946) from the share of the
    variance that the seeds have.

    Args:
        first, second: for each subtask float (seeds, items); at least 2 seeds.

    Raises:
        ValueError: for fewer seeds, or other items.
    """
    from scipy.stats import t

    runs = len(first[0]), len(second[0])
    if min(runs) < 2:
        raise ValueError(f"a group needs at least 2 seeds, not {min(runs)}")
    if [scores.shape[1] for scores in first] != [scores.shape[1] for scores in second]:
        raise ValueError("paired scores need the same items in both groups")
    rng = np.random.default_rng(seed)
    subtasks = [np.concatenate([a, -b]).astype(float) for a, b in zip(first, second, strict=True)]
    even = np.concatenate([np.full(k, 1 / k) for k in runs])
    drawn = np.concatenate([_widened(rng, k, draws) for k in runs], axis=1)
    per_subtask = _weights([scores[0] for scores in subtasks], average)
    means = np.stack([scores.mean(axis=1) for scores in subtasks])  # (subtasks, runs)
    value = float(per_subtask @ means @ even)
    totals = np.zeros(draws)
    for weight, scores in zip(per_subtask, subtasks, strict=True):
        for rows in _rows(draws, scores.shape[1]):
            items = _draw_items(rng, scores.shape[1], rows.stop - rows.start)
            totals[rows] += weight * np.einsum("dr,rd->d", drawn[rows], scores @ items.T)
    run_scores = np.split(per_subtask @ means, [runs[0]])
    seed_variances = [scores.var(ddof=1) / len(scores) for scores in run_scores]
    variance = max(float(totals.var()), sum(seed_variances))
    rounding = _ROUNDING * max(float(np.abs(scores).max()) for scores in subtasks)
    if variance <= rounding**2:
        # Nothing varies, but sums of equal numbers may differ in their last bits, which are no difference.
        value = 0.0 if abs(value) <= rounding else value
        return Difference(Interval(value, value, value), float(value == 0), "hierarchical bootstrap")
    shares = sum(v**2 / (k - 1) for v, k in zip(seed_variances, runs, strict=True))
    freedom = variance**2 / shares if shares else np.inf
    error, reach = variance**0.5, float(t.ppf(0.975, freedom))
    interval = Interval(value, value - reach * error, value + reach * error)
    return Difference(interval, float(2 * t.sf(abs(value) / error, freedom)), "hierarchical bootstrap")


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Adjusted p-values that hold for all comparisons at once (Holm 1979): float (comparisons,)."""
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


def _weights(subtasks: Sequence[np.ndarray], average: Average) -> np.ndarray:
    sizes = np.array([len(scores) for scores in subtasks], float)
    return sizes / sizes.sum() if average == "micro" else np.full(len(sizes), 1 / len(sizes))


def _draw_means(subtasks: Sequence[np.ndarray], average: Average, rng: np.random.Generator) -> np.ndarray:
    """Bootstrap means of the suite: float (DRAWS,)."""
    totals = np.zeros(DRAWS)
    for weight, scores in zip(_weights(subtasks, average), subtasks, strict=True):
        # Equal scores are drawn together: right and wrong answers are two numbers, however many items there are.
        values, counts = np.unique(np.asarray(scores, float), return_counts=True)
        for rows in _rows(DRAWS, len(values)):
            drawn = rng.multinomial(len(scores), counts / len(scores), size=rows.stop - rows.start)
            totals[rows] += weight * (drawn @ values) / len(scores)
    return totals


def _draw_items(rng: np.random.Generator, items: int, draws: int) -> np.ndarray:
    """How often each item is drawn, as shares: float (draws, items)."""
    return rng.multinomial(items, np.full(items, 1 / items), size=draws) / items


def _widened(rng: np.random.Generator, runs: int, draws: int) -> np.ndarray:
    """Shares of the runs in each draw, with the variance that a sample's mean has: float (draws, runs)."""
    shares = rng.multinomial(runs, np.full(runs, 1 / runs), size=draws) / runs
    return 1 / runs + (shares - 1 / runs) * (runs / (runs - 1)) ** 0.5


def _rows(draws: int, width: int) -> list[slice]:
    step = max(1, _CHUNK // width)
    return [slice(start, min(start + step, draws)) for start in range(0, draws, step)]


def _percentiles(value: float, draws: np.ndarray, level: float) -> Interval:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def _centred_p(value: float, draws: np.ndarray) -> float:
    reached = np.abs(draws - value) >= abs(value) - 1e-12
    return float((1 + reached.sum()) / (1 + len(draws)))
