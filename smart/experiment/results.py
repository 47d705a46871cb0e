"""From what lies on the disk to a table and its report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from smart.config import counted, deciding
from smart.evaluation.metrics import Metric, Scores, differing_settings, distinct
from smart.evaluation.scores import keep_numbers
from smart.experiment.config import ReproduceConfig
from smart.experiment.dry_run import spent
from smart.experiment.grid import Grid, heading, shown
from smart.experiment.reference import Published, read_reference
from smart.experiment.render import Table, as_csv, latex, markdown
from smart.experiment.report import TaskMap, report
from smart.experiment.run_graph import Cell, Study
from smart.experiment.scores import count, read_all, table_metrics
from smart.experiment.status import RunLog, Status, cell_status, is_done, manifest_of
from smart.experiment.table import Material, make_rows
from smart.experiment.table_figures import draw_figures
from smart.runtime.files import atomic_folder, hash_file, write_atomic
from smart.runtime.manifest import make_key, write_manifest

VERSION = 2
NUMBERS = "samples"
"""Folder beside a report that keeps what its intervals and p-values were computed from."""


def read_table(study: Study, run_log: RunLog, config: ReproduceConfig) -> Table:
    """The table of what is done.

    Raises:
        UserError: for unknown metrics, a reference file that cannot be used, or scores of other questions.
    """
    grid = study.grid
    published = read_reference(config.reference, grid)
    scores = read_all({cell.last.id: cell.last.folder for cell in study.cells if is_done(cell.last)})
    alike: dict[tuple[str, ...], list[Cell]] = {}
    for cell in study.cells:
        if cell.last.id in scores:
            alike.setdefault(grid.scored_by(cell.values), []).append(cell)
    groups = [[scores[cell.last.id] for cell in cells] for cells in alike.values()]
    metrics = table_metrics(groups, config.metrics)
    rows: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in study.cells:
        rows.setdefault((cell.seed is None, repr(cell.values)), []).append(cell)
    materials = [_material(cells, run_log, scores) for cells in rows.values()]
    notes = [*_notes(study), *_shared_seeds(materials), *_scored_apart(alike.values(), scores)]
    notes += _without_column(published, metrics)
    title, scored = config.title or grid.name, make_rows(grid, materials, metrics)
    return Table(title, grid, metrics, scored, notes, published, spent(study))


def _shared_seeds(materials: Sequence[Material]) -> list[str]:
    """Says where seeds name the same run, which then counts once."""
    counts = [(len(one.scores), len(distinct(one.scores))) for one in materials]
    lines = [
        f"{counted(named, 'seed')} name {counted(found, 'run')}, each counted once"
        for named, found in counts
        if named > found
    ]
    return [f"Seeds that change nothing are no seeds: {line}." for line in dict.fromkeys(lines)]


def _material(cells: list[Cell], run_log: RunLog, scores: Mapping[str, Scores]) -> Material:
    done = [cell for cell in cells if cell.last.id in scores]
    states = [cell_status(cell, run_log) for cell in cells]
    missing = list(dict.fromkeys(state for state in states if state is not Status.DONE))
    state = (
        f"{len(done)} of {counted(len(cells), 'seed')}; {', '.join(missing)}"
        if missing and done
        else ", ".join(missing)
    )
    sizes = [count(manifest_of(cell.runs[1])) for cell in done if cell.seed is not None]
    found = tuple(scores[cell.last.id] for cell in done)
    return Material(cells[0].values, cells[0].seed is not None, state or "done", found, tuple(sizes))


def _notes(study: Study) -> list[str]:
    """What the seed varies."""
    if len(study.grid.seeds) < 2:
        return []
    drawn = set(study.drawn.values())
    if drawn == {False}:
        return ["The seed varies training alone: selection is deterministic in every row."]
    if drawn == {True}:
        return ["The seed varies selection and training in every row."]
    return [
        "The seed varies training; where rows or tasks are drawn at random, it varies selection too; elsewhere"
        " selection is deterministic."
    ]


def _scored_apart(alike: Iterable[Sequence[Cell]], scores: Mapping[str, Scores]) -> list[str]:
    """Settings of the scores that differ where the grid does not vary them."""
    lines = []
    for cells in alike:
        named: dict[str, list[Scores]] = {}
        for cell in cells:
            values = [f"{heading(key)}={shown(key, value)}" for key, value in cell.values.items()]
            name = ", ".join([*values, *(["untuned"] if cell.seed is None else [])]) or "the row"
            named.setdefault(name, []).append(scores[cell.last.id])
        lines += differing_settings(named)
    return list(dict.fromkeys(lines))


def _without_column(published: Sequence[Published], metrics: Sequence[Metric]) -> list[str]:
    """Published values of metrics that the scores, once they are there, turn out not to have."""
    left = sorted({one.metric for one in published} - {metric.name for metric in metrics}) if metrics else []
    return [f"Published values of {', '.join(left)} have no column here."] if left else []


def table_config(config: ReproduceConfig, grid: Grid) -> dict[str, Any]:
    """What decides a table beside the scores."""
    found: dict[str, Any] = {"axes": grid.axes, "fixed": grid.fixed, "seeds": list(grid.seeds)}
    found |= {"baseline": grid.baseline, "title": config.title or grid.name, "command": config.command()}
    return found | deciding(config)


def table_inputs(config: ReproduceConfig) -> list[str]:
    """Hash of the published values, where there are any."""
    return [hash_file(config.reference)] if config.reference else []


def write_results(
    folder: Path,
    study: Study,
    run_log: RunLog,
    table: Table,
    task_map: TaskMap | None,
    config: ReproduceConfig,
) -> None:
    """Write table.md, table.tex, table.csv, figures/, report.html, and the numbers behind; the manifest last."""
    inputs = [manifest_of(cell.last)["key"] for cell in study.cells if is_done(cell.last)]
    inputs += table_inputs(config)
    asked_for = table_config(config, study.grid)
    with atomic_folder(folder) as draft:
        figures = draw_figures(draft / "figures", study, table)
        for name, text in {"md": markdown(table), "tex": latex(table), "csv": as_csv(table)}.items():
            write_atomic(draft / f"table.{name}", text)
        own = [f"--config-dir={folder}" for folder in config.composed.config_dirs]
        page = report(study, run_log, table, figures, task_map, config.command(), own)
        write_atomic(draft / "report.html", page)
        for cell in {cell.last.id: cell for cell in study.cells if is_done(cell.last)}.values():
            kept = draft / NUMBERS / cell.last.folder.name
            keep_numbers(cell.last.folder, kept)
            write_manifest(kept, {"kind": "scores", "key": manifest_of(cell.last)["key"]})
        manifest = {
            "kind": "table",
            "key": make_key(asked_for, inputs, VERSION),
            "inputs": inputs,
            "config": asked_for,
        }
        write_manifest(draft, {**manifest, "cells": [_cell(cell, run_log) for cell in study.cells]})


def _cell(cell: Cell, run_log: RunLog) -> dict[str, Any]:
    runs = [
        {"stage": run.stage, "folder": str(run.folder), "key": manifest_of(run).get("key")}
        for run in cell.runs
    ]
    values = {heading(key): value for key, value in cell.values.items()}
    return {"values": values, "seed": cell.seed, "state": str(cell_status(cell, run_log)), "runs": runs}
