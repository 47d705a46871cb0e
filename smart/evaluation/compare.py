"""Scores against scores: two models on the same items, or groups of runs over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from smart.config import UserError, counted
from smart.evaluation.metrics import Metric, Scores, differing_settings
from smart.evaluation.statistics import (
    FEWEST_SEEDS,
    LEVEL,
    Difference,
    adjust,
    group_difference,
    mean_score,
    paired_difference,
)
from smart.runtime.escapes import csv_lines, markdown
from smart.runtime.files import atomic_folder, write_atomic
from smart.runtime.manifest import make_key, write_manifest
from smart.runtime.plot_style import COLOURS, new_figure, save_figure, style

VERSION = 3


@dataclass(frozen=True)
class Comparison:
    """A suite and a metric, compared."""

    first: str
    second: str
    part: str
    metric: str
    drawn: str
    """The sample: items within subtasks, or tasks where these are a sample themselves."""
    scores: tuple[float, float]
    difference: Difference
    adjusted: float | None = None
    """Its p-value, adjusted for all rows of the table."""

    @property
    def significant(self) -> bool:
        return self.adjusted is not None and self.adjusted < LEVEL

    def sentence(self, runs: bool) -> str:
        what, interval = self.difference, self.difference.interval
        of = "the groups of runs" if runs else "the models"
        # The bounds point where the sentence does: first minus second, unless it calls the second one higher.
        turned = self.significant and interval.value < 0
        low, high = (-interval.high, -interval.low) if turned else (interval.low, interval.high)
        evidence = [
            f"95 % interval {low:+.4f} to {high:+.4f}" if interval.known else "no interval can be had"
        ]
        evidence += [f"{what.test} p = {what.p:.3g}, after Holm {self.adjusted:.3g}"]
        if what.gained is not None:
            evidence += [f"differ in {counted(what.gained + (what.lost or 0), 'decision')}"]
        evidence += ["few and skewed scores: the interval may be too narrow"] if interval.skewed else []
        said = f"({'; '.join(evidence)})"
        where = f"{self.part} ({self.metric}, {self.drawn})"
        if not self.significant:
            return (
                f"{where}: the difference of {interval.value:+.4f} between {of} {self.first} and {self.second}"
                f" is not significant {said}."
            )
        more, less = (self.first, self.second) if interval.value > 0 else (self.second, self.first)
        scope = "ways of making runs, as far as these seeds show" if runs else "two models only"
        return (
            f"{where}: {more} scores {abs(interval.value):.4f} higher than {less} {said}. This speaks of these"
            f" {scope}."
        )


def compare(spec: Any, output: Path | None, root: Path) -> tuple[Path, str]:
    """Compare what `spec` names, and write a table and a figure.

    Args:
        spec: two folders, or name → folders of runs that differ in their seed.

    Returns:
        The folder, and the sentences.

    Raises:
        UserError: for folders without scores, too few runs, or scores of other items.
    """
    groups = _groups(spec)
    read = {name: [Scores.read(Path(folder)) for folder in folders] for name, folders in groups.items()}
    runs = isinstance(spec, Mapping)
    _check_distinct(read)
    if not runs:
        read = {name: [scores] for name, (scores,) in zip(_names(read), read.values(), strict=True)}
    rows = [row for pair in combinations(read, 2) for row in _compare_pair(read, *pair)]
    adjusted = adjust([row.difference for row in rows])
    rows = [replace(row, adjusted=p) for row, p in zip(rows, adjusted, strict=True)]
    text = "\n".join([*(row.sentence(runs) for row in rows), *differing_settings(read)])
    keys = [scores.key for listed in read.values() for scores in listed]
    key = make_key({"names": list(read)}, keys, VERSION)
    folder = output or root / f"compare-{'-'.join(list(read)[:2])[:60]}-{key[:8]}"
    with atomic_folder(folder) as draft:
        _write_table(draft / "comparison.csv", rows)
        _draw(draft / "comparison.png", rows)
        write_atomic(
            draft / "README.md",
            f"# {markdown(' against '.join(read))}\n\n![](comparison.png)\n\n" + _bullets(text),
        )
        write_manifest(
            draft, {"kind": "comparison", "key": key, "inputs": keys, "config": {"compare": groups}}
        )
    return folder, text


def _groups(spec: Any) -> dict[str, list[str]]:
    if isinstance(spec, Mapping):
        if len(spec) < 2 or any(len(folders) < FEWEST_SEEDS for folders in spec.values()):
            raise UserError(
                f"compare: groups need at least {FEWEST_SEEDS} runs each, and there must be two:"
                " compare={smart:[A1,A2,A3],equal:[B1,B2,B3]}; for two models give compare=[A,B]"
            )
        return {str(name): [str(folder) for folder in folders] for name, folders in spec.items()}
    if not isinstance(spec, Sequence) or isinstance(spec, str) or len(spec) != 2 or spec[0] == spec[1]:
        raise UserError(f"compare={spec}: needs two different folders of scores: compare=[A,B]")
    return {str(folder): [str(folder)] for folder in spec}


def _check_distinct(read: Mapping[str, list[Scores]]) -> None:
    """Refuse a run that is named twice: it would count as a seed of its own.

    Raises:
        UserError: with the folders.
    """
    seen: dict[str, Scores] = {}
    for scores in (scores for listed in read.values() for scores in listed):
        twin = seen.setdefault(scores.identity, scores)
        if twin is not scores:
            raise UserError(
                f"compare: {twin.name} and {scores.name} are scores of one run (key {scores.identity[:8]}), and a run"
                " counts once: name runs that differ in their seed"
            )


def _names(read: Mapping[str, list[Scores]]) -> list[str]:
    names = [scores.name for (scores,) in read.values()]
    return names if len(set(names)) == len(names) else list(read)


def _compare_pair(read: Mapping[str, list[Scores]], first: str, second: str) -> list[Comparison]:
    everyone = [*read[first], *read[second]]
    metrics = _shared_metrics(everyone)
    if not metrics:
        raise UserError(f"compare: {first} and {second} have no suite in common")
    rows = []
    for metric in metrics:
        _check_questions(metric, everyone)
        a, b = (_stacked(read[name], metric) for name in (first, second))
        bounded = all(scores.bounded(metric) for scores in everyone)
        if len(everyone) == 2:
            one, other = ([x[0] for x in runs] for runs in (a, b))
            difference = paired_difference(one, other, metric.average, bounded=bounded)
        else:
            difference = group_difference(a, b, metric.average, bounded=bounded)
        means = [mean_score([x.mean(axis=0) for x in runs], metric.average) for runs in (a, b)]
        label = metric.metric + ("" if metric.filter == "none" else f", {metric.filter}")
        label += "" if metric.sign > 0 else ", lower is better"
        drawn = everyone[0].drawn(metric)
        rows.append(Comparison(first, second, metric.part, label, drawn, (means[0], means[1]), difference))
    return rows


def _shared_metrics(everyone: Sequence[Scores]) -> list[Metric]:
    one = everyone[0]
    return [
        metric
        for metric in one.metrics
        if all(
            metric in other.metrics and other.parts[metric.part] == one.parts[metric.part]
            for other in everyone
        )
    ]


def _check_questions(metric: Metric, everyone: Sequence[Scores]) -> None:
    one = everyone[0]
    for other in everyone[1:]:
        for task in one.parts[metric.part]:
            if other.questions[task] != one.questions[task]:
                sizes = [len(scores.values[task, metric.metric, metric.filter]) for scores in (one, other)]
                formats = [str(scores.settings.get("format")) for scores in (one, other)]
                asked = "" if formats[0] == formats[1] else f"; format {formats[0]}, and {formats[1]}"
                raise UserError(
                    f"compare: {one.name} and {other.name} did not answer the same prompts of {task} ({sizes[0]:,} and"
                    f" {counted(sizes[1], 'item')}{asked}): score both with the same limit, shots, format and data"
                )


def _stacked(runs: Sequence[Scores], metric: Metric) -> list[np.ndarray]:
    """For each task, float (runs, items); for tasks that are drawn themselves, one (runs, tasks)."""
    return [np.stack(each) for each in zip(*(scores.items(metric) for scores in runs), strict=True)]


def _bullets(text: str) -> str:
    return "".join(f"- {markdown(line)}\n" for line in text.splitlines())


def _write_table(path: Path, rows: Sequence[Comparison]) -> None:
    lines = [
        {
            "part": row.part,
            "metric": row.metric,
            "first": row.first,
            "second": row.second,
            "drawn": row.drawn,
            "first_score": row.scores[0],
            "second_score": row.scores[1],
            "difference": row.difference.interval.value,
            "low": row.difference.interval.low,
            "high": row.difference.interval.high,
            "test": row.difference.test,
            "p": row.difference.p,
            "p_holm": row.adjusted,
            "gained": row.difference.gained,
            "lost": row.difference.lost,
            "significant": row.significant,
            "skewed": row.difference.interval.skewed,
        }
        for row in rows
    ]
    cells: list[Sequence[object]] = [list(lines[0]), *(list(line.values()) for line in lines)]
    path.write_text(csv_lines(cells), encoding="utf-8", newline="")


def _draw(path: Path, rows: Sequence[Comparison]) -> None:
    with style():
        figure = new_figure(9, 1.6 + 0.45 * len(rows))
        axes = figure.subplots()
        for place, row in enumerate(rows):
            at, colour = row.difference.interval, COLOURS[0] if row.significant else "#888888"
            if at.known:
                axes.plot([at.low, at.high], [place, place], color=colour, linewidth=2)
            axes.plot(at.value, place, "o", color=colour, markersize=6)
        axes.axvline(0, color="black", linewidth=0.8)
        pairs = {(row.first, row.second) for row in rows}
        several = len(pairs) > 1
        labels = [
            f"{f'{row.first} − {row.second}: ' if several else ''}{row.part} ({row.metric})" for row in rows
        ]
        axes.set_yticks(range(len(rows)), labels)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        figure.supxlabel(
            "difference and 95 % interval (grey: not significant after Holm's correction)", fontsize=10
        )
        title = "Differences between groups of runs" if several else " − ".join(next(iter(pairs)))
        axes.set_title(title, fontsize=9)
        save_figure(figure, path)
