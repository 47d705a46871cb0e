"""Selecting from rows with turns, from the option to the written mixture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import smart
from smart.conversation import from_json
from smart.runtime.manifest import read_manifest
from smart.selection import pool
from smart.training.data import read_mixture
from tests.collection.test_conversations import turns

WORDS = ["bread", "moons", "rivers", "tides", "verbs", "glass"]
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system text') }}{% endif %}"
    "<s>{{ m.role }} {{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<s>assistant {% endif %}"
)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    """48 conversations of two sources, and 12 rows of two texts; options that select from them."""
    rows = []
    for n in range(48):
        word, said = WORDS[n % 6], ["what of", "and then"][: 1 + n % 2]
        texts = [text for ask in said for text in (f"{ask} {word} {n}", f"{word} {n}")]
        rows.append(turns(*texts, source=f"s{n % 2}", system="be brief" if n % 8 == 0 else ""))
    rows.append(turns("what of bread", "bread " * 200, source="s0"))
    (tmp_path / "chat.jsonl").write_text("\n".join(map(json.dumps, rows)))
    plain = [
        {"instruction": f"say {word} {n}", "input": "", "output": word} for n, word in enumerate(WORDS * 2)
    ]
    (tmp_path / "plain.json").write_text(json.dumps(plain))
    options = {"collection": "files", "tracker": "none", "budget": 30, "output_root": tmp_path / "outputs"}
    return {**options, "collection.path": [str(tmp_path / "chat.jsonl"), str(tmp_path / "plain.json")]}


def test_a_mixture_of_rows_with_turns(files: dict[str, Any]) -> None:
    made = smart.select(**files)
    assert made.rows.column_names == ["messages", "submixture", "task_name", "template_type", "row"]
    assert set(made.rows["template_type"].to_pylist()) == {"chat"}
    assert {task["task_name"] for task in made.tasks} == {"s0", "s1", "plain"}
    assert [task["chat"] for task in made.tasks] == [task["budget"] for task in made.tasks]
    assert sum(int(task["budget"]) for task in made.tasks) == 30
    assert made.manifest["counts"]["pool_rows"] == 61
    assert made.manifest["counts"]["turns"] >= 30
    assert set(made.manifest["distinct_vectors"]) == {f"files/{name}/chat" for name in ("s0", "s1", "plain")}
    assert len(read_mixture(str(made.path)).train) == 30
    assert "turns of the assistant" in made.summary
    other = smart.select(**{**files, "collection.embed": "first_turn"})
    assert other.path != made.path
    assert other.manifest["inputs"][-1] != made.manifest["inputs"][-1], "other texts have other vectors"
    again = smart.select(**files, export=["swift"])
    assert again.path == made.path
    assert not again.summary, "made before"
    assert read_manifest(again.path) == made.manifest
    assert len((again.path / "exports" / "swift" / "train.jsonl").read_text().splitlines()) == 30


def test_random_rows_nest(files: dict[str, Any]) -> None:
    few, many = (
        smart.select(**{**files, "strategy": "smart_random_instances", "fn": "random", "budget": budget}).rows
        for budget in (10, 40)
    )
    assert set(few["row"].to_pylist()) < set(many["row"].to_pylist())


def test_conversations_that_the_template_cannot_carry_or_that_are_too_long_are_left_out(
    files: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocabulary = {word: n for n, word in enumerate(["<unk>", "<s>", "</s>", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>", chat_template=TEMPLATE
    ).save_pretrained(str(tmp_path / "tokenizer"))
    options = {**files, "tokenizer": str(tmp_path / "tokenizer"), "max_length": 40, "fn": "random",
               "instance_fn": "random"}  # fmt: skip
    made = smart.select(**{**options, "budget": "100%"})
    kept = [
        from_json(text)["messages"] for text in read_mixture(str(made.path)).train["conversation"].to_pylist()
    ]
    assert len(kept) == made.manifest["counts"]["pool_rows"] == 61 - 6 - 1
    assert not [row for row in kept if row[0]["role"] == "system"]
    assert made.manifest["drops"]["train"]["longer_than_max_length"] == 7
    assert (
        "Left out 7 of 61 train rows: the template cannot carry them, or no answer fits into" in caplog.text
    )
    monkeypatch.setattr(pool, "_measure", None)  # a sweep measures once
    assert smart.select(**{**options, "budget": "50%"}).manifest["drops"] == made.manifest["drops"]
