"""Scores of the cells of a table: from folders to arrays of items."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from smart.config import UserError, nearest
from smart.evaluation.scores import read_scores, values_of
from smart.evaluation.statistics import Average

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
        return cls(values, results["parts"], results["task_hashes"], tuple(metrics))

    def items(self, metric: Metric) -> list[np.ndarray]:
        """What bootstrap draws from: for each task of the metric's part, float (items,).

        Unseen tasks are a sample of tasks, and are drawn themselves, with all their items (clusters: Davison & Hinkley
        1997, section 3.8): their means are the items then, one float (tasks,).
        """
        each = [self.values[task, metric.metric, metric.filter] for task in self.parts[metric.part]]
        clusters = metric.part.startswith(UNSEEN) and len(each) >= FEWEST_TASKS
        return [np.array([scores.mean() for scores in each])] if clusters else each


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


def shared_metrics(everyone: Sequence[Scores], wanted: Sequence[str] | None) -> list[Metric]:
    """The metrics that all folders have.

    Raises:
        UserError: where `wanted` names one that is not there, or the folders hold answers to other questions.
    """
    if not everyone:
        return []
    for other in everyone[1:]:
        common = set(everyone[0].questions) & set(other.questions)
        if any(everyone[0].questions[task] != other.questions[task] for task in common):
            raise UserError(
                "the cells of this table did not answer the same questions: a data file changed between their"
                " evaluations; remove the older folders under scores, and run the same command"
            )
    metrics = [m for m in everyone[0].metrics if all(m in other.metrics for other in everyone)]
    if wanted is None:
        return metrics
    known = [metric.name for metric in metrics]
    if unknown := [name for name in wanted if name not in known]:
        raise UserError(f"metrics: the suite has no {unknown[0]}. {nearest(unknown[0], set(known))}")
    return [metric for name in wanted for metric in metrics if metric.name == name]


def read_all(folders: dict[str, Path]) -> dict[str, Scores]:
    return {name: Scores.read(folder) for name, folder in folders.items()}


def count(manifest: dict[str, Any]) -> dict[str, float]:
    """What a training run really learnt from."""
    counts = manifest.get("counts", {})
    names = {
        "rows": "examples",
        "tokens": "tokens",
        "supervised tokens": "supervised_tokens",
        "steps": "steps",
    }
    return {ours: float(counts[theirs]) for ours, theirs in names.items() if theirs in counts}
