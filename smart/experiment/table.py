"""A table: means over seeds with intervals, each row against its baseline and against the best of its block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from smart.evaluation.metrics import Metric, Scores, distinct
from smart.evaluation.statistics import (
    LEVEL,
    Difference,
    Interval,
    adjust,
    group_difference,
    mean_interval,
    mean_score,
    paired_difference,
    score_interval,
)
from smart.experiment.grid import Grid, Values

SPREAD = 0.02
"""Rows of a block whose effective sizes differ by more are not a fair comparison, and are flagged."""
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Entry:
    """One score of the table."""

    runs: tuple[float, ...]
    """One score per seed."""
    interval: Interval
    """Its mean, and 95 % bounds over what is drawn, and over seeds where there are several."""
    drawn: str = ""
    """The sample: items within subtasks, or tasks."""
    against: Difference | None = None
    """How much higher than the baseline; None for the baseline itself, or where it is not there."""
    adjusted: float | None = None
    """Its p-value, adjusted for all comparisons of the table with a baseline (Holm); None where there is no test."""
    best: bool = False
    """The best of its block, or equal to it."""
    near_best: bool = False
    """Not the best of its block, and not distinguishable from it by a test."""

    @property
    def mean(self) -> float:
        return self.interval.value

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds; None for a single one."""
        return float(np.std(self.runs, ddof=1)) if len(self.runs) > 1 else None


@dataclass(frozen=True)
class TableRow:
    values: Values
    block: tuple[str, ...] | None
    """None: a model that was not tuned, which does not compete."""
    baseline: bool
    state: str
    """done, or what keeps the row from its scores, with how many seeds are there."""
    sizes: dict[str, float]
    """Effective rows, tokens, supervised tokens and steps: means over seeds."""
    flagged: tuple[str, ...] = ()
    """Sizes that are spread over more than SPREAD within the block."""
    entries: tuple[Entry | None, ...] = ()
    """One for each metric; None where there is no score."""


@dataclass(frozen=True)
class Material:
    """A row before any statistics."""

    values: Values
    tuned: bool
    state: str
    scores: tuple[Scores, ...]
    """One entry per finished run; a run that several seeds share stands once."""
    sizes: tuple[dict[str, float], ...]


def make_rows(grid: Grid, materials: Sequence[Material], metrics: Sequence[Metric]) -> list[TableRow]:
    """Every row with its entries, comparisons and marks."""
    rows = [
        TableRow(
            values=material.values,
            block=grid.block(material.values) if material.tuned else None,
            baseline=material.tuned and grid.is_baseline(material.values),
            state=material.state,
            sizes=_mean_sizes(material.sizes),
            entries=tuple(_entry(distinct(material.scores), metric) for metric in metrics),
        )
        for material in materials
    ]
    rows = _flag(rows)
    differ = _Differ(materials, metrics)
    rows = _against(rows, differ, _baselines(rows))
    return _mark_best(rows, differ, metrics)


def _entry(scores: Sequence[Scores], metric: Metric) -> Entry | None:
    if not scores or any(metric not in one.metrics for one in scores):
        return None
    items = [one.items(metric) for one in scores]
    runs = tuple(mean_score(one, metric.average) for one in items)
    bounded = all(one.bounded(metric) for one in scores)
    drawn = scores[0].drawn(metric)
    if len(items) == 1:
        return Entry(runs, score_interval(items[0], metric.average, bounded=bounded), drawn)
    return Entry(runs, mean_interval(_stacked(items), metric.average, bounded=bounded), drawn)


def _stacked(runs: Sequence[list[np.ndarray]]) -> list[np.ndarray]:
    """For each subtask, float (runs, items)."""
    return [np.stack(subtask) for subtask in zip(*runs, strict=True)]


def _mean_sizes(sizes: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([one[key] for one in sizes])) for key in sizes[0]} if sizes else {}


def _flag(rows: Sequence[TableRow]) -> list[TableRow]:
    def spread(row: TableRow, key: str) -> float:
        found = [other.sizes[key] for other in rows if other.block == row.block and key in other.sizes]
        return float((max(found) - min(found)) / np.mean(found)) if any(found) else 0.0

    return [
        replace(
            row,
            flagged=tuple(key for key in row.sizes if row.block is not None and spread(row, key) > SPREAD),
        )
        for row in rows
    ]


class _Differ:
    """Differences between rows under each metric, each computed once."""

    def __init__(self, materials: Sequence[Material], metrics: Sequence[Metric]) -> None:
        self._scores, self._metrics = [distinct(material.scores) for material in materials], metrics
        self._known: dict[tuple[int, int, int], Difference | None] = {}

    def __call__(self, first: int, second: int, metric: int) -> Difference | None:
        """How much higher row `first` scores than `second`; None where one of them has no scores."""
        key = (first, second, metric)
        if key not in self._known:
            self._known[key] = self._difference(*key)
        return self._known[key]

    def _difference(self, first: int, second: int, metric: int) -> Difference | None:
        column, scores = self._metrics[metric], [self._scores[row] for row in (first, second)]
        everyone = [one for side in scores for one in side]
        alike = all(column in one.metrics and one.same_items(everyone[0], column) for one in everyone)
        if not all(scores) or not alike:
            return None
        bounded = all(one.bounded(column) for side in scores for one in side)
        sides = [[one.items(column) for one in side] for side in scores]
        if len(sides[0]) == len(sides[1]) == 1:
            return paired_difference(sides[0][0], sides[1][0], column.average, bounded=bounded)
        one, other = map(_stacked, sides)
        return group_difference(one, other, column.average, bounded=bounded)


def _baselines(rows: Sequence[TableRow]) -> dict[int, int]:
    """Each competing row's place → its baseline's."""
    by_block = {row.block: place for place, row in enumerate(rows) if row.baseline}
    return {
        place: by_block[row.block]
        for place, row in enumerate(rows)
        if row.block is not None and not row.baseline and row.block in by_block
    }


def _against(rows: Sequence[TableRow], differ: _Differ, baselines: Mapping[int, int]) -> list[TableRow]:
    found = _family(rows, lambda place, _: baselines.get(place), differ)
    return _updated(
        rows, {place: {"against": difference, "adjusted": p} for place, (difference, p) in found.items()}
    )


def _mark_best(rows: Sequence[TableRow], differ: _Differ, metrics: Sequence[Metric]) -> list[TableRow]:
    columns: dict[tuple[tuple[str, ...], int], dict[int, float]] = {}
    for place, row in enumerate(rows):
        for column, entry in enumerate(row.entries):
            if entry is not None and row.block is not None:
                columns.setdefault((row.block, column), {})[place] = metrics[column].sign * entry.mean
    best = {where: _highest(means) for where, means in columns.items()}

    def best_of(place: int, column: int) -> int | None:
        block = rows[place].block
        champions = best.get((block, column), []) if block is not None else []
        return champions[0] if champions and place not in champions else None

    found = _family(rows, best_of, differ)
    near: dict[tuple[int, int], dict[str, object]] = {
        where: {"near_best": p is not None and p >= LEVEL} for where, (_, p) in found.items()
    }
    marks: dict[tuple[int, int], dict[str, object]] = {
        (place, column): {"best": True}
        for (block, column), champions in best.items()
        for place in champions
        if _rivals(rows, block)
    }
    return _updated(rows, {**near, **marks})


def _highest(means: Mapping[int, float]) -> list[int]:
    """The places of the highest; all of them, where several are equal but for rounding."""
    top = max(means.values())
    return [place for place, mean in means.items() if top - mean <= _ROUNDING * abs(top)]


def _rivals(rows: Sequence[TableRow], block: tuple[str, ...]) -> bool:
    return sum(row.block == block and any(row.entries) for row in rows) > 1


def _family(
    rows: Sequence[TableRow], other: Callable[[int, int], int | None], differ: _Differ
) -> dict[tuple[int, int], tuple[Difference, float | None]]:
    """All comparisons of the table with the row that `other` names, and their p-values after Holm."""
    found: dict[tuple[int, int], Difference] = {}
    for place, row in enumerate(rows):
        for column, entry in enumerate(row.entries):
            rival = other(place, column)
            if entry is not None and rival is not None and (difference := differ(place, rival, column)):
                found[place, column] = difference
    adjusted = adjust(list(found.values()))
    return {where: (found[where], p) for where, p in zip(found, adjusted, strict=True)}


def _updated(
    rows: Sequence[TableRow], changes: Mapping[tuple[int, int], dict[str, object]]
) -> list[TableRow]:
    return [
        replace(
            row,
            entries=tuple(
                entry and replace(entry, **changes.get((place, column), {}))  # type: ignore[arg-type]
                for column, entry in enumerate(row.entries)
            ),
        )
        for place, row in enumerate(rows)
    ]
