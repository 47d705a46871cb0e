"""decontaminate=report|drop: rows with benchmarks' questions, in the manifest, in the card, or left out."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cli.test_select import folder_of
from tests.commands import Command

QUESTION = "The developer argued with the designer because she did not like the design | of the house"
HELD = (5, 100, 300)


@pytest.fixture
def benchmark_data(tmp_path: Path) -> Path:
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    rows = [{"task": "disambiguation_qa", "input": QUESTION, "target": "(A)"}]
    pq.write_table(pa.Table.from_pylist(rows), folder / "bbh.parquet")
    return folder


@pytest.fixture
def contaminated(select: Command, collection: Path, benchmark_data: Path) -> Command:
    """select(), where three rows of the collection hold the question of a benchmark."""
    rows = pq.read_table(collection).to_pylist()
    for number in HELD:
        rows[number]["inputs"] += f"\n{QUESTION.upper()}?"
    pq.write_table(pa.Table.from_pylist(rows), collection)
    return lambda *more: select(f"benchmark_data={benchmark_data}", *more)


def read(folder: Path) -> tuple[dict, list[int], str]:
    manifest = json.loads((folder / "manifest.json").read_text())
    rows = pq.read_table(folder / "train.parquet")["row"].to_pylist()
    return manifest, rows, (folder / "README.md").read_text()


def test_report_lists_them_and_changes_nothing(contaminated: Command, tmp_path: Path) -> None:
    plain = tmp_path / folder_of(contaminated().out)
    done = contaminated("decontaminate=report")
    assert done.code == 0, done.said
    folder = tmp_path / folder_of(done.out)
    assert folder != plain, "another key: its manifest says more"
    assert (folder / "train.parquet").read_bytes() == (plain / "train.parquet").read_bytes()
    manifest, rows, card = read(folder)
    found = manifest["contamination"]["collection"]["train"]
    assert [overlap["row"] for overlap in found["overlaps"]] == list(HELD)
    assert found["per_benchmark"] == {"bbh/disambiguation_qa": 3}
    assert manifest["contamination"]["mixture"]["train"] == sorted(set(HELD) & set(rows))
    assert "contamination" not in read(plain)[0]
    assert "Split train: 3 of 576 rows" in card
    assert "| train | 100 | bbh/disambiguation_qa |" in card


def test_drop_leaves_them_out_of_the_pool(contaminated: Command, tmp_path: Path) -> None:
    done = contaminated("decontaminate=drop", "budget=100%", "collection.validation=20")
    assert done.code == 0, done.said
    manifest, rows, _ = read(tmp_path / folder_of(done.out))
    dropped = [manifest["drops"][split]["benchmark_questions"] for split in ("train", "validation")]
    assert sum(dropped) == 3
    held_out = pq.read_table(tmp_path / folder_of(done.out) / "validation.parquet")["row"].to_pylist()
    assert not set(HELD) & {*rows, *held_out}
    assert len(rows) == manifest["counts"]["pool_rows"] == 576 - 20 - dropped[0]


def test_a_plan_does_not_look(contaminated: Command, tmp_path: Path) -> None:
    assert "to be looked for in 576 rows" in contaminated("decontaminate=drop", "plan=true").out
    assert not (tmp_path / "outputs").exists()
    contaminated("decontaminate=report")
    assert "3 rows with a question, left out" in contaminated("decontaminate=drop", "plan=true").out


def test_what_was_found_is_looked_for_again_where_its_file_is_harmed(
    contaminated: Command, tmp_path: Path
) -> None:
    contaminated("decontaminate=drop", "output=first")
    (file,) = (tmp_path / "outputs/cache/contamination").glob("*.json")
    whole = file.read_bytes()
    other = whole.replace(b'"row": 5,', b'"row": 6,')
    assert other != whole
    for harmed in (other, whole[:-9], b""):
        file.write_bytes(harmed)
        done = contaminated("decontaminate=drop", "output=again", "overwrite=true")
        assert done.code == 0, done.said
        assert done.err.count(f"{file.name} is damaged: made again.") == 1
        assert file.read_bytes() == whole
        rows = [(tmp_path / name / "train.parquet").read_bytes() for name in ("first", "again")]
        assert rows[0] == rows[1]


def test_mistakes_are_told(contaminated: Command, benchmark_data: Path) -> None:
    done = contaminated("decontaminate=dorp", "budget=0")
    assert done.code == 1
    assert "decontaminate=dorp: must be one of report, drop, or null; did you mean drop?" in done.err
    assert "budget=0" in done.err
    (benchmark_data / "bbh.parquet").unlink()
    done = contaminated("decontaminate=drop")
    assert done.code == 1
    assert "holds none of mmlu.parquet, bbh.parquet" in done.err


def test_texts_of_unseen_tasks_are_looked_for_too(
    contaminated: Command, collection: Path, tmp_path: Path
) -> None:
    words = "the tall lighthouse keeper wrote eleven letters to his sister before the first snow of winter"
    rows = pq.read_table(collection).to_pylist()
    rows[7]["inputs"] += f" {words}."
    pq.write_table(pa.Table.from_pylist(rows), collection)
    unseen = tmp_path / "unseen.parquet"
    pq.write_table(pa.table({"inputs": [words], "targets": ["no"], "task_name": ["letters"]}), unseen)
    done = contaminated("decontaminate=drop", f"heldout_data={unseen}")
    assert done.code == 0, done.said
    found = read(tmp_path / folder_of(done.out))[0]["contamination"]["collection"]["train"]
    assert found["per_benchmark"] == {"bbh/disambiguation_qa": 3, "heldout/letters": 1}
    alone = contaminated(f"heldout_data={unseen}")
    assert "heldout_data" in alone.err
    assert "decontaminate" in alone.err
