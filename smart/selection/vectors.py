"""The vectors of a pool, and what they say about it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from smart.config import counted
from smart.embedding import (
    EmbeddingPlan,
    Prompts,
    TaskStatistics,
    Vectors,
    embed,
    plan_embedding,
    task_statistics,
)
from smart.model.fingerprint import text_key
from smart.runtime.names import joined
from smart.selection.config import SelectConfig

if TYPE_CHECKING:
    from smart.selection.pool import Pool

FEW_DISTINCT = 0.5
"""Below this share of distinct vectors, ties decide most of the order inside a group."""


def plan_vectors(config: SelectConfig, pool: Pool) -> EmbeddingPlan | None:
    """What embedding would do; None where nothing needs vectors."""
    if not config.needs_vectors:
        return None
    if pool.vectors is not None:
        return EmbeddingPlan(pool.vectors.key, rows=0, bytes=0)
    return plan_prompts(config, pool.prompts)


def plan_prompts(config: SelectConfig, prompts: Prompts) -> EmbeddingPlan:
    """What embedding these prompts would do."""
    return plan_embedding(prompts, config.encoder, config.cache / "embeddings")


def make_vectors(config: SelectConfig, pool: Pool) -> tuple[Vectors, TaskStatistics] | None:
    """Vectors and task means; None where nothing needs any."""
    if not config.needs_vectors:
        return None
    vectors = embed_prompts(config, pool.prompts) if pool.vectors is None else pool.vectors
    return vectors, task_statistics(vectors, pool.groups.offsets, len(pool.groups.templates))


def embed_prompts(config: SelectConfig, prompts: Prompts) -> Vectors:
    """Vectors of these prompts, found or made."""
    return embed(prompts, config.encoder, config.cache / "embeddings", executor=config.workers())


def input_keys(config: SelectConfig, pool: Pool) -> list[str]:
    """Keys of what the mixture is made from: the collection's rows, and the vectors where they are needed.

    Empty for a plan whose encoder has to be downloaded first.
    """
    rows = [pool.collection.fingerprint] + ([pool.contamination.key] if pool.contamination else [])
    if config.tokenizer and (tokenizer := text_key(Path(config.tokenizer))):  # of a folder: what it holds
        rows.append(tokenizer)
    if pool.duplicates:
        rows.append(pool.duplicates.key)
    planned = plan_vectors(config, pool)
    if planned is None:
        return rows
    if planned.key is None:
        if config.plan:
            return []
        config.encoder.fetch()
        planned = plan_vectors(config, pool)
    assert planned is not None
    assert planned.key is not None
    return [*rows, planned.key]


def distinct_in_groups(pool: Pool, distinct: np.ndarray) -> dict[str, list[int]]:
    """For each group with rows, "submixture/task/template": distinct vectors, and rows."""
    sizes = np.diff(pool.groups.offsets)
    return {
        joined(*pool.groups.name(group)): [int(distinct[group]), int(sizes[group])]
        for group in np.flatnonzero(sizes).tolist()
    }


def few_distinct(pool: Pool, distinct: np.ndarray) -> list[str]:
    """Warnings for groups where most prompts have the same vector as another."""
    sizes = np.diff(pool.groups.offsets)
    share = distinct / np.maximum(sizes, 1)
    few = np.flatnonzero((share < FEW_DISTINCT) & (sizes > 1))
    if not len(few):
        return []
    worst = few[np.argsort(share[few], kind="stable")[:3]]
    told = {group: pool.groups.name(group) for group in worst.tolist()}
    names = ", ".join(
        f"{submixture}/{task} {template} ({distinct[group]} of {sizes[group]})"
        for group, (submixture, task, template) in told.items()
    )
    return [
        f"In {len(few)} of {counted((sizes > 0).sum(), 'group')} fewer than half of the prompts have a vector of their"
        f" own, so which rows are chosen there is decided by ties: {names}. Prompts may be cut before they differ (see "
        "encoder.max_length and encoder.truncation) or repeat."
    ]
