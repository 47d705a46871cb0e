"""The file of unseen tasks that a grid makes from a collection."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from smart.experiment.heldout import heldout_file, heldout_rows, write_heldout

OPTIONS = {"_target_": "smart.collection.ReasoningGym", "tasks": ["gcd", "leg_counting"], "max_rows": 40}


def test_rows_are_zero_shot_in_the_columns_of_the_suite(tmp_path: Path) -> None:
    """A list of the configuration stays a list."""
    rows = heldout_rows(OPTIONS)
    assert rows.column_names == ["inputs", "targets", "task_name", "task_source"]
    assert set(rows["task_name"].to_pylist()) == {"gcd", "leg_counting"}
    write_heldout(OPTIONS, tmp_path)
    assert pq.read_table(heldout_file(OPTIONS, tmp_path)).equals(rows)
