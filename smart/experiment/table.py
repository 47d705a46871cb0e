"""A table: means over seeds with intervals, each row against its baseline and against the best of its block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from smart.evaluation.metrics import Metric, Scores
from smart.evaluation.statistics import (
    Difference,
    Interval,
    group_difference,
    holm,
    mean_score,
    paired_difference,
    score_interval,
)
from smart.experiment.grid import Grid, Values

LEVEL = 0.05
SPREAD = 0.02
"""Rows of a block whose effective sizes differ by more are not a fair comparison, and are flagged."""


@dataclass(frozen=True)
class Entry:
    """One score of the table."""

    runs: tuple[float, ...]
    """One score per seed."""
    interval: Interval
    """Its mean, and 95 % bounds over items, and over seeds where there are several."""
    against: Difference | None = None
    """How much higher than the baseline; None for the baseline itself, or where it is not there."""
    adjusted: float | None = None
    """Its p-value, adjusted for all comparisons of the table with a baseline (Holm)."""
    best: bool = False
    near_best: bool = False
    """Not the best of its block, and not distinguishable from it."""

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
    """One entry per finished seed."""
    sizes: tuple[dict[str, float], ...]


def make_rows(
    grid: Grid, materials: Sequence[Material], metrics: Sequence[Metric], seed: int = 23
) -> list[TableRow]:
    """Every row with its entries, comparisons and marks."""
    rows = [
        TableRow(
            values=material.values,
            block=grid.block(material.values) if material.tuned else None,
            baseline=material.tuned and grid.is_baseline(material.values),
            state=material.state,
            sizes=_mean_sizes(material.sizes),
            entries=tuple(_entry(material.scores, metric, seed) for metric in metrics),
        )
        for material in materials
    ]
    rows = _flag(rows)
    differ = _Differ(materials, metrics, seed)
    rows = _against(rows, differ, _baselines(rows))
    return _mark_best(rows, differ, metrics)


def _entry(scores: Sequence[Scores], metric: Metric, seed: int) -> Entry | None:
    if not scores:
        return None
    items = [one.items(metric) for one in scores]
    runs = tuple(mean_score(one, metric.average) for one in items)
    if len(items) == 1:
        return Entry(runs, score_interval(items[0], metric.average, seed=seed))
    stacked = [np.stack(task) for task in zip(*items, strict=True)]
    nothing = [np.zeros((2, task.shape[1])) for task in stacked]  # against zeros, the difference is the mean
    return Entry(runs, group_difference(stacked, nothing, metric.average, seed=seed).interval)


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

    def __init__(self, materials: Sequence[Material], metrics: Sequence[Metric], seed: int) -> None:
        self._materials, self._metrics, self._seed = materials, metrics, seed
        self._known: dict[tuple[int, int, int], Difference | None] = {}

    def __call__(self, first: int, second: int, metric: int) -> Difference | None:
        """How much higher row `first` scores than `second`; None where seeds of one side alone are several."""
        key = (first, second, metric)
        if key not in self._known:
            self._known[key] = self._difference(*key)
        return self._known[key]

    def _difference(self, first: int, second: int, metric: int) -> Difference | None:
        column = self._metrics[metric]
        sides = [[one.items(column) for one in self._materials[row].scores] for row in (first, second)]
        if not all(sides) or (min(map(len, sides)) == 1 and max(map(len, sides)) > 1):
            return None
        if len(sides[0]) == 1:
            return paired_difference(sides[0][0], sides[1][0], column.average, seed=self._seed)
        a, b = ([np.stack(task) for task in zip(*side, strict=True)] for side in sides)
        return group_difference(a, b, column.average, seed=self._seed)


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
    best: dict[tuple[tuple[str, ...], int], int] = {}
    for place, row in enumerate(rows):
        for column, entry in enumerate(row.entries):
            if entry is None or row.block is None:
                continue
            now = best.setdefault((row.block, column), place)
            champion = rows[now].entries[column]
            assert champion is not None
            if metrics[column].sign * (entry.mean - champion.mean) > 0:
                best[row.block, column] = place

    def best_of(place: int, column: int) -> int | None:
        block = rows[place].block
        champion = best.get((block, column)) if block is not None else None
        return None if champion == place else champion

    found = _family(rows, best_of, differ)
    near: dict[tuple[int, int], dict[str, object]] = {
        where: {"near_best": not p < LEVEL} for where, (_, p) in found.items()
    }
    marks: dict[tuple[int, int], dict[str, object]] = {
        (place, column): {"best": True} for (block, column), place in best.items() if _rivals(rows, block)
    }
    return _updated(rows, {**near, **marks})


def _rivals(rows: Sequence[TableRow], block: tuple[str, ...]) -> bool:
    return sum(row.block == block and any(row.entries) for row in rows) > 1


def _family(
    rows: Sequence[TableRow], other: Callable[[int, int], int | None], differ: _Differ
) -> dict[tuple[int, int], tuple[Difference, float]]:
    """All comparisons of the table with the row that `other` names, and their p-values after Holm."""
    found: dict[tuple[int, int], Difference] = {}
    for place, row in enumerate(rows):
        for column, entry in enumerate(row.entries):
            rival = other(place, column)
            if entry is not None and rival is not None and (difference := differ(place, rival, column)):
                found[place, column] = difference
    adjusted = holm([difference.p for difference in found.values()])
    return {where: (found[where], float(p)) for where, p in zip(found, adjusted, strict=True)}


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
