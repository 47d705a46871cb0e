"""What cannot be used: one clear message, or a count per reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from smart.collection import Files, load
from smart.config import UserError
from tests.collection.examples import Row, rows, write_jsonl, write_parquet

FAULTS: list[tuple[Row, str]] = [
    ({"inputs": None}, "inputs: null"),
    ({"inputs": ""}, "inputs: empty"),
    ({"inputs": " \n\t\u2003"}, "inputs: empty"),
    ({"targets": None}, "targets: null"),
    ({"targets": "  "}, "targets: empty"),
    ({"task_name": None}, "task_name: null"),
    ({"task_name": " "}, "task_name: empty"),
    ({"submixture": None}, "submixture: null"),
    ({"template_type": "zs-noopt"}, "template_type: none of zs_opt, zs_noopt, fs_opt, fs_noopt"),
    ({"template_type": None}, "template_type: null"),
]


@pytest.mark.parametrize(("change", "reason"), FAULTS)
def test_each_fault_names_file_column_and_rows(tmp_path: Path, change: Row, reason: str) -> None:
    records = rows(30)
    for index in (3, 17):
        records[index] |= change
    path = write_parquet(tmp_path / "bad.parquet", records)

    with pytest.raises(UserError) as caught:
        load(Files(path=str(path)))
    message = str(caught.value)
    value = next(iter(change.values()))
    assert f"{path}: {reason} in 2 rows: 3" in message
    assert value is None or f"3 ({value!r}), 17 ({value!r})" in message
    assert "bad_rows=drop" in message

    dropped = load(Files(path=str(path), bad_rows="drop"))
    assert dropped.source["splits"]["train"]["dropped"] == {reason: 2}
    assert dropped.source["splits"]["train"]["rows_read"] == 30
    assert dropped.train["row"].to_pylist() == [row for row in range(30) if row not in (3, 17)]


def test_all_faults_of_all_files_come_together(tmp_path: Path) -> None:
    first, second = rows(9), rows(9)
    first[1]["inputs"], first[2]["targets"], second[4]["inputs"] = "", None, "x" * 20_000 and " " * 20_000
    write_parquet(tmp_path / "a.parquet", first)
    write_parquet(tmp_path / "b.parquet", second)
    with pytest.raises(UserError) as caught:
        load(Files(path=f"{tmp_path}/*.parquet"))
    message = str(caught.value)
    assert message.count("\n  - ") == 3
    assert "a.parquet: inputs" in message
    assert "b.parquet: inputs" in message
    assert len(message) < 1000  # long values are cut


def test_a_row_with_two_faults_is_counted_once(tmp_path: Path) -> None:
    records = rows(10)
    records[4] |= {"inputs": "", "targets": ""}
    source = load(Files(path=str(write_parquet(tmp_path / "bad.parquet", records)), bad_rows="drop")).source
    assert source["splits"]["train"]["dropped"] == {"inputs: empty": 1}


def test_wrong_type_of_a_column(tmp_path: Path) -> None:
    records = [{**row, "targets": number} for number, row in enumerate(rows(10))]
    path = write_parquet(tmp_path / "numbers.parquet", records)
    with pytest.raises(
        UserError, match=r"targets: int64 instead of text in 10 rows: 0 \(0\), 1 \(1\), 2 \(2\), …"
    ):
        load(Files(path=str(path)))


def test_no_rows_left(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "bad.parquet", [{**row, "inputs": ""} for row in rows(10)])
    with pytest.raises(
        UserError, match=r"bad\.parquet: no rows to use \(10 rows read; 10 dropped, inputs: empty\)"
    ):
        load(Files(path=str(path), bad_rows="drop"))


def test_duplicates_are_counted_and_dropped_when_asked(tmp_path: Path) -> None:
    records = rows(20)
    path = write_parquet(tmp_path / "twice.parquet", [*records, *records[:5], records[0]])
    kept = load(Files(path=str(path)))
    assert len(kept.train) == 26
    assert kept.source["splits"]["train"]["exact_duplicates"] == 6
    dropped = load(Files(path=str(path), drop_duplicates=True))
    assert dropped.train["row"].to_pylist() == list(range(20))
    assert dropped.source["splits"]["train"]["exact_duplicates"] == 6
    assert dropped.fingerprint != kept.fingerprint


def test_unknown_bad_rows(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", rows(3))
    with pytest.raises(UserError, match="bad_rows=ignore: must be one of error, drop"):
        load(Files(path=str(path), bad_rows="ignore"))
