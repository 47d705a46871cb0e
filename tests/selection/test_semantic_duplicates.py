"""Semantic duplicates against all pairs, in float64, one row after the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from smart.collection import Groups
from smart.embedding import Vectors
from smart.selection.semantic_duplicates import FEW, drop_near, semantic_duplicates


def pool(seed: int, rows: int, d: int = 16) -> tuple[Groups, np.ndarray]:
    """Vectors of rows that share most of their group's, some of them repeated with a little noise."""
    generator = np.random.default_rng(seed)
    tasks = generator.choice(["a", "b", "c", "single"], rows, p=[0.6, 0.3, 0.09, 0.01])
    templates = generator.choice(["zs_opt", "zs_noopt", "fs_opt", "fs_noopt"], rows, p=[0.4, 0.4, 0.17, 0.03])
    labels = pa.table(
        {"submixture": ["x"] * rows, "task_name": tasks.tolist(), "template_type": templates.tolist()}
    )
    heads = {(task, template): generator.normal(size=d) for task in set(tasks) for template in set(templates)}
    vectors = np.empty((rows, d))
    questions: list[np.ndarray] = []
    for row in range(rows):
        repeats = questions and generator.random() < 0.4
        question = questions[generator.integers(len(questions))] if repeats else generator.normal(size=d)
        questions.append(question + generator.normal(size=d) * generator.choice([0, 0.02, 0.2, 0.5]))
        vectors[row] = 2 * heads[tasks[row], templates[row]] + questions[-1]
    vectors[rows // 2] = 0
    return Groups.of(labels), vectors.astype(np.float32)


def in_group_order(vectors: np.ndarray, groups: Groups) -> Vectors:
    ordered = vectors[groups.order].astype(np.float16)
    return Vectors("key", Path("none"), *ordered.shape, 0, lambda start, stop: ordered[start:stop])


def all_pairs(vectors: np.ndarray, groups: Groups, threshold: float) -> list[int]:
    unit = vectors.astype(np.float16).astype(np.float64)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-30)
    own, task_of = unit.copy(), np.empty(len(unit), int)
    for group in range(len(groups.offsets) - 1):
        rows = groups.order[groups.offsets[group] : groups.offsets[group + 1]]
        task_of[rows] = group // 4
        if len(rows) > FEW:
            own[rows] -= unit[rows].mean(axis=0)
    own /= np.maximum(np.linalg.norm(own, axis=1, keepdims=True), 1e-30)
    similar = np.minimum(unit @ unit.T, own @ own.T)
    kept: list[int] = []
    for row in range(len(unit)):
        mine = [other for other in kept if task_of[other] == task_of[row]]
        if not (similar[row, mine] >= threshold).any():
            kept.append(row)
    return sorted(set(range(len(unit))) - set(kept))


def test_rows_are_those_of_all_pairs_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    groups, vectors = pool(0, 500)
    for threshold in (0.8, 0.95, 0.999):
        wanted = all_pairs(vectors, groups, threshold)
        assert len(wanted) > 10
        for threads, block, tile, numbers in ((1, 1024, 4096, 1 << 22), (4, 7, 5, 100)):
            monkeypatch.setattr("smart.selection.semantic_duplicates.ALONE", 250 if threads > 1 else 10_000)
            monkeypatch.setattr("smart.selection.semantic_duplicates.BLOCK", block)
            monkeypatch.setattr("smart.selection.semantic_duplicates.TILE", tile)
            monkeypatch.setattr("smart.selection.semantic_duplicates.NUMBERS", numbers)
            found = semantic_duplicates(in_group_order(vectors, groups), groups, threshold, threads)
            assert np.flatnonzero(found).tolist() == wanted


def test_what_a_group_shares_makes_no_duplicates() -> None:
    generator = np.random.default_rng(0)
    labels = pa.table({"submixture": ["x"] * 42, "task_name": ["a"] * 42, "template_type": ["fs_opt"] * 42})
    vectors = (20 * generator.normal(size=32) + generator.normal(size=(42, 32))).astype(np.float32)
    vectors[40], vectors[41] = vectors[3], 2 * vectors[5]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert (unit @ unit.T).min() > 0.95
    groups = Groups.of(labels)
    found = semantic_duplicates(in_group_order(vectors, groups), groups, 0.95, 1)
    assert np.flatnonzero(found).tolist() == [40, 41]


def test_equal_vectors_are_duplicates_at_any_threshold_and_zeros_at_none() -> None:
    vectors = np.random.default_rng(1).normal(size=(1, 24)).astype(np.float32)
    vectors = np.repeat(vectors / np.linalg.norm(vectors), 30, axis=0)
    assert drop_near(vectors.copy(), vectors.copy(), 1.0).tolist() == [False] + [True] * 29
    assert not drop_near(0 * vectors, 0 * vectors, 0.1).any()
    labels = pa.table({"submixture": ["x"] * 30, "task_name": ["a"] * 30, "template_type": ["zs_opt"] * 30})
    groups = Groups.of(labels)
    found = semantic_duplicates(in_group_order(vectors, groups), groups, 1.0, 1)
    assert found.tolist() == [False] + [True] * 29, "nothing is particular to them"
