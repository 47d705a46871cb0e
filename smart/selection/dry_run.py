"""plan=true: what a selection would do and cost, from what is known without doing it."""

from __future__ import annotations

import numpy as np

from smart.config import counted
from smart.embedding import EmbeddingPlan
from smart.mixture import TaskBudgets, render_summary
from smart.selection.config import SelectConfig
from smart.selection.instances import groups_to_order, make_orderer
from smart.selection.orderings import orderings_key, read_shards
from smart.selection.pool import Pool
from smart.selection.tasks import budget_tasks
from smart.selection.vectors import make_vectors, plan_vectors


def describe_plan(config: SelectConfig, pool: Pool, num_tasks: int, budget: int) -> str:
    """A page of text. Budgets are shown where the vectors that decide them are cached; nothing is made."""
    embedding = plan_vectors(config, pool)
    ready = embedding is not None and embedding.key is not None and embedding.rows == 0
    made = make_vectors(config, pool) if ready else None
    known = ready or not config.fn.needs_vectors
    means = made[1].task_means if made else None
    tasks = budget_tasks(config, pool, means, num_tasks, budget) if known else None
    lines = [
        f"Plan: {budget:,} of {counted(len(pool.rows), 'row')} from {num_tasks:,} of"
        f" {counted(len(pool.groups.tasks), 'task')}; fn={config.fn.name}, "
        f"weighting={config.composed.choices['weighting']}, instance_fn={config.instance_fn.name}",
        f"  embeddings  {_embeddings(embedding)}",
        f"  budgets     {'below' if tasks else 'known once the embeddings are made'}",
        f"  orderings   {_orderings(config, pool, embedding, tasks)}",
    ]
    lines += [f"  benchmarks  {_benchmarks(config, pool)}"] if config.decontaminate else []
    lines += [f"  duplicates  {_duplicates(pool)}"] if config.deduplicate else []
    return "\n".join([*lines, "", render_summary(tasks)] if tasks else lines)


def _benchmarks(config: SelectConfig, pool: Pool) -> str:
    if pool.contamination is None:
        return f"to be looked for in {counted(len(pool.rows), 'row')}"
    found = int(pool.contamination.reports["train"].mask.sum())
    return f"{counted(found, 'row')} with a question" + (
        ", left out" if config.decontaminate == "drop" else ""
    )


def _duplicates(pool: Pool) -> str:
    if pool.duplicates is None:
        return f"to be looked for in {counted(len(pool.rows), 'row')}"
    return f"{counted(pool.duplicates.count, 'row')} near an earlier one, left out"


def _embeddings(embedding: EmbeddingPlan | None) -> str:
    if embedding is None:
        return "not needed"
    if embedding.key is None:
        return "to be made; the encoder has to be downloaded first (fetch_only=true)"
    if not embedding.rows:
        return "done"
    size = "" if embedding.bytes is None else f", {embedding.bytes / 1e6:,.0f} MB"
    return f"{counted(embedding.rows, 'prompt')} to encode{size}"


def _orderings(
    config: SelectConfig, pool: Pool, embedding: EmbeddingPlan | None, tasks: TaskBudgets | None
) -> str:
    if not config.instance_fn.needs_vectors:
        return "not needed"
    sizes = np.diff(pool.groups.offsets)
    wanted = groups_to_order(tasks) if tasks else np.flatnonzero(sizes).tolist()
    if embedding and embedding.key:
        key = orderings_key(make_orderer(config), embedding.key, pool.groups.offsets)
        known = read_shards(config.cache / "orderings" / key, key, sizes)
        wanted = [group for group in wanted if group not in known]
    most = "" if tasks else "at most "
    return (
        f"{most}{counted(len(wanted), 'group')}, {counted(sizes[wanted].sum(), 'row')} to order"
        if wanted
        else "done"
    )
