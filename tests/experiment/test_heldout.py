"""The file of unseen tasks that a grid makes from a collection."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from smart.benchmarks.heldout import read_heldout
from smart.conversation import from_json
from smart.experiment.heldout import heldout_file, heldout_rows, write_heldout
from smart.experiment.lengths import heldout_texts

OPTIONS = {"_target_": "smart.collection.ReasoningGym", "tasks": ["gcd", "leg_counting"], "max_rows": 40}


def test_rows_are_zero_shot_in_the_columns_of_the_suite(tmp_path: Path) -> None:
    """A list of the configuration stays a list."""
    rows = heldout_rows(OPTIONS)
    assert rows.column_names == ["inputs", "targets", "task_name", "task_source"]
    assert set(rows["task_name"].to_pylist()) == {"gcd", "leg_counting"}
    write_heldout(OPTIONS, tmp_path)
    file = heldout_file(OPTIONS, tmp_path)
    assert pq.read_table(file).equals(rows)
    whole = file.read_bytes()
    file.write_bytes(whole[:-20] + b"x" + whole[-19:])
    write_heldout(OPTIONS, tmp_path)
    assert file.read_bytes() == whole


def test_another_file_or_code_of_the_source_is_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    options = {"_target_": "rows_of_mine.Mine", "path": str(tmp_path / "rows.jsonl")}
    found = []
    for rows, code in (("a", "x"), ("b", "x"), ("b", "y")):
        (tmp_path / "rows.jsonl").write_text(rows)
        (tmp_path / "rows_of_mine.py").write_text(f"class Mine:\n    {code} = 1\n")
        found.append(heldout_file(options, tmp_path / "outputs"))
    assert len(set(found)) == 3
    assert heldout_file(options, tmp_path / "outputs") == found[-1]


def test_rows_with_turns_are_those_of_the_suite(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"messages": turns * n}) + "\n" for n in (1, 2)))
    options = {"_target_": "smart.collection.Files", "path": str(tmp_path / "a.jsonl")}
    write_heldout(options, tmp_path)
    read = read_heldout(heldout_file(options, tmp_path), "suite.collection")
    assert [from_json(text)["messages"] for text in read["conversation"].to_pylist()] == [turns, turns * 2]
    assert read["task_name"].to_pylist() == ["a", "a"]
    assert heldout_texts(heldout_rows(options), {"name": "org/not-here-7b"}).sizes == [2], (
        "as a plan counts them"
    )
