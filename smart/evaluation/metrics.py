"""A folder of scores as its readers want it: metrics, and for each an array of numbers to draw from."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from smart.evaluation.scores import read_scores, values_of
from smart.evaluation.statistics import Average
from smart.runtime.manifest import read_manifest

LOWER_IS_BETTER = ("loss",)
UNSEEN = "heldout_"
"""What the parts of a file of unseen tasks begin with."""
FEWEST_TASKS = 10
"""Unseen tasks from which it can be told how much tasks differ."""


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
    def title(self) -> str:
        chance = "" if self.chance is None else f" (chance {self.chance:.3f})"
        return f"{self.part} {self.metric}" + ("" if self.filter == "none" else f", {self.filter}") + chance

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
        values = {**values_of(samples), **_per_token(samples)}
        found = [_metric(row) for row in results["scores"]]
        metrics = [
            metric
            for metric in found
            if all((task, metric.metric, metric.filter) in values for task in results["parts"][metric.part])
        ]
        key = (read_manifest(folder) or {}).get("key", "")
        return cls(
            folder.resolve().name, key, values, results["parts"], results["task_hashes"], tuple(metrics)
        )

    def items(self, metric: Metric) -> list[np.ndarray]:
        """What bootstrap draws from: for each task of the metric's part, float (items,).

        Unseen tasks are a sample of tasks, and are drawn themselves, with all their items (clusters: Davison & Hinkley
        1997, section 3.8): their means are the items then, one float (tasks,).
        """
        each = [self.values[task, metric.metric, metric.filter] for task in self.parts[metric.part]]
        return [np.array([scores.mean() for scores in each])] if self.draws_tasks(metric) else each

    def draws_tasks(self, metric: Metric) -> bool:
        return metric.part.startswith(UNSEEN) and len(self.parts[metric.part]) >= FEWEST_TASKS


def _metric(row: dict[str, Any]) -> Metric:
    average: Average = "micro" if "micro" in row and not row["part"].startswith(UNSEEN) else "macro"
    return Metric(row["part"], row["metric"], row["filter"], average, row.get("chance", {}).get(average))


def _per_token(samples: pa.Table) -> dict[tuple[str, str, str], np.ndarray]:
    """Losses that come with numbers of tokens, scaled so that their mean over items is the loss per token."""
    found: dict[tuple[str, str, str], list[tuple[int, float, float]]] = {}
    columns = (samples[name].to_pylist() for name in ("task", "filter", "doc_id", "metrics"))
    for task, filter_name, doc, metrics in zip(*columns, strict=True):
        for metric, value in json.loads(metrics).items():
            if isinstance(value, list) and len(value) == 2:
                found.setdefault((task, metric, filter_name), []).append((doc, *value))
    scaled = {}
    for key, items in found.items():
        _, losses, tokens = np.array(sorted(items), float).T
        scaled[key] = losses * len(losses) / tokens.sum()
    return scaled
