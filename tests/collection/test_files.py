"""Parquet, JSONL and CSV files as collections."""

from __future__ import annotations

import csv
import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smart.collection import SCHEMA, Files, Groups, Part, check_source, load
from smart.config import ConfigError, UserError
from tests.collection.examples import content, rows, write_jsonl, write_parquet


def write_csv(path: Path, records: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
    return path


@pytest.mark.parametrize("options", [{}, {"validation": 9}, {"name": "mine", "drop_duplicates": True}])
def test_it_keeps_the_contract_of_a_source(tmp_path: Path, options: dict[str, Any]) -> None:
    bad = [{**row, "targets": None} for row in rows(4, "bad")]
    for name, records in (("a.parquet", rows(30)), ("b.parquet", [*rows(9), *bad])):
        write_parquet(tmp_path / name, records)
    check_source(Files(path=f"{tmp_path}/*.parquet", bad_rows="drop", **options))
    apart = str(write_jsonl(tmp_path / "apart.jsonl", rows(5, "apart")))
    check_source(Files(path=f"{tmp_path}/a.parquet", **{**options, "validation": apart}))


def test_formats_agree(tmp_path: Path) -> None:
    records = rows(50)
    paths = [
        write_parquet(tmp_path / "a.parquet", records),
        write_jsonl(tmp_path / "a.jsonl", records),
        write_csv(tmp_path / "a.csv", records),
    ]
    for path in paths[1:]:
        packed = path.with_name(path.name + ".gz")
        packed.write_bytes(gzip.compress(path.read_bytes()))
        paths.append(packed)
    collections = [load(Files(path=str(path))) for path in paths]
    for collection in collections:
        assert content(collection.train) == records
        assert collection.train.schema == SCHEMA
        assert collection.validation is None
    assert len({collection.fingerprint for collection in collections}) == 1


def test_files_are_sorted_by_path_and_rows_numbered_over_them(tmp_path: Path) -> None:
    late = write_parquet(tmp_path / "b.parquet", rows(4, "late"))
    early = write_jsonl(tmp_path / "a.jsonl", rows(3, "early"))
    collection = load(Files(path=[str(late), f"{tmp_path}/*", str(early)]))
    assert collection.train["submixture"].to_pylist() == ["early"] * 3 + ["late"] * 4
    assert collection.train["row"].to_pylist() == list(range(7))
    assert [Path(file["path"]).name for file in collection.source["files"]] == ["a.jsonl", "b.parquet"]
    assert [file["bytes"] for file in collection.source["files"]] == [
        early.stat().st_size,
        late.stat().st_size,
    ]
    assert json.loads(json.dumps(collection.source)) == collection.source


def test_text_that_looks_like_numbers_or_dates_stays_text(tmp_path: Path) -> None:
    records = [{"prompt": "2020-01-01", "response": "007"}, {"prompt": "1", "response": "nan"}]
    for path in (write_csv(tmp_path / "x.csv", records), write_jsonl(tmp_path / "x.jsonl", records)):
        table = load(Files(path=str(path))).train
        assert table["inputs"].to_pylist() == ["2020-01-01", "1"]
        assert table["targets"].to_pylist() == ["007", "nan"]


def test_bare_files_are_a_task_each(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"prompt": f"q {name}", "response": "a", "id": 7}])
    collection = load(Files(path=f"{tmp_path}/*.jsonl", submixture="mine"))
    groups = Groups.of(collection.train)
    assert groups.tasks == (("mine", "one"), ("mine", "two"))
    assert groups.sizes.tolist() == [[0, 1, 0, 0]] * 2
    assert collection.name == tmp_path.name


def test_equal_file_names_are_different_tasks(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        write_jsonl(tmp_path / folder / "rows.jsonl.gz", [])  # replaced below
        (tmp_path / folder / "rows.jsonl.gz").write_bytes(
            gzip.compress(b'{"prompt": "q", "response": "a"}\n')
        )
    tasks = Groups.of(load(Files(path=f"{tmp_path}/**/*.jsonl.gz")).train).tasks
    assert tasks == (("files", "x/rows"), ("files", "y/rows"))


def test_columns_are_mapped(tmp_path: Path) -> None:
    records = [{"question": "q", "inputs": "not this", "label": "a", "dataset": "d"}] * 2
    path = write_parquet(tmp_path / "f.parquet", records)
    columns = {"inputs": "question", "targets": "label", "task_name": "dataset", "submixture": "dataset"}
    table = load(Files(path=str(path), columns=columns)).train
    assert content(table)[0] == {
        "submixture": "d",
        "task_name": "d",
        "template_type": "zs_noopt",
        "inputs": "q",
        "targets": "a",
    }


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "csv"])
@pytest.mark.parametrize(
    ("record", "columns", "message"),
    [
        (
            {"prompt": "q", "answer": "a"},
            {},
            "no column targets or response, nor messages, conversations, or instruction and output; it has: prompt,"
            " answer",
        ),
        (
            {"answer": "a"},
            {},
            "no column inputs or prompt and targets or response, nor messages, conversations, or instruction and"
            " output; it has: answer",
        ),
        ({"prompt": "q", "response": "a"}, {"inputs": "text"}, "no column text (collection.columns.inputs)"),
    ],
)
def test_missing_columns(tmp_path: Path, suffix: str, record: dict, columns: dict, message: str) -> None:
    write = {"parquet": write_parquet, "jsonl": write_jsonl, "csv": write_csv}[suffix]
    path = write(tmp_path / f"f.{suffix}", [record])
    with pytest.raises(UserError, match=re.escape(f"{path}: {message}")):
        load(Files(path=str(path), columns=columns, bad_rows="drop"))


def test_bad_jsonl_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    good = json.dumps({"prompt": "q", "response": "a"})
    path.write_text("\n".join([good, '{"prompt": 3, "response": "a"}', "", '{"prompt": "q"', "[1]", good]))
    with pytest.raises(UserError) as caught:
        load(Files(path=str(path)))
    assert "prompt: number instead of text in 1 row: 1 (3)" in str(caught.value)
    assert "line: not a JSON object in 2 rows: 2 " in str(caught.value)
    collection = load(Files(path=str(path), bad_rows="drop"))
    assert collection.train["row"].to_pylist() == [0, 4]
    assert sum(collection.source["splits"]["train"]["dropped"].values()) == 3


@pytest.mark.parametrize("name", ["f.parquet", "f.csv", "f.jsonl", "f.jsonl.gz"])
@pytest.mark.parametrize("broken", [b"", b"\xff\xfe\x00rubbish"])
def test_unreadable_files(tmp_path: Path, name: str, broken: bytes) -> None:
    (tmp_path / name).write_bytes(broken)
    with pytest.raises(UserError, match=re.escape(str(tmp_path / name))):
        load(Files(path=str(tmp_path / name)))


def test_wrong_options_come_together(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("")
    options = Files(
        path=[f"{tmp_path}/none*.csv", str(tmp_path), f"{tmp_path}/x.txt"],
        columns={"imputs": "q"},
        validation=0.02,  # type: ignore[arg-type]
        bad_rows="maybe",
    )
    with pytest.raises(ConfigError) as caught:
        load(options)
    message = str(caught.value)
    assert message.startswith("6 values")
    for part in ("none*.csv: no such file", "is a folder", "unknown file type"):
        assert part in message
    for meant in ("Did you mean inputs?", "did you mean 2%?"):
        assert meant in message


def test_a_path_is_needed() -> None:
    with pytest.raises(ConfigError, match=r"collection\.path=null: no file given; set collection\.path=FILE"):
        load(Files())


def test_validation_from_files(tmp_path: Path) -> None:
    train = write_jsonl(tmp_path / "train.jsonl", rows(10))
    held = write_jsonl(tmp_path / "held.jsonl", rows(4, "other"))
    collection = load(Files(path=str(train), validation=str(held)))
    assert collection.validation is not None
    assert content(collection.validation) == rows(4, "other")
    assert collection.validation["row"].to_pylist() == [0, 1, 2, 3]
    assert collection.source["splits"]["validation"]["rows_read"] == 4
    assert collection.fingerprint != load(Files(path=str(train))).fingerprint
    with pytest.raises(UserError, match=r"train\.jsonl is in collection\.path too"):
        load(Files(path=str(train), validation=f"{tmp_path}/t*.jsonl"))


@pytest.mark.parametrize(("validation", "count"), [("2%", 4), (30, 30), ("0.1k", 100)])
def test_validation_taken_out_of_the_pool(tmp_path: Path, validation: Any, count: int) -> None:
    path = str(write_jsonl(tmp_path / "train.jsonl", rows(200)))
    collection = load(Files(path=path, validation=validation))
    assert collection.validation is not None
    train, held = (table["row"].to_numpy() for table in (collection.train, collection.validation))
    assert len(held) == count
    assert np.array_equal(np.sort(np.concatenate([train, held])), np.arange(200))
    assert (np.diff(train) > 0).all()
    texts = load(Files(path=path)).train["inputs"].to_pylist()
    assert collection.validation["inputs"].to_pylist() == [texts[row] for row in held]
    assert load(Files(path=path, validation=validation)).fingerprint == collection.fingerprint
    assert load(Files(path=path, validation=validation, seed=1)).fingerprint != collection.fingerprint


def test_validation_larger_than_the_pool(tmp_path: Path) -> None:
    path = str(write_jsonl(tmp_path / "train.jsonl", rows(20)))
    with pytest.raises(UserError, match=r"collection\.validation=2k: the collection has only 20 rows"):
        load(Files(path=path, validation="2k"))


def test_a_mixture_is_a_collection(tmp_path: Path) -> None:
    records = [
        {"prompt": row["inputs"], "response": row["targets"], **{k: row[k] for k in list(row)[:3]}, "row": 9}
        for row in rows(12)
    ]
    table = load(Files(path=str(write_parquet(tmp_path / "train.parquet", records)))).train
    assert content(table) == rows(12)
    assert table["row"].to_pylist() == list(range(12))


def test_categories_and_large_strings_of_parquet(tmp_path: Path) -> None:
    plain = pa.Table.from_pylist(rows(30))
    other = plain.set_column(1, "task_name", plain["task_name"].dictionary_encode())
    other = other.set_column(3, "inputs", plain["inputs"].cast(pa.large_string()))
    pq.write_table(other, tmp_path / "f.parquet")
    assert content(load(Files(path=str(tmp_path / "f.parquet"))).train) == rows(30)


def test_real_submixtures_load_as_they_are(shared: Path) -> None:
    load_as_they_are(shared / "data", ("sni-small", "cot", "t0", "flan2021", "dialog", "self-instruct-human"))


def test_submixtures_of_several_sizes_load_as_they_are(tmp_path: Path) -> None:
    """As above, on rows made here: 0 to 2,000 characters, shared task names, several row groups, more columns."""
    names, rng = ("t0", "cot", "niv2"), np.random.default_rng(0)
    for number, name in enumerate(names):
        records = [
            {
                **row,
                "inputs": row["inputs"] + " more" * int(rng.integers(400)),
                "source_dataset": f"set{k % 3}",
            }
            for k, row in enumerate(rows(70 * 3**number, name, tasks=2 + 3 * number, seed=number))
        ]
        pq.write_table(pa.Table.from_pylist(records), tmp_path / f"{name}.parquet", row_group_size=64)
    load_as_they_are(tmp_path, names)


def load_as_they_are(folder: Path, names: tuple[str, ...]) -> None:
    """Every row of the files is there, in the order of their paths, in the groups that its labels say."""
    collection = load(Files(path=[f"{folder}/{name}.parquet" for name in names]))
    groups = Groups.of(collection.train)
    tables = {name: pq.read_table(f"{folder}/{name}.parquet") for name in sorted(names)}
    assert len(collection.train) == sum(map(len, tables.values())) == groups.sizes.sum()
    labels = [table.select(["submixture", "task_name"]).to_pylist() for table in tables.values()]
    assert groups.tasks == tuple(
        sorted({(row["submixture"], row["task_name"]) for part in labels for row in part})
    )
    texts = [text for table in tables.values() for text in table["inputs"].to_pylist()]
    assert collection.train["inputs"].to_pylist() == texts


@pytest.mark.parametrize("write", [write_parquet, write_jsonl])
def test_columns_that_are_not_needed_may_hold_anything(tmp_path: Path, write: Any) -> None:
    records = [{**row, "messages": {"a": 1}, "response": 5, "row": "x"} for row in rows(5)]
    assert content(load(Files(path=str(write(tmp_path / f"f.{write.__name__[6:]}", records)))).train) == rows(
        5
    )


def test_a_validation_that_is_neither_a_count_nor_a_file(tmp_path: Path) -> None:
    path = str(write_jsonl(tmp_path / "f.jsonl", rows(5)))
    with pytest.raises(ConfigError, match=r"collection\.validation=true: must be text"):
        load(Files(path=path, validation=True))


@pytest.mark.parametrize("write", [write_parquet, write_jsonl, write_csv])
def test_rows_are_excluded_by_any_column_of_text(tmp_path: Path, write: Any) -> None:
    records = [{**record, "source": f"set_{number % 3}"} for number, record in enumerate(rows(12))]
    suffix = {write_parquet: "parquet", write_jsonl: "jsonl", write_csv: "csv"}[write]
    path = write(tmp_path / f"a.{suffix}", records)
    other = write_parquet(tmp_path / "b.parquet", rows(3))  # without that column
    task = records[1]["task_name"]
    collection = load(Files(path=[str(path), str(other)], exclude={"source": ["*_2"], "task_name": [task]}))
    named = sum(record["task_name"] == task for record in rows(3))
    kept = [n for n, record in enumerate(records) if n % 3 != 2 and record["task_name"] != task]
    assert collection.train["row"].to_pylist()[: len(kept)] == kept
    assert len(collection.train) == len(kept) + 3 - named
    dropped = collection.source["splits"]["train"]["dropped"]
    assert dropped["source: excluded as *_2"] == 4
    assert sum(dropped.values()) == 15 - len(collection.train)


def test_what_is_excluded_in_vain_is_told(tmp_path: Path) -> None:
    path = str(write_parquet(tmp_path / "a.parquet", rows(3)))
    with pytest.raises(UserError, match=r"exclude\.source=nothing: no row"):
        load(Files(path=path, exclude={"source": ["nothing"]}))
    with pytest.raises(ConfigError, match=r"exclude=.*source.*: must be a mapping to lists of texts or null"):
        load(Files(path=path, exclude={"source": "nothing"}))


def test_an_empty_shard_is_skipped_with_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_jsonl(tmp_path / "good.jsonl", rows(5))
    for name, text in (("empty.jsonl", ""), ("header.csv", "inputs,targets\n"), ("array.json", "[]")):
        (tmp_path / name).write_text(text)
    pq.write_table(pa.table({"x": pa.array([], pa.string())}), tmp_path / "none.parquet")
    collection = load(Files(path=f"{tmp_path}/*"))
    assert content(collection.train) == rows(5)
    assert sum(line.endswith("holds no rows: skipped.") for line in caplog.messages) == 4
    assert collection.fingerprint == load(Files(path=f"{tmp_path}/good.jsonl")).fingerprint
    with pytest.raises(UserError, match=r"empty\.jsonl: no rows to use"):
        load(Files(path=f"{tmp_path}/empty.jsonl"))


def test_a_shard_of_nulls_is_named_by_row(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "good.jsonl", rows(5))
    write_jsonl(tmp_path / "nulls.jsonl", [{**row, "targets": None} for row in rows(3)])
    with pytest.raises(UserError, match=r"nulls\.jsonl: targets: null in 3 rows: 0, 1, 2"):
        load(Files(path=f"{tmp_path}/*"))
    assert len(load(Files(path=f"{tmp_path}/*", bad_rows="drop")).train) == 5


def test_every_kind_of_drop_is_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = [*rows(9), *rows(2), {**rows(1)[0], "inputs": ""}, {**rows(1)[0], "targets": None}]
    path = write_jsonl(tmp_path / "a.jsonl", records)
    load(Files(path=str(path), bad_rows="drop", drop_duplicates=True))
    assert sorted(caplog.messages) == [
        "Left out 1 of 13 train rows: inputs: empty.",
        "Left out 1 of 13 train rows: targets: null.",
        "Left out 2 of 11 train rows: copies of an earlier row.",
    ]


def test_a_file_is_read_once_however_it_is_reached(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", rows(10))
    (tmp_path / "loop").symlink_to(tmp_path)
    assert len(load(Files(path=f"{tmp_path}/**/*.jsonl")).train) == 10


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_validation_under_another_name_is_still_the_training_file(tmp_path: Path, link: str) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", rows(10))
    getattr(tmp_path / "b.jsonl", link)(path)
    with pytest.raises(UserError, match=r"b\.jsonl is in collection\.path too, as .*a\.jsonl"):
        load(Files(path=str(path), validation=f"{tmp_path}/b.jsonl"))


def test_two_formats_of_one_stem_are_two_tasks(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"prompt": "q", "response": "a"}])
    write_csv(tmp_path / "a.csv", [{"prompt": "q", "response": "a"}])
    assert Groups.of(load(Files(path=f"{tmp_path}/*")).train).tasks == (
        ("files", "a.csv"),
        ("files", "a.jsonl"),
    )


def test_bytes_that_are_no_utf8_in_messages_and_any_source(tmp_path: Path) -> None:
    data = pa.array([b"u", b"caf\xe9"], pa.binary())
    texts = pa.StringArray.from_buffers(2, data.buffers()[1], data.buffers()[2])
    turns = pa.StructArray.from_arrays(
        [pa.array(["user", "assistant"] * 2), texts.take([0, 0, 1, 0])], ["role", "content"]
    )
    pq.write_table(pa.table({"messages": pa.ListArray.from_arrays([0, 2, 4], turns)}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"messages: invalid UTF-8 in 1 row: 1"):
        load(Files(path=str(tmp_path / "a.parquet")))
    assert len(load(Files(path=str(tmp_path / "a.parquet"), bad_rows="drop")).train) == 1
    labels = {"submixture": "s", "task_name": "t", "template_type": "zs_opt"}
    part = Part.of(
        "mine", {**labels, "inputs": pa.chunked_array([texts]), "targets": pa.chunked_array([["a", "b"]])}
    )
    assert [fault.reason for fault in part.faults] == ["inputs: invalid UTF-8"]
