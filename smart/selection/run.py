"""The paper's two stages from top to bottom: pool, vectors, tasks and budgets, instances, mixture."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from smart.config import UserError, code_of_targets
from smart.mixture import TaskBudgets, describe_turns, render_summary, sample_validation, write_mixture
from smart.mixture.budgets import read_tasks
from smart.mixture.exports import export_mixture
from smart.model.pretrained import read_tokenizer
from smart.reading import RowView
from smart.runtime.files import make_writable
from smart.runtime.hub import offline
from smart.runtime.locks import owned
from smart.runtime.logs import log_so_far
from smart.runtime.manifest import Artifact, is_made, versions
from smart.runtime.memory import peak_memory
from smart.runtime.names import file_stem
from smart.runtime.plans import writing_nothing
from smart.runtime.progress import Clock
from smart.runtime.tracking import flatten, is_unlogged, mark_unlogged, track
from smart.selection.config import SelectConfig
from smart.selection.decontamination import questions
from smart.selection.dry_run import describe_plan
from smart.selection.instances import approximation, choose_rows
from smart.selection.keys import mixture_key
from smart.selection.pool import Pool, read_pool
from smart.selection.tasks import budget_tasks, resolve_sizes
from smart.selection.vectors import distinct_in_groups, few_distinct, input_keys, make_vectors
from smart.submodular import single_threaded_blas

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SelectedMixture(Artifact):
    """A mixture folder."""

    summary: str = ""
    """A table for the terminal; empty where the mixture was there already."""

    @cached_property
    def rows(self) -> pa.Table:
        """The training rows: prompt, response, submixture, task_name, template_type, row, completion; or, with turns,
        messages (calls as JSON text), tools and chat_template_kwargs where any row has them, and the same labels."""
        return pq.read_table(self.path / "train.parquet")

    @cached_property
    def tasks(self) -> list[dict[str, str]]:
        """tasks.csv: one entry for each task of the pool."""
        return read_tasks(self.path / "tasks.csv")


@dataclass(frozen=True)
class _Selection:
    """What was chosen, and what the manifest says about how."""

    tasks: TaskBudgets
    rows: RowView
    task_means: np.ndarray | None
    """float32 (tasks, d); None where no function needed vectors."""
    warnings: list[str]
    counts: dict[str, int]
    distinct: dict[str, list[int]]
    approximation: dict[str, Any] | None


def select(config: SelectConfig) -> SelectedMixture:
    """Make the mixture that the configuration asks for, or find it made.

    Raises:
        Infeasible: where the pool or the selected tasks hold fewer rows than the budget.
        UserError: for a collection, an encoder or a folder that cannot be used.
    """
    make_writable("output_root", config.output_root)
    clock = Clock()
    with clock("collection"):
        pool = read_pool(config)
        num_tasks, budget = resolve_sizes(config, pool)
        inputs = input_keys(config, pool)
    key = mixture_key(config, inputs, budget)
    folder = config.output or config.output_root / "mixtures" / f"{_stem(config, pool)}-{key[:8]}"
    make_writable("output", folder.parent)
    with owned(folder):
        if made := _find(config, folder, key):
            return made
    # No lock meanwhile: processes that are asked for the same mixture share the work on what it is made from.
    selection = _select(config, pool, num_tasks, budget, inputs, clock)
    with owned(folder):
        if made := _find(config, folder, key):
            log.info("Another process has written the mixture by now.")
            return made
        wandb = config.output_root / "wandb"
        mark_unlogged(config.tracker, job_type="select", folder=wandb, key=key)
        _write(config, pool, selection, key, inputs, folder, clock)
        export_mixture(folder, SelectedMixture(folder).manifest, config.export)
        _track(config, SelectedMixture(folder), wandb)
    return SelectedMixture(folder, render_summary(selection.tasks, describe_turns(selection.rows)))


def plan(config: SelectConfig) -> str:
    """What the selection would do and cost, as text; writes nothing, and downloads nothing."""
    with offline(), writing_nothing():
        pool = read_pool(config)
        return describe_plan(config, pool, *resolve_sizes(config, pool))


def fetch(config: SelectConfig) -> None:
    """Download what the selection needs, for machines without a network."""
    config.collection.fetch()
    if config.needs_vectors:
        config.encoder.fetch()
    if config.tokenizer:
        read_tokenizer(f"tokenizer={config.tokenizer}", config.tokenizer)
    if config.decontaminate:
        questions(config.benchmark_data, config.heldout_data)


def _find(config: SelectConfig, folder: Path, key: str) -> SelectedMixture | None:
    """The mixture, if it is made, with what was asked for since or is still to be logged. Hold the folder's lock."""
    if not is_made(folder, key, "mixture", config.overwrite):
        return None
    mixture, wandb = SelectedMixture(folder), config.output_root / "wandb"
    if is_unlogged(config.tracker, job_type="select", folder=wandb, key=key):
        _track(config, mixture, wandb)
    export_mixture(folder, mixture.manifest, config.export)
    return mixture


def _select(
    config: SelectConfig, pool: Pool, num_tasks: int, budget: int, inputs: list[str], clock: Clock
) -> _Selection:
    """Both stages, each with its seconds in `clock`."""
    with clock("embeddings"):
        made = make_vectors(config, pool)
    if made and made[0].key not in inputs:  # the mixture's name has the key of the vectors as they were
        raise UserError(
            "encoder: its files have changed while the collection was read; run the same command again"
        )
    vectors, statistics = made or (None, None)
    task_means = statistics.task_means if statistics else None
    with clock("tasks"):
        tasks = budget_tasks(config, pool, task_means, num_tasks, budget)
    with clock("orderings"):
        rows = choose_rows(config, pool, vectors, tasks)
    if vectors is None or statistics is None:
        return _Selection(tasks, rows, None, [], {}, {}, None)
    return _Selection(
        tasks,
        rows,
        task_means,
        warnings=few_distinct(pool, statistics.distinct),
        counts={"truncated_prompts": vectors.truncated, "distinct_vectors": int(statistics.distinct.sum())},
        distinct=distinct_in_groups(pool, statistics.distinct),
        approximation=approximation(config, pool, vectors, tasks),
    )


def _stem(config: SelectConfig, pool: Pool) -> str:
    """sni-25k-graphcut-facility_location: what a person looks for in a list of folders."""
    how = [config.strategy] if config.strategy != "smart" else [config.fn.name, config.instance_fn.name]
    tasks = [f"{config.num_tasks}tasks"] if config.num_tasks else []
    return file_stem("-".join([pool.collection.name, config.budget.text.replace("%", "pct"), *tasks, *how]))


def _write(
    config: SelectConfig,
    pool: Pool,
    selection: _Selection,
    key: str,
    inputs: list[str],
    folder: Path,
    clock: Clock,
) -> None:
    for warning in selection.warnings:
        log.warning("%s", warning)
    validation = _validation_rows(config, pool)
    counts = {
        "rows": len(selection.rows),
        "validation_rows": 0 if validation is None else len(validation),
        "tasks": len(selection.tasks.selected),
        "pool_rows": len(pool.rows),
        "pool_tasks": len(pool.groups.tasks),
        **selection.counts,
    }
    manifest = {
        "kind": "mixture",
        "key": key,
        "inputs": inputs,
        "config": dict(config.composed.values),
        **({"code": code} if (code := code_of_targets(config.composed.values)) else {}),
        "choices": config.choices,
        "source": pool.source,
        "counts": counts,
        "distinct_vectors": selection.distinct,
        "drops": pool.drops,
        **_contamination(pool, selection, validation),
        **({"duplicates": pool.duplicates.describe()} if pool.duplicates else {}),
        "warnings": selection.warnings,
        "approximation": selection.approximation,
        "versions": versions("numpy", "pyarrow", "numba"),
        "peak_memory": peak_memory(),
    }
    with clock("writing"), single_threaded_blas():  # the map of the tasks would take all cores
        write_mixture(
            folder,
            selection.rows,
            validation,
            selection.tasks,
            manifest,
            seed=config.seed,
            separator=config.separator,
            task_embeddings=selection.task_means,
            log=log_so_far(),
            clock=clock,
        )


def _validation_rows(config: SelectConfig, pool: Pool) -> RowView | None:
    """The fixed sample of the pool's validation split; None where it has none or none was asked for."""
    if pool.validation is None or not config.validation_rows:
        return None
    return sample_validation(pool.validation, config.validation_rows, config.seed)


def _contamination(pool: Pool, selection: _Selection, validation: RowView | None) -> dict[str, Any]:
    if pool.contamination is None:
        return {}
    mixture = {"train": selection.rows, "validation": validation}
    return {"contamination": pool.contamination.describe(pool.collection, mixture)}


def _track(config: SelectConfig, mixture: SelectedMixture, folder: Path) -> None:
    flat = flatten("select", config.composed.values, config.choices)
    name, key = mixture.path.name, mixture.manifest["key"]
    with (
        track(config.tracker, job_type="select", name=name, config=flat, folder=folder, key=key) as run,
        run.only_warns(),
    ):
        run.summary(mixture.manifest["counts"])
        run.table("tasks", tuple(mixture.tasks[0]), [list(task.values()) for task in mixture.tasks])
        run.figures(mixture.path / "figures")
        run.artifact(mixture.path, "mixture", {"key": key})
