"""What lm-eval found, as a table of samples and a list of scores with intervals; the folder that holds them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from smart.config import UserError
from smart.evaluation.statistics import score_interval
from smart.runtime.files import hash_bytes
from smart.runtime.manifest import open_artifact

SAMPLES = "samples.parquet"
RESULTS = "results.json"
DECISIONS = ("acc", "exact_match")
"""lm-eval's metrics that are 1 for a right answer and 0 for a wrong one."""
ACCURACIES = (*DECISIONS, "acc_norm")
"""Those for which guessing has a score."""

SCHEMA = pa.schema(
    {
        "task": pa.string(),
        "filter": pa.string(),
        "doc_id": pa.int64(),
        "doc_hash": pa.string(),
        "prompt_hash": pa.string(),
        "target_hash": pa.string(),
        "target": pa.string(),
        "responses": pa.list_(pa.string()),
        "filtered": pa.list_(pa.string()),
        "likelihoods": pa.list_(pa.float64()),
        "correct": pa.float64(),
        "metrics": pa.string(),
    }
)
"""A row for each item and filter. `likelihoods` are natural logarithms, one for each option; `metrics` is JSON."""


def samples_table(samples: Mapping[str, list[dict[str, Any]]]) -> pa.Table:
    """lm-eval's samples of each task, in SCHEMA."""
    rows = [_row(task, sample) for task, listed in samples.items() for sample in listed]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _row(task: str, sample: dict[str, Any]) -> dict[str, Any]:
    answers = [response[0] for response in sample["resps"]]
    scored = all(isinstance(answer, tuple | list) for answer in answers)
    metrics = {name: sample[name] for name in sample["metrics"]}
    decisions = [float(metrics[name]) for name in DECISIONS if name in metrics]
    return {
        **{name: sample[name] for name in SCHEMA.names if name in sample},
        "task": task,
        "target": str(sample["target"]),
        "responses": [] if scored else [str(answer) for answer in answers],
        "filtered": [] if scored else [str(answer) for answer in sample["filtered_resps"]],
        "likelihoods": [answer[0] for answer in answers] if scored else [],
        "correct": decisions[0] if decisions else None,
        "metrics": json.dumps(metrics),
    }


def values_of(samples: pa.Table) -> dict[tuple[str, str, str], np.ndarray]:
    """(task, metric, filter) → the number of each item, in the order of doc_id; metrics that are numbers alone."""
    found: dict[tuple[str, str, str], list[tuple[int, float]]] = {}
    columns = (samples[name].to_pylist() for name in ("task", "filter", "doc_id", "metrics"))
    for task, filter_name, doc, metrics in zip(*columns, strict=True):
        for metric, value in json.loads(metrics).items():
            if isinstance(value, int | float):
                found.setdefault((task, metric, filter_name), []).append((doc, float(value)))
    return {key: np.array([value for _, value in sorted(items)]) for key, items in found.items()}


def summarize(
    samples: pa.Table,
    parts: Mapping[str, list[str]],
    results: Mapping[str, Any],
    categories: Mapping[str, str],
    chance: Mapping[str, float],
) -> list[dict[str, Any]]:
    """Scores of each part of a suite under each metric and filter, with 95 % intervals over items.

    Args:
        parts: name → its tasks.
        results: lm-eval's `results`, for metrics that it aggregates in a way of its own.
        categories: task → its category, for the mean over categories of their means over tasks.
        chance: task → the share of right answers that needs no thought.
    """
    values = values_of(samples)
    rows = []
    for part, tasks in parts.items():
        for metric, filter_name in dict.fromkeys(_metrics(results, tasks)):
            row: dict[str, Any] = {
                "part": part,
                "metric": metric,
                "filter": filter_name,
                "subtasks": len(tasks),
            }
            items = [values.get((task, metric, filter_name)) for task in tasks]
            means = np.array([results[task][f"{metric},{filter_name}"] for task in tasks])
            if all(scores is not None for scores in items):
                scores = [scores for scores in items if scores is not None]
                row["items"] = sum(map(len, scores))
                row["micro"], row["macro"] = (vars(score_interval(scores, a)) for a in ("micro", "macro"))
            else:
                row["macro"] = {"value": float(means.mean())}
            if set(tasks) <= set(categories):
                row["macro_categories"] = _by_category(tasks, means, categories)
            if metric in ACCURACIES and set(tasks) <= set(chance):
                row["chance"] = _chance([chance[task] for task in tasks], items)
            rows.append(row)
    return rows


def _chance(each: list[float], items: list[np.ndarray | None]) -> dict[str, float]:
    """Averaged as the scores are."""
    weights = [0 if scores is None else len(scores) for scores in items]
    macro = float(np.mean(each))
    return {"micro": float(np.average(each, weights=weights)) if sum(weights) else macro, "macro": macro}


def _metrics(results: Mapping[str, Any], tasks: list[str]) -> list[tuple[str, str]]:
    keys = [key.split(",") for task in tasks for key in results[task] if "," in key]
    found = [(metric, filter_name) for metric, filter_name in keys if not metric.endswith("_stderr")]
    return [key for key in found if all(",".join(key) in results[task] for task in tasks)]


def _by_category(tasks: list[str], means: np.ndarray, categories: Mapping[str, str]) -> dict[str, Any]:
    of = np.array([categories[task] for task in tasks])
    each = {str(name): float(means[of == name].mean()) for name in np.unique(of)}
    return {"value": float(np.mean(list(each.values()))), "each": each}


def task_hashes(samples: pa.Table) -> dict[str, str]:
    """Task → hash of its prompts and targets: equal where two runs answered the very same questions."""
    columns = (
        samples[name].to_pylist() for name in ("task", "filter", "doc_id", "prompt_hash", "target_hash")
    )
    listed: dict[str, list[tuple[Any, ...]]] = {}
    for task, *rest in zip(*columns, strict=True):
        listed.setdefault(task, []).append(tuple(rest))
    return {task: hash_bytes([repr(sorted(rows)).encode()]) for task, rows in listed.items()}


def write_scores(folder: Path, samples: pa.Table, results: Mapping[str, Any]) -> None:
    pq.write_table(samples, folder / SAMPLES, compression="zstd")
    (folder / RESULTS).write_text(json.dumps(results, indent=2, default=str) + "\n", encoding="utf-8")


def read_scores(folder: Path) -> tuple[pa.Table, dict[str, Any]]:
    """Samples and results of a folder of scores.

    Raises:
        UserError: where it holds none.
        DamagedError: where they are not what was written.
    """
    open_artifact(folder)
    if not (folder / SAMPLES).is_file() or not (folder / RESULTS).is_file():
        raise UserError(
            f"compare: {folder} holds no scores ({RESULTS} and {SAMPLES}); python evaluate.py writes them"
        )
    return pq.read_table(folder / SAMPLES), json.loads((folder / RESULTS).read_text())


def describe(scores: list[dict[str, Any]]) -> str:
    """The table that a run ends with."""
    rows = [("suite", "metric", "items", "micro (95 % interval)", "macro")]
    for row in scores:
        micro = row.get("micro")
        shown = f"{micro['value']:.4f} ({micro['low']:.4f} to {micro['high']:.4f})" if micro else ""
        metric = row["metric"] if row["filter"] == "none" else f"{row['metric']}, {row['filter']}"
        rows.append((row["part"], metric, f"{row.get('items', '')}", shown, f"{row['macro']['value']:.4f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
