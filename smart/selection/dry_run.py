"""plan=true: what a selection would do and cost, from what is known without doing it."""

from __future__ import annotations

import numpy as np

from smart.embedding import Outlook
from smart.mixture import TaskBudgets, summarise
from smart.selection import steps
from smart.selection.config import Request
from smart.selection.orderings import orderings_key, read_shards
from smart.selection.pool import Pool


def plan(request: Request, pool: Pool, num_tasks: int, budget: int) -> str:
    """A page of text. Budgets are shown where the vectors that decide them are cached; nothing is made."""
    outlook = steps.look_ahead(request, pool)
    ready = outlook is not None and outlook.key is not None and outlook.rows == 0
    made = steps.make_vectors(request, pool) if ready else None
    known = ready or not request.fn.needs_vectors
    means = made[1].task_means if made else None
    tasks = steps.budget_tasks(request, pool, means, num_tasks, budget) if known else None
    lines = [
        f"Plan: {budget:,} of {len(pool.table):,} rows from {num_tasks:,} of {len(pool.groups.tasks):,} tasks; "
        f"fn={request.fn.name}, weighting={request.choices['weighting']}, instance_fn={request.instance_fn.name}",
        f"  embeddings  {_embeddings(outlook)}",
        f"  budgets     {'below' if tasks else 'known once the embeddings are made'}",
        f"  orderings   {_orderings(request, pool, outlook, tasks)}",
    ]
    lines += [f"  benchmarks  {_benchmarks(request, pool)}"] if request.decontaminate else []
    return "\n".join([*lines, "", summarise(tasks)] if tasks else lines)


def _benchmarks(request: Request, pool: Pool) -> str:
    if pool.contamination is None:
        return f"to be looked for in {len(pool.table):,} rows"
    found = int(pool.contamination.reports["train"].mask.sum())
    return f"{found:,} rows hold a question" + (", left out" if request.decontaminate == "drop" else "")


def _embeddings(outlook: Outlook | None) -> str:
    if outlook is None:
        return "not needed"
    if outlook.key is None:
        return "to be made; the encoder has to be downloaded first (fetch_only=true)"
    if not outlook.rows:
        return "done"
    size = "" if outlook.bytes is None else f", {outlook.bytes / 1e6:,.0f} MB"
    return f"{outlook.rows:,} prompts to encode{size}"


def _orderings(request: Request, pool: Pool, outlook: Outlook | None, tasks: TaskBudgets | None) -> str:
    if not request.instance_fn.needs_vectors:
        return "not needed"
    sizes = np.diff(pool.groups.offsets)
    wanted = steps.groups_in(tasks) if tasks else np.flatnonzero(sizes).tolist()
    if outlook and outlook.key:
        key = orderings_key(steps.orderer_of(request), outlook.key, pool.groups.offsets)
        known = read_shards(request.root / "cache/orderings" / key)
        wanted = [group for group in wanted if group not in known]
    most = "" if tasks else "at most "
    return f"{most}{len(wanted):,} groups, {sizes[wanted].sum():,} rows to order" if wanted else "done"
