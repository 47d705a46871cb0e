"""What lm-eval found, as a table of samples and a list of scores with intervals; the folder that holds them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from smart.config import UserError, counted
from smart.evaluation.statistics import Average, Interval, ratio_scores, score_interval, within_unit
from smart.runtime.files import hash_bytes
from smart.runtime.manifest import open_artifact

SAMPLES = "samples.parquet"
RESULTS = "results.json"
DECISIONS = ("acc", "exact_match")
"""lm-eval's metrics that are 1 for a right answer and 0 for a wrong one."""
ACCURACIES = (*DECISIONS, "acc_norm")
"""Those for which guessing has a score."""
UNSEEN = "heldout_"
"""What the parts of a file of unseen tasks begin with."""
FEWEST_TASKS = 10
"""Unseen tasks from which it can be told how much tasks differ."""
LOWER_IS_BETTER = ("loss",)

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

NUMBERS = ("task", "filter", "doc_id", "prompt_hash", "target_hash", "correct", "metrics")
"""The columns of SCHEMA that hold no text."""


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
    """(task, metric, filter) → a number for each item, in the order of doc_id, whose mean is the task's score.

    Losses come as pairs with their numbers of tokens; their mean is the loss per token (`ratio_scores`).
    """
    found: dict[tuple[str, str, str], list[tuple[float, ...]]] = {}
    columns = (samples[name].to_pylist() for name in ("task", "filter", "doc_id", "metrics"))
    for task, filter_name, doc, metrics in zip(*columns, strict=True):
        for metric, value in json.loads(metrics).items():
            numbers = value if isinstance(value, list) and len(value) == 2 else [value]
            if all(isinstance(number, int | float) for number in numbers):
                found.setdefault((task, metric, filter_name), []).append((doc, *map(float, numbers)))
    return {key: _scores(*np.array(sorted(items), float).T[1:]) for key, items in found.items()}


def _scores(numbers: np.ndarray, tokens: np.ndarray | None = None) -> np.ndarray:
    return numbers if tokens is None else ratio_scores(numbers, tokens)


def draws_tasks(part: str, tasks: Sequence[str]) -> bool:
    """True if the part's tasks are a sample of unseen ones, large enough to tell how much such tasks differ."""
    return part.startswith(UNSEEN) and len(tasks) >= FEWEST_TASKS


def drawn_tasks(tasks: Sequence[np.ndarray], average: Average = "macro") -> list[np.ndarray]:
    """Tasks that are a sample, as the items of one subtask: one float (tasks,) whose mean is the average.

    They are drawn with all their items: clusters (Davison & Hinkley 1997, section 3.8). Their mean over items is a
    ratio of two sums over tasks.
    """
    sums, sizes = np.array([[scores.sum(), len(scores)] for scores in tasks]).T
    return [ratio_scores(sums, sizes) if average == "micro" else sums / sizes]


def is_bounded(metric: str, scores: Sequence[np.ndarray]) -> bool:
    """True if a mean of the metric lies in [0, 1]. A loss may happen to be below 1 throughout, and need not be."""
    return metric not in LOWER_IS_BETTER and within_unit(*scores)


def summarize(
    samples: pa.Table,
    parts: Mapping[str, list[str]],
    results: Mapping[str, Any],
    categories: Mapping[str, str],
    chance: Mapping[str, float],
) -> list[dict[str, Any]]:
    """Scores of each part of a suite under each metric and filter, with 95 % intervals; of each of its tasks, too.

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
            scores = [each for each in items if each is not None]
            # A metric that lm-eval aggregates in a way of its own, such as a perplexity, is no mean of its items.
            if len(scores) == len(tasks) and np.allclose([each.mean() for each in scores], means, rtol=1e-6):
                row |= _intervals(part, metric, dict(zip(tasks, scores, strict=True)), categories)
            else:
                row["macro"] = {"value": float(means.mean())}
                if set(tasks) <= set(categories):
                    row["macro_categories"] = _by_category(tasks, means, categories)
            if metric in ACCURACIES and set(tasks) <= set(chance):
                row["chance"] = _chance([chance[task] for task in tasks], items)
            rows.append(row)
    return rows


def _intervals(
    part: str, metric: str, tasks: Mapping[str, np.ndarray], categories: Mapping[str, str]
) -> dict[str, Any]:
    """Means of a part and of each of its tasks, by what is drawn: tasks, or items within tasks."""
    items, bounded = list(tasks.values()), is_bounded(metric, list(tasks.values()))
    drawn = draws_tasks(part, list(tasks))

    def interval(average: Average) -> dict[str, Any]:
        sample = drawn_tasks(items, average) if drawn else items
        return score_interval(sample, average, bounded=bounded).as_json()

    found: dict[str, Any] = {"items": sum(map(len, items)), "drawn": describe_draw(items, drawn)}
    if metric not in LOWER_IS_BETTER:  # losses per token have no mean over items
        found["micro"] = interval("micro")
    found["macro"] = interval("macro")
    if set(tasks) <= set(categories):
        means = np.array([scores.mean() for scores in items])
        by_category = _category_interval(list(tasks), items, categories, drawn, bounded).as_json()
        found["macro_categories"] = {**_by_category(list(tasks), means, categories), **by_category}
    found["tasks"] = {
        task: score_interval([scores], bounded=bounded).as_json() for task, scores in tasks.items()
    }
    return found


def describe_draw(tasks: Sequence[np.ndarray], drawn: bool) -> str:
    """What a sample consists of, in words.

    >>> describe_draw([np.ones(2)] * 57, drawn=False)
    '114 items in 57 subtasks'
    """
    items = counted(sum(map(len, tasks)), "item")
    if drawn:
        return counted(len(tasks), "task")
    return items if len(tasks) == 1 else f"{items} in {counted(len(tasks), 'subtask')}"


def _category_interval(
    tasks: list[str], items: list[np.ndarray], categories: Mapping[str, str], drawn: bool, bounded: bool
) -> Interval:
    """Of the mean over categories of their means over tasks."""
    of = [categories[task] for task in tasks]
    if drawn:
        grouped = [
            [scores for scores, name in zip(items, of, strict=True) if name == one] for one in sorted(set(of))
        ]
        return score_interval([drawn_tasks(each)[0] for each in grouped], "macro", bounded=bounded)
    weights = np.array([1 / (len(set(of)) * of.count(name)) for name in of])
    return score_interval(items, weights, bounded=bounded)


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


def losses_by_turn(samples: Mapping[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Task → for the first, second, … answer of its conversations the loss per supervised token.

    Of lm-eval's samples; tasks of other rows are left out.
    """
    found = {}
    for task, listed in samples.items():
        sums: dict[int, list[tuple[float, int]]] = {}
        for sample in listed:
            if "loss" in sample["metrics"] and len(answers := sample["doc"].get("answers") or ()) > 0:
                for turn, (response, ids) in enumerate(zip(sample["resps"], answers, strict=True), 1):
                    sums.setdefault(turn, []).append((-response[0][0], len(ids)))
        if sums:
            found[task] = [
                {
                    "turn": turn,
                    "loss": sum(loss for loss, _ in items) / sum(tokens for _, tokens in items),
                    "tokens": sum(tokens for _, tokens in items),
                    "conversations": len(items),
                }
                for turn, items in sorted(sums.items())
            ]
    return found


def describe_turns(turns: Mapping[str, list[dict[str, Any]]]) -> str:
    """A line with the loss of each turn over all tasks; empty where no conversation has two.

    >>> one, two = ({"turn": n, "loss": loss, "tokens": 2, "conversations": 1} for n, loss in ((1, 2.5), (2, 2.0)))
    >>> describe_turns({"a": [one, two], "b": [{**one, "loss": 1.5}]})
    'Loss per token by turn: 1: 2.0000, 2: 2.0000'
    """
    sums: dict[int, list[tuple[float, int]]] = {}
    for row in (row for listed in turns.values() for row in listed):
        sums.setdefault(row["turn"], []).append((row["loss"] * row["tokens"], row["tokens"]))
    means = (
        f"{turn}: {sum(loss for loss, _ in items) / sum(tokens for _, tokens in items):.4f}"
        for turn, items in sorted(sums.items())
    )
    return f"Loss per token by turn: {', '.join(means)}" if len(sums) > 1 else ""


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
    rows = [("suite", "metric", "drawn", "micro (95 % interval)", "macro (95 % interval)")]
    for row in scores:
        metric = row["metric"] if row["filter"] == "none" else f"{row['metric']}, {row['filter']}"
        means = (_shown(row[average]) if average in row else "" for average in ("micro", "macro"))
        rows.append((row["part"], metric, row.get("drawn", ""), *means))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _shown(mean: Mapping[str, Any]) -> str:
    bounds = "" if mean.get("low") is None else f" ({mean['low']:.4f} to {mean['high']:.4f})"
    return f"{mean['value']:.4f}{bounds}" + (", skewed" if mean.get("skewed") else "")


def keep_numbers(source: Path, target: Path) -> None:
    """Copy a folder of scores without its texts: all statistics can be made from it again.

    It is a folder of scores itself, for `evaluate.py compare=`.
    """
    samples, results = read_scores(source)
    target.mkdir(parents=True)
    kept = {name: results[name] for name in ("scores", "parts", "task_hashes")}
    pq.write_table(samples.select(NUMBERS), target / SAMPLES, compression="zstd")
    (target / RESULTS).write_text(json.dumps(kept) + "\n", encoding="utf-8")
