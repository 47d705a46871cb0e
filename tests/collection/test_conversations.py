"""Rows with turns as a collection: one shape, one template type, tasks by any column."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from smart.collection import CHAT_SCHEMA, SCHEMA, Files, Groups, check_source, load
from smart.collection.contamination import row_overlaps
from smart.config import ConfigError, UserError
from smart.conversation import from_json
from smart.reading import RowView
from tests.collection.examples import rows, write_jsonl, write_parquet


def turns(*texts: str, system: str = "", **more: Any) -> dict[str, Any]:
    """A row: user and assistant in turn."""
    head = [{"role": "system", "content": system}] if system else []
    roles = ("user", "assistant") * len(texts)
    said = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    return {"messages": head + said, **more}


CHAT = [turns("u0", "a0", source="x"), turns("u1", "a1", "v1", "b1", system="s", source="y")]


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_rows_with_turns(tmp_path: Path, suffix: str) -> None:
    write = write_parquet if suffix == "parquet" else write_jsonl
    options = Files(path=str(write(tmp_path / f"a.{suffix}", CHAT)))
    table = load(options).train
    assert table.schema == CHAT_SCHEMA
    assert table["inputs"].to_pylist() == ["u0", "u1\n\nv1"]
    assert table["targets"].to_pylist() == ["a0", "a1\n\nb1"]
    assert table["task_name"].to_pylist() == ["x", "y"]
    assert set(table["template_type"].to_pylist()) == {"chat"}
    assert [from_json(text)["messages"] for text in table["conversation"].to_pylist()] == [
        row["messages"] for row in CHAT
    ]
    groups = Groups.of(table)
    assert (groups.templates, groups.sizes.tolist(), groups.offsets.tolist()) == (
        ("chat",),
        [[1], [1]],
        [0, 1, 2],
    )
    assert groups.name(1) == ("files", "y", "chat")
    check_source(options)


def test_what_is_embedded(tmp_path: Path) -> None:
    path = str(write_jsonl(tmp_path / "a.jsonl", CHAT))
    found = {
        embed: load(Files(path=path, embed=embed)) for embed in ("user_turns", "first_turn", "conversation")
    }  # type: ignore[arg-type]
    assert [one.train["inputs"].to_pylist()[1] for one in found.values()] == [
        "u1\n\nv1",
        "u1",
        "s\n\nu1\n\na1\n\nv1\n\nb1",
    ]
    assert len({one.fingerprint for one in found.values()}) == 3


@pytest.mark.parametrize("beside", ["plain.jsonl", "validation"])
def test_in_a_pool_with_turns_all_rows_are_conversations(tmp_path: Path, beside: str) -> None:
    plain = write_jsonl(tmp_path / "plain.jsonl", rows(3))
    chat = write_jsonl(tmp_path / "chat.jsonl", CHAT)
    if beside == "validation":
        collection = load(Files(path=str(plain), validation=str(chat)))
        assert collection.validation is not None
        assert collection.validation.schema == CHAT_SCHEMA
    else:
        collection = load(Files(path=[str(plain), str(chat)]))
    table = collection.train.slice(len(collection.train) - 3)
    assert table.schema == CHAT_SCHEMA
    assert set(table["template_type"].to_pylist()) == {"chat"}
    first = rows(3)[0]
    assert from_json(table["conversation"].to_pylist()[0])["messages"] == [
        {"role": "user", "content": first["inputs"]},
        {"role": "assistant", "content": first["targets"]},
    ]
    assert table["inputs"].to_pylist() == [row["inputs"] for row in rows(3)]
    assert load(Files(path=str(plain))).train.schema == SCHEMA


def test_rows_that_cannot_be_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bad = [turns("u"), turns(" ", "a"), {"messages": None}, {"messages": turns("u", "a")["messages"][::-1]}]
    path = str(write_jsonl(tmp_path / "a.jsonl", [*CHAT, turns("u", "a", "cut", source="x"), *bad]))
    with pytest.raises(UserError) as caught:
        load(Files(path=path))
    for fault in ("messages: no turn of the assistant in 1 row: 3", "inputs: empty in 1 row: 4",
                  "messages: null in 1 row: 5", "messages: no user's turn before the others in 1 row: 6"):  # fmt: skip
        assert f"{path}: {fault}" in str(caught.value)
    collection = load(Files(path=path, bad_rows="drop"))
    assert collection.train["row"].to_pylist() == [0, 1, 2]
    counts = collection.source["splits"]["train"]
    assert (sum(counts["dropped"].values()), counts["cut_behind_last_answer"]) == (4, 1)
    assert "Cut behind the last answer: 1 of 7 train rows." in caplog.messages


def test_equal_texts_with_other_turns_are_no_copies(tmp_path: Path) -> None:
    one, two = turns("u", "a"), turns("u", "a", system="s")
    path = str(write_jsonl(tmp_path / "a.jsonl", [one, two, one]))
    collection = load(Files(path=path, drop_duplicates=True))
    assert collection.train["row"].to_pylist() == [0, 1]
    assert collection.source["splits"]["train"]["exact_duplicates"] == 1


def test_a_question_is_found_in_any_turn(tmp_path: Path) -> None:
    question = "what is the smallest number that is not named by fewer than thirteen words in all"
    found = [
        turns("hello", "hi", question, "it is one"),
        turns("hello", question),
        turns("hello", "hi", system=question),
    ]
    path = str(write_jsonl(tmp_path / "a.jsonl", [*found, *CHAT]))
    table = load(Files(path=path, embed="first_turn")).train
    assert row_overlaps(RowView.of(table), {"b": [question]}).mask.tolist() == [True] * 3 + [False] * 2


@pytest.mark.parametrize("write", [write_parquet, write_jsonl])
def test_a_column_says_the_task(tmp_path: Path, write: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    records = [
        {
            **turns(f"u{n}", "a"),
            "dataset": None if n == 3 else f"d{n % 2}",
            "category": "c",
            "source": n,
            "kind": f"k{n % 3}",
        }
        for n in range(12)
    ]
    path = str(write(tmp_path / f"rows.{write.__name__[6:]}", records))

    def tasks(**options: Any) -> list[str]:
        return load(Files(path=path, **options)).train["task_name"].to_pylist()[:4]

    assert tasks() == ["d0", "d1", "d0", "rows"], "source holds numbers; a null is the file's"
    assert "Tasks are the values of the column dataset." in caplog.messages
    assert tasks(task="kind") == tasks(columns={"task_name": "kind"}) == ["k0", "k1", "k2", "k0"]
    assert not [line for line in caplog.messages if "one task" in line]
    assert tasks(task="category") == ["c"] * 4
    assert caplog.messages[-1].endswith(
        "nothing to choose between in stage 1: take the tasks from a column with collection.task=COLUMN (few values"
        " have: dataset, kind)."
    )
    with pytest.raises(UserError, match=r"no column nothing \(collection\.task\); it has: messages"):
        tasks(task="nothing")
    with pytest.raises(UserError, match=r"source: (int64|number) instead of text"):
        tasks(task="source")
    with pytest.raises(ConfigError, match=r"collection\.task=kind: columns\.task_name says the same"):
        tasks(task="kind", columns={"task_name": "kind"})


def test_files_without_such_a_column_are_a_task_each(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_jsonl(tmp_path / f"{name}.jsonl", [turns("u", "a", id=7)])
    assert Groups.of(load(Files(path=f"{tmp_path}/*.jsonl")).train).tasks == (
        ("files", "one"),
        ("files", "two"),
    )


def test_an_input_that_a_mapping_leaves_out_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = str(write_jsonl(tmp_path / "a.jsonl", [{"instruction": "q", "input": "i", "output": "a"}]))
    assert load(Files(path=path)).train["inputs"].to_pylist() == ["q\n\ni"]
    assert "The column input is left out" not in caplog.text
    columns = {"inputs": "instruction", "targets": "output"}
    assert load(Files(path=path, columns=columns)).train["inputs"].to_pylist() == ["q"]
    assert "The column input is left out" in caplog.text
