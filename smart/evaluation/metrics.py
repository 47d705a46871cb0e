"""A folder of scores as its readers want it: metrics, and for each an array of numbers to draw from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
from smart.templates import SEPARATOR

SETTINGS = ("dtype", "four_bit", "batch_size", "max_length", "attention", "device")
"""What scores depend on beside model and tasks, of results.json's `model`."""
ADDED_SETTINGS = {
    "adapter_dtype": "float32",
    "merged": False,
    "tf32": False,
    "generation_batch_size": None,
}
"""More of them, and what holds where results don't say it."""


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
    settings: dict[str, Any] = field(default_factory=dict)
    """How the model was asked, as far as scores depend on it."""

    @classmethod
    def read(cls, folder: Path) -> Scores:
        samples, results = read_scores(folder)
        values = values_of(samples)
        metrics = [
            _metric(row) for row in results["scores"] if _is_mean(row, results["parts"][row["part"]], values)
        ]
        key = (read_manifest(folder) or {}).get("key", "")
        parts, questions, settings = results["parts"], results["task_hashes"], _settings(results)
        return cls(folder.resolve().name, key, values, parts, questions, tuple(metrics), settings)

    @property
    def identity(self) -> str:
        """The key, by which a run is told from another; for folders without a manifest, their name."""
        return self.key or self.name

    def items(self, metric: Metric) -> list[np.ndarray]:
        """The sample: for each task of the metric's part, float (items,); of unseen tasks, one float (tasks,)."""
        each = self._tasks(metric)
        return drawn_tasks(each) if self.draws_tasks(metric) else each

    def same_items(self, other: Scores, metric: Metric) -> bool:
        """True if both answered the same questions under a metric."""
        tasks = self.parts.get(metric.part, [])
        return other.parts.get(metric.part) == tasks and all(
            self.questions.get(task) == other.questions.get(task) for task in tasks
        )

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


def differing_settings(named: Mapping[str, Sequence[Scores]]) -> list[str]:
    """A sentence for each setting in which scores that are compared differ.

    Args:
        named: name → the scores that go by it.
    """
    everyone = [one for listed in named.values() for one in listed]
    lines = []
    for setting in everyone[0].settings if everyone else ():
        if not all(setting in one.settings for one in everyone):
            continue
        of: dict[str, list[str]] = {}
        for name, listed in named.items():
            for value in dict.fromkeys(_shown(one.settings[setting]) for one in listed):
                of.setdefault(value, []).append(name)
        if len(of) > 1:
            values = "; ".join(f"{value} for {', '.join(names)}" for value, names in of.items())
            lines.append(f"Not scored alike: {setting} is {values}.")
    return lines


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _settings(results: Mapping[str, Any]) -> dict[str, Any]:
    model = results.get("model", {})
    found = {name: model.get(name) for name in SETTINGS}
    found |= {name: model.get(name, default) for name, default in ADDED_SETTINGS.items()}
    found["separator"] = repr(model.get("separator", SEPARATOR))
    if found["dtype"] == "float32":  # then batches change rounding alone
        del found["batch_size"], found["generation_batch_size"]
    found["format"] = _format(results)
    found["limit"] = results.get("limit")
    found["version of the scores"] = results.get("version", "before 3")
    return found | {f"version of {name}": number for name, number in results.get("packages", {}).items()}


def _format(results: Mapping[str, Any]) -> str:
    """plain, or chat with all that the template was told."""
    said = results.get("model", {}).get("format")
    if said is None:  # before there were formats, chat_template said it
        return "chat" if results.get("chat_template") else "plain"
    told = [
        f"{name} {json.dumps(said[name])}"
        for name in ("system", "thinking", "date")
        if said.get(name) is not None
    ]
    return ", ".join([f"chat by the template {said['template'][:8]}", *told])


def _metric(row: dict[str, Any]) -> Metric:
    average: Average = "micro" if "micro" in row and not row["part"].startswith(UNSEEN) else "macro"
    return Metric(row["part"], row["metric"], row["filter"], average, row.get("chance", {}).get(average))
