"""Scores of the cells of a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from smart.config import Problems, UserError, nearest
from smart.evaluation.heldout import METRICS as HELDOUT_METRICS
from smart.evaluation.metrics import Metric, Scores


def known_parts(suites: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, ...] | None]:
    """Part of the suites → its metrics; None where they are lm-eval's own, which are known afterwards."""
    parts: dict[str, tuple[str, ...] | None] = {}
    for suite in suites:
        names = suite["tasks"]
        unseen = not names or (suite.get("collection") and not set(names) & set(HELDOUT_METRICS))
        parts |= {name: HELDOUT_METRICS.get(name) for name in [*names, *(HELDOUT_METRICS if unseen else ())]}
    return parts


def check_metrics(wanted: Sequence[str] | None, suites: Sequence[Mapping[str, Any]]) -> None:
    """What can be told of `metrics` before anything is scored.

    Raises:
        ConfigError: with each that no suite has.
    """
    parts = known_parts(suites)
    problems = Problems()
    for name in wanted or ():
        part, _, metric = name.partition("/")
        if part not in parts:
            problems.add("metrics", name, "no suite of the grid has that part", nearest(part, parts))
        elif (known := parts[part]) is not None and metric not in known:
            problems.add("metrics", name, f"{part} has {', '.join(known)}", nearest(metric, known))
    problems.raise_if_any()


def table_metrics(groups: Iterable[Sequence[Scores]], wanted: Sequence[str] | None) -> list[Metric]:
    """The columns of a table: the metrics of each group of cells that are scored alike.

    Raises:
        UserError: where `wanted` names one that none has, or cells of a group answered other questions.
    """
    found: dict[Metric, Metric] = {}
    for metric in [metric for group in groups for metric in shared_metrics(group, None)]:
        known = found.setdefault(metric, metric)
        if known.chance != metric.chance:  # other questions of the same name
            found[metric] = replace(metric, chance=None)
    return _wanted(list(found.values()), wanted)


def shared_metrics(everyone: Sequence[Scores], wanted: Sequence[str] | None) -> list[Metric]:
    """The metrics that all folders have, which were scored alike.

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
    return _wanted([m for m in everyone[0].metrics if all(m in other.metrics for other in everyone)], wanted)


def _wanted(metrics: list[Metric], wanted: Sequence[str] | None) -> list[Metric]:
    if wanted is None or not metrics:
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
