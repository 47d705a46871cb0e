"""Stage 1 is done once for all budgets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import smart
from smart.selection import tasks
from tests.collection.examples import rows, write_parquet


def test_the_order_of_tasks_is_kept_for_other_budgets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parquet(tmp_path / "a.parquet", rows(60, tasks=6))
    options: dict[str, Any] = {
        "collection": "files",
        "fn": "graphcut",
        "instance_fn": "random",
        "tracker": "none",
        "output_root": tmp_path / "outputs",
    }
    path = f"collection.path={tmp_path}/a.parquet"
    first = smart.select(path, budget=20, **options)
    (kept,) = (tmp_path / "outputs/cache/tasks").glob("*.sealed")
    monkeypatch.setattr(tasks, "maximize", None)
    again = smart.select(path, budget=30, **options)
    assert [task["gain"] for task in again.tasks] == [task["gain"] for task in first.tasks]
    monkeypatch.undo()
    kept.write_bytes(kept.read_bytes()[:-1])
    assert [task["order"] for task in smart.select(path, budget=25, **options).tasks] == [
        task["order"] for task in first.tasks
    ]
    other = smart.select(
        path, "fn.tradeoff=0.3", budget=30, **options
    )  # another function is another order's name
    assert len(list((tmp_path / "outputs/cache/tasks").glob("*.sealed"))) == 2
    assert other.manifest["key"] != again.manifest["key"]
