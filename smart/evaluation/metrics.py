"""A folder of scores as its readers want it: metrics, and for each an array of numbers to draw from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from smart.evaluation.scores import (
    LOWER_IS_BETTER,
    UNSEEN,
    describe_draw,
    drawn_tasks,
    draws_tasks,
    is_bounded,
    read_scores,
    values_of,
)
from smart.evaluation.statistics import Average
from smart.runtime.manifest import read_manifest


@dataclass(frozen=True)
class Metric:
    """A column of the table."""

    part: str
    metric: str
    filter: str
    average: Average
    """Micro, over items, where items are decisions; macro, over tasks, of unseen tasks and losses per token."""
    chance: float | None = field(default=None, compare=False)
    """The score of answers without thought; None where there is none."""

    @property
    def name(self) -> str:
        """What `metrics` calls it: mmlu/acc."""
        return f"{self.part}/{self.metric}"

    @property
    def label(self) -> str:
        """The name with its filter: mmlu acc, strict-match."""
        return f"{self.part} {self.metric}" + ("" if self.filter == "none" else f", {self.filter}")

    @property
    def lines(self) -> list[str]:
        """The title in lines: what is asked, what is counted, and the score of chance."""
        counted = self.label.removeprefix(f"{self.part} ")
        return [self.part, counted, *([] if self.chance is None else [f"(chance {self.chance:.3f})"])]

    @property
    def title(self) -> str:
        return " ".join(self.lines)

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return -1 if self.metric in LOWER_IS_BETTER else 1


@dataclass(frozen=True)
class Scores:
    """One folder of scores."""

    name: str
    key: str
    values: dict[tuple[str, str, str], np.ndarray]
    """(task, metric, filter) → a number for each item, whose mean is the task's score."""
    parts: dict[str, list[str]]
    questions: dict[str, str]
    """Task → hash of its prompts and targets."""
    metrics: tuple[Metric, ...]

    @classmethod
    def read(cls, folder: Path) -> Scores:
        samples, results = read_scores(folder)
        values = values_of(samples)
        metrics = [
            _metric(row) for row in results["scores"] if _is_mean(row, results["parts"][row["part"]], values)
        ]
        key = (read_manifest(folder) or {}).get("key", "")
        return cls(
            folder.resolve().name, key, values, results["parts"], results["task_hashes"], tuple(metrics)
        )

    @property
    def identity(self) -> str:
        """The key, by which a run is told from another; for folders without a manifest, their name."""
        return self.key or self.name

    def items(self, metric: Metric) -> list[np.ndarray]:
        """The sample: for each task of the metric's part, float (items,); of unseen tasks, one float (tasks,)."""
        each = self._tasks(metric)
        return drawn_tasks(each) if self.draws_tasks(metric) else each

    def draws_tasks(self, metric: Metric) -> bool:
        return draws_tasks(metric.part, self.parts[metric.part])

    def drawn(self, metric: Metric) -> str:
        """The sample in words."""
        return describe_draw(self._tasks(metric), self.draws_tasks(metric))

    def bounded(self, metric: Metric) -> bool:
        """True if a mean can't leave [0, 1]."""
        return is_bounded(metric.metric, self._tasks(metric))

    def _tasks(self, metric: Metric) -> list[np.ndarray]:
        return [self.values[task, metric.metric, metric.filter] for task in self.parts[metric.part]]


def distinct(scores: Sequence[Scores]) -> tuple[Scores, ...]:
    """Each run once, however often it is named: a run says nothing of how seeds differ from itself."""
    return tuple({one.identity: one for one in reversed(scores)}.values())[::-1]


def _is_mean(row: dict[str, Any], tasks: list[str], values: dict[tuple[str, str, str], np.ndarray]) -> bool:
    """True if a score is the mean of its items, and not aggregated in a way of its own."""
    items = [values.get((task, row["metric"], row["filter"])) for task in tasks]
    means = [scores.mean() for scores in items if scores is not None]
    return len(means) == len(tasks) and bool(np.isclose(np.mean(means), row["macro"]["value"], rtol=1e-6))


def _metric(row: dict[str, Any]) -> Metric:
    average: Average = "micro" if "micro" in row and not row["part"].startswith(UNSEEN) else "macro"
    return Metric(row["part"], row["metric"], row["filter"], average, row.get("chance", {}).get(average))
