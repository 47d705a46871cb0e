"""Intervals and tests of scores: arrays in, numbers out. docs/statistics.md says what each holds, by simulation.

A suite's scores are one array for each subtask, with a number for each item. Items are a sample of what a subtask could
ask; subtasks are fixed, and so are their weights. Where tasks themselves are a sample, they are the items of one
subtask. Shapes: `...` stands for any leading axes, k for runs, N for the items of all subtasks, T for subtasks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from smart.config import counted

Average = Literal["micro", "macro"]
Kind = Literal["decision", "share", "number"]
"""0 or 1; anything in [0, 1]; anything."""
LEVEL = 0.05
"""Intervals leave out this much; a test below it finds a difference."""
FEWEST_SEEDS = 3
"""A group of fewer runs has no test: two runs hardly tell how much runs vary (their t is 12.7)."""
_NORMAL = 1.959963984540054
_FEW_DISCORDANT = 6
_ROUNDING = 1e-12
"""Share of the largest score that adding in another order can change."""


@dataclass(frozen=True)
class Interval:
    """An estimate, and bounds that hold its true value in 95 of 100 cases; infinite bounds: they can't be had."""

    value: float
    low: float
    high: float
    skewed: bool = False
    """Scores so few and so skewed that the bounds may hold the true value in 92 of 100 cases only."""

    @property
    def known(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)

    def as_json(self) -> dict[str, float | bool | None]:
        bounds = (self.low, self.high) if self.known else (None, None)
        return {"value": self.value, "low": bounds[0], "high": bounds[1], "skewed": self.skewed}


@dataclass(frozen=True)
class Difference:
    """How much higher the first one scores than the second."""

    interval: Interval
    p: float | None
    """Probability of a difference at least as large if there were none; None where there is no test."""
    test: str
    """Its name, or why there is none."""
    gained: int | None = None
    """Items of which only the first is right; None where scores are no decisions or runs are several."""
    lost: int | None = None
    """Items of which only the second is right."""


@dataclass(frozen=True)
class Strata:
    """N items in T subtasks of fixed weights."""

    sizes: np.ndarray
    """int (T,)"""
    weights: np.ndarray
    """float (T,), of the subtasks' means"""

    @classmethod
    def of(cls, sizes: Sequence[int], average: Average | np.ndarray) -> Strata:
        """Micro: the mean over items. Macro: the mean over subtasks of their means. Otherwise weights (T,).

        Subtasks of one item each are the items of a single one: nothing tells how much they vary within.
        """
        n = np.asarray(sizes)
        if isinstance(average, np.ndarray):
            return cls(n, average)
        if n.max() == 1:
            return cls(np.array([len(n)]), np.ones(1))
        return cls(n, n / n.sum() if average == "micro" else np.full(len(n), 1 / len(n)))

    @property
    def items(self) -> int:
        return int(self.sizes.sum())

    @property
    def freedom(self) -> int:
        """N − T."""
        return self.items - len(self.sizes)

    @property
    def even(self) -> bool:
        """True if every item weighs the same."""
        return bool(np.allclose(self.weights * self.items, self.sizes))

    def means(self, scores: np.ndarray) -> np.ndarray:
        """float (..., N) → (..., T)"""
        return self._sums(scores) / self.sizes

    def mean(self, scores: np.ndarray) -> np.ndarray:
        """float (..., N) → (...)"""
        return np.asarray(self.means(scores) @ self.weights)

    def centred(self, scores: np.ndarray) -> np.ndarray:
        """Scores without their subtasks' means: float (..., N)."""
        return np.asarray(scores - np.repeat(self.means(scores), self.sizes, axis=-1))

    def within(self, deviations: np.ndarray, repeats: int = 1) -> np.ndarray:
        """Variance within each subtask, with n − 1 degrees of freedom for each of `repeats`: float (..., T).

        A subtask of one item takes the pooled variance of the others.

        Args:
            deviations: float (..., N), squared and summed over repeats.
        """
        squares, n = self._sums(deviations), self.sizes
        pooled = squares.sum(axis=-1, keepdims=True) / max(self.freedom * repeats, 1)
        return np.where(n > 1, squares / np.maximum((n - 1) * repeats, 1), pooled)

    def variance(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """V = Σ w² s² / n of the mean, and its degrees of freedom ν = V² / Σ c² / (n − 1), c = w² s² / n.

        Satterthwaite, Biometrics Bulletin 2 (1946), 110–114; for strata Rao & Wu, JASA 83 (1988), 231–241.
        """
        parts = self.weights**2 * self.within(self.centred(scores) ** 2) / self.sizes
        several = self.sizes > 1
        squares = (parts[..., several] ** 2 / (self.sizes[several] - 1)).sum(axis=-1)
        squares = squares + parts[..., ~several].sum(axis=-1) ** 2 / max(self.freedom, 1)
        total = parts.sum(axis=-1)
        return total, _ratio(total**2, squares, float(self.freedom))

    def _sums(self, values: np.ndarray) -> np.ndarray:
        starts = np.concatenate([[0], np.cumsum(self.sizes)[:-1]])
        return np.asarray(np.add.reduceat(values, starts, axis=-1))


Bounds = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Estimate, low, high; float (...) each."""


def wilson(share: np.ndarray, count: np.ndarray, quantile: np.ndarray | float) -> Bounds:
    """The score interval of a share in `count` items; inside [0, 1], and never of width zero.

    Wilson, JASA 22 (1927), 209–212. `count` is an effective size p(1 − p)/V where items are stratified: Korn &
    Graubard, Survey Methodology 24 (1998), 193–201.
    """
    p, square = np.clip(share, 0, 1), np.square(quantile) / count
    centre = (p + square / 2) / (1 + square)
    reach = np.sqrt(p * (1 - p) * square + square**2 / 4) / (1 + square)
    return p, np.clip(centre - reach, 0, p), np.clip(centre + reach, p, 1)


def score_bounds(scores: np.ndarray, strata: Strata, kind: Kind) -> Bounds:
    """One model's mean: Wilson's form for decisions (normal quantile) and shares (t_ν); mean ± t_ν √V for numbers.

    Args:
        scores: float (..., N).
    """
    variance, freedom = strata.variance(scores)
    quantile = _NORMAL if kind == "decision" else t_quantile(freedom)
    return _mean_bounds(scores, strata, kind, strata.mean(scores), variance, quantile)


def _mean_bounds(
    scores: np.ndarray,
    strata: Strata,
    kind: Kind,
    mean: np.ndarray,
    variance: np.ndarray,
    quantile: np.ndarray | float,
) -> Bounds:
    constant = _vanishes(variance, scores)
    if kind == "number":
        reach = np.where(constant, np.inf, quantile * np.sqrt(np.where(constant, 1, variance)))
        return mean, mean - reach, mean + reach
    # Where nothing varies, all that is known is how many items there are.
    count = np.where(constant, strata.items, _ratio(mean * (1 - mean), variance, strata.items))
    return wilson(mean, count, np.where(constant, _NORMAL, quantile))


def pair_bounds(
    first: np.ndarray, second: np.ndarray, strata: Strata, kind: Kind
) -> tuple[Bounds, np.ndarray]:
    """Two models on the same items: bounds of the difference, d ± t √V, and p.

    Decisions: N − T degrees of freedom, and below 6 items on which the two differ 2/(N + 2)² more variance, after
    Bonett & Price, J. Educ. Behav. Stat. 37 (2012), 479–488; p by `mid_p` where all items weigh the same. Otherwise
    Satterthwaite's t.

    Args:
        first, second: float (..., N).
    """
    differences = first - second
    variance, freedom = strata.variance(differences)
    value, constant = strata.mean(differences), _vanishes(variance, first, second)
    value = np.where(np.abs(value) <= _rounding(first, second), 0, value)
    if kind == "number":
        bounds = _difference_bounds(value, np.where(constant, np.inf, variance), t_quantile(freedom))
        return bounds, np.where(constant, sign_p(value, strata.items), _t_p(value, variance, freedom))
    few = (differences != 0).sum(axis=-1) < _FEW_DISCORDANT if kind == "decision" else constant
    variance = variance + np.where(few, 2 / (strata.items + 2) ** 2, 0)
    freedom = np.where(constant | (kind == "decision"), strata.freedom, freedom)
    bounds = _clipped(_difference_bounds(value, variance, t_quantile(freedom)))
    if kind == "decision" and strata.even:
        return bounds, mid_p((differences > 0).sum(axis=-1), (differences < 0).sum(axis=-1))
    return bounds, _t_p(value, variance, freedom)


def mid_p(gained: np.ndarray | int, lost: np.ndarray | int) -> np.ndarray:
    """McNemar's test with half of the probability of what was seen; exact binomial tables otherwise.

    Fagerland, Lydersen & Laake, BMC Medical Research Methodology 13 (2013), 91.
    """
    from scipy.stats import binom

    least, discordant = np.minimum(gained, lost), np.add(gained, lost)
    p = 2 * binom.cdf(least, discordant, 0.5) - binom.pmf(least, discordant, 0.5)
    return np.minimum(p, 1)  # rounding may add some 1e-16


def sign_p(value: np.ndarray | float, items: int) -> np.ndarray:
    """Of equal differences in all items, by flipping their signs: Fisher's randomisation test gives no less."""
    return np.where(np.equal(value, 0), 1.0, 2.0 ** (1 - items))


@dataclass(frozen=True)
class SeedParts:
    """What the variance of a mean over runs, or of a difference of two, consists of."""

    seeds: np.ndarray
    """V_s, of the runs' means; float (...)"""
    seed_freedom: np.ndarray
    items: np.ndarray
    """G, of the items, as far as all runs of a group share it; float (...)"""
    item_freedom: float

    @property
    def variance(self) -> np.ndarray:
        return np.asarray(self.seeds + self.items)

    def quantile(self, level: float | np.ndarray = LEVEL) -> np.ndarray:
        """Quantiles of t, weighted by their variances: Cochran & Cox, Experimental Designs (1950), section 4.14."""
        seeds, items = t_quantile(self.seed_freedom, level), t_quantile(self.item_freedom, level)
        # What has no variance has no say, though its quantile may be infinite.
        of_seeds = self.seeds * np.where(self.seeds > 0, seeds, 0)
        of_items = self.items * np.where(self.items > 0, items, 0)
        return _ratio(of_seeds + of_items, self.variance, _NORMAL)


def seed_parts(groups: Sequence[np.ndarray], strata: Strata) -> SeedParts:
    """V_s = Σ var(run means)/k and G = max(0, V_i − V_r), for one group or for the difference of two.

    V_i is the variance of the items' means over runs (or of their differences). It holds what runs add by chance to
    single items, V_r, which V_s has already: two-way clustering, Cameron, Gelbach & Miller, JBES 29 (2011), 238–249.
    Degrees of freedom of V_s by Welch, Biometrika 34 (1947), 28–35.

    Args:
        groups: float (..., k, N) each.
    """
    each = [strata.mean(runs).var(axis=-1, ddof=1) / runs.shape[-2] for runs in groups]
    seeds = np.sum(each, axis=0)
    freedom = _ratio(
        seeds**2, sum(v**2 / (runs.shape[-2] - 1) for v, runs in zip(each, groups, strict=True)), 1.0
    )
    means = [runs.mean(axis=-2) for runs in groups]
    shared, _ = strata.variance(means[0] - means[1] if len(means) > 1 else means[0])
    noise = sum(run_noise(runs, strata) for runs in groups)
    return SeedParts(seeds, freedom, np.maximum(shared - noise, 0), float(strata.freedom))


def run_noise(runs: np.ndarray, strata: Strata) -> np.ndarray:
    """V_r = Σ w² s² / (k n), s² the residual of run × item within a subtask: float (..., k, N) → (...)."""
    k = runs.shape[-2]
    centred = strata.centred(runs)
    residuals = centred - centred.mean(axis=-2, keepdims=True)
    within = strata.within((residuals**2).sum(axis=-2), repeats=k - 1)
    return np.asarray((strata.weights**2 * within / (k * strata.sizes)).sum(axis=-1))


def run_bounds(runs: np.ndarray, strata: Strata, kind: Kind) -> Bounds:
    """The mean over runs of one group, in the form of `score_bounds`.

    Args:
        runs: float (..., k, N).
    """
    parts, items = seed_parts([runs], strata), runs.mean(axis=-2)
    return _mean_bounds(items, strata, kind, strata.mean(items), parts.variance, parts.quantile())


def group_bounds(
    first: np.ndarray, second: np.ndarray, strata: Strata, kind: Kind
) -> tuple[Bounds, SeedParts]:
    """Two groups of runs on the same items: bounds of the difference, D ± q √V.

    Args:
        first, second: float (..., k, N); k may differ.
    """
    parts = seed_parts([first, second], strata)
    value = strata.mean(first.mean(axis=-2)) - strata.mean(second.mean(axis=-2))
    value = np.where(np.abs(value) <= _rounding(first, second), 0, value)
    constant = _vanishes(parts.variance, first, second)
    if kind == "number":
        return _difference_bounds(value, np.where(constant, np.inf, parts.variance), parts.quantile()), parts
    least = np.where(constant, 2 / (strata.items + 2) ** 2, 0)
    parts = SeedParts(parts.seeds, parts.seed_freedom, parts.items + least, parts.item_freedom)
    return _clipped(_difference_bounds(value, parts.variance, parts.quantile())), parts


def solve_p(value: float, parts: SeedParts) -> float:
    """The level whose interval just leaves out 0; 1e-100 stands for all below."""
    from scipy.optimize import brentq

    reach = abs(value) / float(parts.variance) ** 0.5

    def beyond(log_level: float) -> float:
        return float(parts.quantile(math.exp(log_level))) - reach

    if value == 0 or not math.isfinite(beyond(0.0)):
        return 1.0
    least = math.log(1e-100)
    return math.exp(brentq(beyond, least, 0.0)) if beyond(least) > 0 else 1e-100


def t_quantile(freedom: np.ndarray | float, level: float | np.ndarray = LEVEL) -> np.ndarray:
    """Of Student's t, two-sided; infinite without degrees of freedom."""
    from scipy.special import stdtrit

    found = -stdtrit(np.maximum(freedom, 1e-9), np.asarray(level) / 2)
    return np.where(np.asarray(freedom) > 0, found, np.inf)


def ratio_scores(losses: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Numbers whose mean is Σ losses / Σ tokens, and whose variance is that of this ratio: float (..., N).

    The linearised ratio estimator: Cochran, Sampling Techniques (1977), section 6.3. Items of many tokens have large
    losses, so losses alone vary far more than their ratio does.
    """
    total = tokens.sum(axis=-1, keepdims=True)
    ratio = losses.sum(axis=-1, keepdims=True) / total
    return np.asarray(ratio + (losses - ratio * tokens) * (losses.shape[-1] / total))


def spending_levels(fractions: Sequence[float], level: float = LEVEL) -> np.ndarray:
    """Level of the test at each look, so that all looks together find nothing with 1 − level: float (looks,).

    Spends α(t) = 2 − 2 Φ(z/√t) at the fractions t of the information: Lan & DeMets, Biometrika 70 (1983), 659–663,
    after O'Brien & Fleming. Compare p with these levels, and no z with their bounds: with few seeds, D/√V is far from
    normal (Jennison & Turnbull, Group Sequential Methods (2000), chapter 11).

    >>> spending_levels([3 / 5, 4 / 5, 1]).round(4).tolist()
    [0.0114, 0.0244, 0.0392]
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    times = np.asarray(fractions, float)
    if not (np.all(np.diff(times, prepend=0) > 0) and times[-1] <= 1):
        raise ValueError(f"fractions {list(fractions)}: must grow, from above 0 to 1 at most")
    spent = 2 * norm.sf(norm.isf(level / 2) / np.sqrt(times))
    spent = np.where(times == 1, level, spent)
    # Brownian motion at each look, on the paths that no look has ended: its density on a grid between the bounds.
    place, mass = np.zeros(1), np.ones(1)
    nodes, node_weights = np.polynomial.legendre.leggauss(200)
    found, before, total = [], 0.0, 0.0
    for time, target in zip(times, spent, strict=True):
        step = math.sqrt(time - before)

        def crossing(
            bound: float, place: np.ndarray = place, mass: np.ndarray = mass, step: float = step
        ) -> float:
            return float(mass @ (norm.sf((bound - place) / step) + norm.cdf((-bound - place) / step)))

        bound = brentq(lambda x: crossing(x) - (target - total), 0.0, 40.0)  # noqa: B023 (called here alone)
        found.append(2 * norm.sf(bound / math.sqrt(time)))
        at = bound * nodes
        mass = (mass @ norm.pdf((at - place[:, None]) / step)) / step * node_weights * bound
        place, before, total = at, time, float(target)
    return np.array(found)


def is_skewed(scores: np.ndarray, kind: Kind) -> bool:
    """True where the mean of so few scores is not yet normal: N < 25 G², G their skewness, where it is no chance.

    Cochran, Sampling Techniques (1977), section 2.15. Decisions have intervals of their own.

    Args:
        scores: float (N,).
    """
    from scipy.stats import skew

    if kind == "decision" or len(scores) < 3 or np.ptp(scores) <= _rounding(scores):
        return False
    skewness = abs(float(skew(scores)))
    return skewness > 2 * (6 / len(scores)) ** 0.5 and len(scores) < 25 * skewness**2


def mean_score(subtasks: Sequence[np.ndarray], average: Average) -> float:
    """Micro: the mean over items. Macro: the mean over subtasks of their means."""
    return float(Strata.of([len(scores) for scores in subtasks], average).mean(_joined(subtasks)))


def score_interval(
    subtasks: Sequence[np.ndarray], average: Average | np.ndarray = "micro", *, bounded: bool | None = None
) -> Interval:
    """One model's mean over items.

    Args:
        subtasks: float (items,) each.
        average: or the weight of each subtask, float (T,).
        bounded: whether the mean can't leave [0, 1]; None: if no score does.
    """
    strata, scores = Strata.of([len(x) for x in subtasks], average), _joined(subtasks)
    kind = _kind(bounded, scores)
    return _interval(score_bounds(scores, strata, kind), is_skewed(scores, kind))


def mean_interval(
    subtasks: Sequence[np.ndarray], average: Average = "micro", *, bounded: bool | None = None
) -> Interval:
    """The mean over runs that differ in their seed, as far as seeds and items tell.

    Args:
        subtasks: float (seeds, items) each; at least 2 seeds.
    """
    strata, runs = _runs(subtasks, average)
    kind = _kind(bounded, runs)
    return _interval(run_bounds(runs, strata, kind), is_skewed(runs.mean(axis=0), kind))


def paired_difference(
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    average: Average = "micro",
    *,
    bounded: bool | None = None,
) -> Difference:
    """Two models on the same items: interval of the difference, and whether it could be chance.

    Raises:
        ValueError: if the two do not have the same numbers of items.
    """
    if [len(scores) for scores in first] != [len(scores) for scores in second]:
        raise ValueError("paired scores need the same items in both models")
    strata = Strata.of([len(scores) for scores in first], average)
    one, other = _joined(first), _joined(second)
    kind = _kind(bounded, one, other)
    bounds, p = pair_bounds(one, other, strata, kind)
    interval = _interval(bounds, is_skewed(one - other, kind))
    if kind != "decision":
        return Difference(interval, float(p), "paired t")
    turned = int((one > other).sum()), int((one < other).sum())
    return Difference(interval, float(p), "mid-p McNemar" if strata.even else "paired t", *turned)


def group_difference(
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    average: Average = "micro",
    *,
    bounded: bool | None = None,
) -> Difference:
    """Two groups of runs over seeds on the same items: does the way in which they were made differ?

    Args:
        first, second: for each subtask float (seeds, items). With fewer than 3 seeds there is no test; `test` says so.

    Raises:
        ValueError: for other items.
    """
    if [scores.shape[1] for scores in first] != [scores.shape[1] for scores in second]:
        raise ValueError("paired scores need the same items in both groups")
    (strata, one), (_, other) = _runs(first, average), _runs(second, average)
    kind = _kind(bounded, one, other)
    seeds = len(one), len(other)
    if min(seeds) < FEWEST_SEEDS:
        value = float(strata.mean(one.mean(axis=0)) - strata.mean(other.mean(axis=0)))
        *few, last = dict.fromkeys(seeds)
        named = " and ".join([*map(str, few), counted(last, "seed")])
        return Difference(Interval(value, -np.inf, np.inf), None, f"none: {named}, {FEWEST_SEEDS} are needed")
    bounds, parts = group_bounds(one, other, strata, kind)
    interval = _interval(bounds, is_skewed(one.mean(axis=0) - other.mean(axis=0), kind))
    # Without an interval, numbers differ by the same amount in every item of every run.
    p = solve_p(interval.value, parts) if interval.known else float(sign_p(interval.value, strata.items))
    return Difference(interval, p, "t over seeds and items")


def within_unit(*scores: np.ndarray) -> bool:
    """True if all scores lie in [0, 1]."""
    return all(bool(x.min() >= 0 and x.max() <= 1) for x in scores)


def adjust(differences: Sequence[Difference]) -> list[float | None]:
    """p of each test after Holm; None where there is none."""
    adjusted = iter(holm([one.p for one in differences if one.p is not None]))
    return [None if one.p is None else float(next(adjusted)) for one in differences]


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Adjusted p-values that hold for all comparisons at once (Holm 1979): float (comparisons,)."""
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


def _joined(subtasks: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.asarray(scores, float) for scores in subtasks], axis=-1)


def _runs(subtasks: Sequence[np.ndarray], average: Average) -> tuple[Strata, np.ndarray]:
    return Strata.of([scores.shape[1] for scores in subtasks], average), _joined(subtasks)


def _kind(bounded: bool | None, *scores: np.ndarray) -> Kind:
    if not (within_unit(*scores) if bounded is None else bounded):
        return "number"
    return "decision" if all(bool(np.isin(x, (0, 1)).all()) for x in scores) else "share"


def _interval(bounds: Bounds, skewed: bool) -> Interval:
    value, low, high = map(float, bounds)
    return Interval(value, low, high, skewed)


def _difference_bounds(value: np.ndarray, variance: np.ndarray, quantile: np.ndarray) -> Bounds:
    reach = quantile * np.sqrt(variance)
    return value, value - reach, value + reach


def _clipped(bounds: Bounds) -> Bounds:
    value, low, high = bounds
    return value, np.maximum(low, -1), np.minimum(high, 1)


def _t_p(value: np.ndarray, variance: np.ndarray, freedom: np.ndarray) -> np.ndarray:
    from scipy.special import stdtr

    reach = np.abs(value) / np.sqrt(np.where(variance > 0, variance, np.inf))
    return np.where(freedom > 0, 2 * stdtr(np.maximum(freedom, 1e-9), -reach), 1.0)


def _rounding(*scores: np.ndarray) -> float:
    return _ROUNDING * max(float(np.abs(x).max()) for x in scores)


def _vanishes(variance: np.ndarray, *scores: np.ndarray) -> np.ndarray:
    """True where a variance is no more than rounding."""
    return np.asarray(variance <= _rounding(*scores) ** 2)


def _ratio(over: np.ndarray, under: np.ndarray, otherwise: float) -> np.ndarray:
    """over / under, and `otherwise` where under is 0."""
    return np.asarray(
        np.divide(over, under, out=np.full(np.shape(over), float(otherwise)), where=np.asarray(under) > 0)
    )
