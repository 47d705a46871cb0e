"""Scores of the cells of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from smart.config import Problems, UserError, nearest
from smart.evaluation.heldout import METRICS as HELDOUT_METRICS
from smart.evaluation.metrics import Metric, Scores


def check_metrics(wanted: Sequence[str] | None, suites: Sequence[Mapping[str, Any]]) -> None:
    """What can be told of `metrics` before anything is scored: the names of lm-eval's own are known afterwards.

    Raises:
        ConfigError: with each that no suite has.
    """
    parts: dict[str, tuple[str, ...] | None] = {}
    for suite in suites:
        for name in suite["tasks"] or HELDOUT_METRICS:
            parts[name] = HELDOUT_METRICS.get(name)
    problems = Problems()
    for name in wanted or ():
        part, _, metric = name.partition("/")
        if part not in parts:
            problems.add("metrics", name, "no suite of the grid has that part", nearest(part, parts))
        elif (known := parts[part]) is not None and metric not in known:
            problems.add("metrics", name, f"{part} has {', '.join(known)}", nearest(metric, known))
    problems.raise_if_any()


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
