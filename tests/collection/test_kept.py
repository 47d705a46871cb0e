"""What is kept of a collection: the second load reads no row, and says the same; nothing damaged or old is used."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from smart.collection import Collection, Files, NaturalInstructions, load
from smart.config import UserError
from smart.runtime.plans import writing_nothing
from tests.collection.examples import rows, write_jsonl, write_parquet


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Two files with faults of every kind, duplicates and a column to leave rows out by."""
    whole = rows(40, "a")
    write_parquet(tmp_path / "a.parquet", [*whole, whole[3], {**whole[5], "targets": None}])
    odd: list[Any] = [*rows(9, "b"), {**rows(1, "b")[0], "inputs": 7}, {**rows(2, "b")[1], "targets": " "}]
    path = write_jsonl(tmp_path / "b.jsonl", odd)
    with path.open("ab") as file:
        file.write(b'{"inputs": "\xff", "targets": "x"}\nno json\n')
    return Files(
        path=str(tmp_path / "*.*"), bad_rows="drop", drop_duplicates=True, exclude={"task_name": ["task2"]}
    )


def same(one: Collection, other: Collection) -> bool:
    splits = [(one.train, other.train), (one.validation, other.validation)]
    tables = all((a is None) == (b is None) and (a is None or a.equals(b)) for a, b in splits)
    facts = [(c.name, c.source, c.fingerprint) for c in (one, other)]
    return tables and facts[0] == facts[1]


def chat(folder: Path) -> Files:
    turns = [
        {
            "messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}],
            "source": "x",
        }
        for n in range(7)
    ]
    folder.mkdir(exist_ok=True)
    write_jsonl(folder / "chat.jsonl", turns)
    write_parquet(folder / "plain.parquet", rows(5))
    return Files(path=[str(folder / "chat.jsonl"), str(folder / "plain.parquet")], embed="conversation")


@pytest.mark.parametrize(
    "change", [{}, {"validation": 7}, {"validation": "{folder}/b.jsonl", "path": "{folder}/a.parquet"}]
)
def test_the_second_load_reads_no_row(
    tmp_path: Path, files: Files, change: dict[str, Any], caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    put = {
        key: value.format(folder=tmp_path) if isinstance(value, str) else value
        for key, value in change.items()
    }
    options = replace(files, **put)
    with caplog.at_level(logging.INFO, "smart"):
        plain = load(options)
        said = caplog.messages
        caplog.clear()
        first = load(options, cache=tmp_path / "cache")
        assert caplog.messages == said
        assert any("Left out" in message for message in said)
        caplog.clear()
        monkeypatch.setattr(Files, "read", None)
        again = load(options, cache=tmp_path / "cache")
        assert caplog.messages == said
    assert same(plain, first)
    assert same(plain, again)


def test_conversations_are_kept_in_one_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = chat(tmp_path / "data")
    plain, first = load(options), load(options, cache=tmp_path / "cache")
    monkeypatch.setattr(Files, "read", None)
    assert same(plain, first)
    assert same(plain, load(options, cache=tmp_path / "cache"))


def test_texts_of_other_sources_are_kept_with_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "niv2" / "splits" / "default").mkdir(parents=True)
    (tmp_path / "niv2" / "splits" / "default" / "train_tasks.txt").write_text("task1\n")
    (tmp_path / "niv2" / "tasks").mkdir()
    task = {
        "Definition": ["Say it."],
        "Positive Examples": [{"input": "x", "output": "y"}],
        "Instances": [{"input": f"i{n}", "output": [f"o{n}"]} for n in range(12)],
    }
    (tmp_path / "niv2" / "tasks" / "task1.json").write_text(json.dumps(task))
    options = NaturalInstructions(path=str(tmp_path / "niv2"), validation=3)
    plain, first = load(options), load(options, cache=tmp_path / "cache")
    assert same(plain, first)
    monkeypatch.setattr(NaturalInstructions, "read", None)
    assert same(plain, load(options, cache=tmp_path / "cache"))


def test_a_refusal_is_the_same_from_converted_files(tmp_path: Path, files: Files) -> None:
    strict = replace(files, bad_rows="error")
    load(files, cache=tmp_path / "cache")  # converts both files
    said = []
    for cache in (None, tmp_path / "cache"):
        with pytest.raises(UserError, match="rows that cannot be used") as refused:
            load(strict, cache=cache)
        said.append(str(refused.value))
    assert said[0] == said[1]
    assert "invalid UTF-8" in said[0]
    assert "number instead of text" in said[0]
    assert "not a JSON object" in said[0]


@pytest.mark.parametrize("settled", [True, False])
def test_a_file_that_changes_is_read_again(tmp_path: Path, settled: bool) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", rows(12))
    options = Files(path=str(path))
    if settled:  # so that its hash is remembered
        time.sleep(2.1)
    before = load(options, cache=tmp_path / "cache")
    state = path.stat()
    write_jsonl(path, [{**rows(12)[0], "targets": "answer 9 é"}, *rows(12)[1:]])  # as long as it was
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert path.stat().st_size == state.st_size
    after = load(options, cache=tmp_path / "cache")
    assert after.train["targets"][0].as_py() == "answer 9 é"
    assert before.fingerprint != after.fingerprint


@pytest.mark.parametrize("make", ["plain", "chat"])
def test_whatever_is_damaged_is_made_again(tmp_path: Path, files: Files, make: str) -> None:
    options = files if make == "plain" else chat(tmp_path / "data")
    plain, cache = load(options), tmp_path / "cache"
    load(options, cache=cache)
    kept = sorted(path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock")
    assert len(kept) >= 8
    ways: list[Callable[[Path], object]] = [
        Path.unlink,
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
    ]
    shutil.copytree(cache, tmp_path / "whole")
    for path in kept:
        for damage in ways:
            damage(path)
            assert same(plain, load(options, cache=cache)), path
            shutil.rmtree(cache)
            shutil.copytree(tmp_path / "whole", cache)


def test_a_cache_may_be_moved(tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = load(files, cache=tmp_path / "cache")
    (tmp_path / "cache").rename(tmp_path / "elsewhere")
    monkeypatch.setattr(Files, "read", None)
    assert same(plain, load(files, cache=tmp_path / "elsewhere"))


def test_a_plan_writes_nothing_and_reads_what_is_there(
    tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    with writing_nothing():
        planned = load(files, cache=tmp_path / "cache")
        assert not (tmp_path / "cache").exists()
    assert same(planned, load(files, cache=tmp_path / "cache"))
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")}
    monkeypatch.setattr(Files, "read", None)
    with writing_nothing():
        assert same(planned, load(files, cache=tmp_path / "cache"))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")} == kept


def test_texts_are_mapped_and_not_held(tmp_path: Path) -> None:
    import pyarrow as pa

    long = [{**row, "inputs": row["inputs"] * 500} for row in rows(400)]
    path = write_parquet(tmp_path / "a.parquet", long)
    size = sum(len(row["inputs"]) for row in long)
    load(Files(path=str(path)), cache=tmp_path / "cache")
    before = pa.total_allocated_bytes()
    collection = load(Files(path=str(path)), cache=tmp_path / "cache")
    assert pa.total_allocated_bytes() - before < size / 50
    assert len(collection.train_rows) == 400
