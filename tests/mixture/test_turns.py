"""Mixtures of rows with turns: what is written is read again, by us, datasets, TRL, and in the forms of others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from smart.conversation import Conversation, from_json, to_json
from smart.mixture import (
    TaskBudgets,
    Uniform,
    describe_turns,
    distribute,
    render_summary,
    split_templates,
    write_mixture,
)
from smart.mixture import exports as exports_module
from smart.mixture import write as write_module
from smart.mixture.budgets import read_tasks
from smart.mixture.exports import Export, export_mixture
from smart.reading import RowView
from smart.runtime.manifest import is_made, read_manifest
from smart.templates import CHAT_TEMPLATES
from smart.training.data import read_mixture

MANIFEST = {"kind": "mixture", "key": "0" * 32, "config": {"budget": "6", "separator": " "}}
CALL = {
    "id": "c0",
    "type": "function",
    "function": {"name": "weather", "arguments": {"city": "Bern", "days": None}},
}
TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}


def messages(*turns: tuple[str, str], **last: Any) -> list[Any]:
    made = [{"role": role, "content": text} for role, text in turns]
    return [*made[:-1], {**made[-1], **last}]


PLAIN: list[Conversation] = [
    {
        "messages": messages(
            ("user", f"u{n} é"), ("assistant", f"a{n}"), *[("user", "more"), ("assistant", "b")] * (n % 2)
        )
    }
    for n in range(5)
]
TOOLS: Conversation = {
    "messages": [
        *messages(("system", "s"), ("user", "u"), ("assistant", ""), tool_calls=[CALL]),
        *messages(("tool", "12"), tool_call_id="c0"),
        *messages(("assistant", "12 degrees")),
    ],
    "tools": [TOOL],
}
KWARGS: Conversation = {"messages": messages(("user", "u"), ("assistant", "a"), reasoning_content="r"),
                        "chat_template_kwargs": {"enable_thinking": True}}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of a second each."""
    if "card" not in request.node.name:
        monkeypatch.setattr(write_module, "draw_figures", lambda *_: [])


def make(folder: Path, conversations: list[Conversation], held_out: int = 0) -> tuple[Path, TaskBudgets]:
    """A mixture of all the conversations but the last few, in two tasks."""
    n = len(conversations)
    labels = {
        "submixture": ["s"] * n,
        "task_name": [f"t{k % 2}" for k in range(n)],
        "template_type": ["chat"] * n,
    }
    texts = {name: ["x"] * n for name in ("inputs", "targets")}
    table = pa.table(
        {**labels, **texts, "conversation": list(map(to_json, conversations)), "row": np.arange(n) * 3}
    )
    train, validation = (
        RowView.of(part) for part in (table.slice(0, n - held_out), table.slice(n - held_out))
    )
    sizes = np.bincount(np.arange(len(train)) % 2)[:, np.newaxis]
    names = [("s", "t0"), ("s", "t1")]
    tasks = distribute(names, sizes, np.arange(2), None, Uniform(), len(train), CHAT_TEMPLATES)
    write_mixture(folder, train, validation if held_out else None, tasks, MANIFEST)
    return folder, tasks


@pytest.mark.parametrize(
    ("conversations", "fields", "beside"),
    [
        (PLAIN, ["role", "content"], []),
        ([*PLAIN, TOOLS], ["role", "content", "tool_calls", "tool_call_id"], ["tools"]),
        ([KWARGS, *PLAIN], ["role", "content", "reasoning_content"], ["chat_template_kwargs"]),
    ],
    ids=["turns", "tools", "arguments"],
)
def test_what_is_written_is_read_again(
    tmp_path: Path, conversations: list[Conversation], fields: list[str], beside: list[str]
) -> None:
    from datasets import load_dataset

    folder, _ = make(tmp_path / "m", conversations, held_out=2)
    labels = ["submixture", "task_name", "template_type", "row"]
    for split in ("train", "validation"):
        schema = pq.read_schema(folder / f"{split}.parquet")
        assert schema.names == ["messages", *beside, *labels]
        assert [field.name for field in schema.field("messages").type.value_type] == fields
    read = read_mixture(str(folder))
    order = [row // 3 for row in pq.read_table(folder / "train.parquet")["row"].to_pylist()]
    assert sorted(order) == list(range(len(conversations) - 2))
    assert list(map(from_json, read.train["conversation"].to_pylist())) == [
        conversations[row] for row in order
    ]
    assert list(map(from_json, read.validation["conversation"].to_pylist())) == conversations[-2:]
    data = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    for split, rows in (("train", [conversations[row] for row in order]), ("validation", conversations[-2:])):
        for row, one in zip(data[split], rows, strict=True):
            assert [{k: v for k, v in turn.items() if v is not None} for turn in row["messages"]] == one[
                "messages"
            ]
            assert (row.get("tools") or []) == one.get("tools", [])
            assert row.get("chat_template_kwargs", {}) == one.get("chat_template_kwargs", {})
    listed = read_tasks(folder / "tasks.csv")
    assert list(listed[0])[-2:] == ["budget", "chat"]
    assert sum(int(task["chat"]) for task in listed) == len(order)


def test_card_summary_and_manifest_know_turns(tmp_path: Path) -> None:
    folder, tasks = make(tmp_path / "m", [*PLAIN, TOOLS])
    manifest = read_manifest(folder) or {}
    assert manifest["counts"] == {
        "turns": 9,
        "rows_with_system_text": 1,
        "rows_with_tools": 1,
        "tool_calls": 1,
    }
    card = (folder / "README.md").read_text()
    for line in (
        "| rows with several answers | 3 |",
        "| turns of the assistant | 9 |",
        "| calls of tools | 1 |",
    ):
        assert line in card
    assert "`messages`" in card
    assert "![turns.png](figures/turns.png)" in card
    assert (folder / "figures" / "turns.png").exists()
    rows = RowView.of(
        pa.table({"conversation": list(map(to_json, [*PLAIN, TOOLS])), "row": range(len(PLAIN) + 1)})
    )
    assert "9 turns of the assistant; 1 row with a system text, 1 with tools; 1 call" in render_summary(
        tasks, describe_turns(rows)
    )
    assert "chat 6" in render_summary(tasks)


def test_a_task_of_one_template_type_gives_all_its_rows_of_that() -> None:
    assert split_templates(np.array([2, 0]), np.array([[5], [3]])).tolist() == [[2], [0]]
    with pytest.raises(ValueError, match="between 0 and the rows"):
        split_templates(4, np.array([3]))


def export(folder: Path, *names: Export) -> Path:
    manifest = read_manifest(folder)
    assert manifest is not None
    export_mixture(folder, manifest, names)
    return folder / "exports"


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_exports_of_plain_turns_name_the_files_themselves(tmp_path: Path) -> None:
    folder, _ = make(tmp_path / "my mixture", PLAIN, held_out=1)
    place = export(folder, "axolotl", "llamafactory", "openinstruct", "swift")
    axolotl = yaml.safe_load((place / "axolotl" / "datasets.yml").read_text())
    entry = axolotl["datasets"][0]
    assert (entry["path"], entry["ds_type"], entry["type"]) == (
        f"{folder}/train.parquet",
        "parquet",
        "chat_template",
    )
    assert (entry["field_messages"], entry["roles_to_train"]) == ("messages", ["assistant"])
    assert axolotl["test_datasets"][0]["path"] == f"{folder}/validation.parquet"
    info = json.loads((place / "llamafactory" / "dataset_info.json").read_text())
    assert (place / "llamafactory" / info["mixture"]["file_name"]).resolve() == folder / "train.parquet"
    assert info["mixture"]["formatting"] == "sharegpt"
    assert info["mixture"]["tags"]["assistant_tag"] == "assistant"
    assert (place / "openinstruct" / "arguments.txt").read_text() == (
        f"--dataset_mixer_list '{folder}/train.parquet' 1.0 --dataset_mixer_list_splits train\n"
    )
    assert (place / "swift" / "arguments.txt").read_text() == (
        f"--dataset '{place}/swift/train.jsonl' --val_dataset '{place}/swift/validation.jsonl'\n"
    )
    order = [row // 3 for row in pq.read_table(folder / "train.parquet")["row"].to_pylist()]
    assert lines(place / "swift" / "train.jsonl") == [PLAIN[row] for row in order]


def test_exports_of_tools_are_in_each_trainers_form(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from datasets import load_dataset

    both: Conversation = {"messages": messages(("user", "u"), ("assistant", "text"), tool_calls=[CALL])}
    place = export(
        make(tmp_path / "m", [TOOLS, KWARGS, both])[0], "axolotl", "llamafactory", "openinstruct", "swift"
    )
    # KWARGS has no form anywhere; a text beside a call has none in LLaMA-Factory.
    left = {
        name: (read_manifest(place / name) or {})["left_out"] for name in ("axolotl", "llamafactory", "swift")
    }
    assert left == {"axolotl": 1, "llamafactory": 2, "swift": 1}
    assert (
        "LLaMA-Factory has no form for a text and a call in one turn: 1 row left out of train.jsonl."
        in caplog.messages
    )

    def row(name: str) -> Any:
        found = [line for line in lines(place / name / "train.jsonl") if "12" in json.dumps(line)]
        assert len(found) == 1
        return found[0]

    call = json.dumps(CALL["function"])
    axolotl = row("axolotl")
    assert (
        json.loads(axolotl["messages"][2]["tool_calls"][0]["function"]["arguments"])
        == CALL["function"]["arguments"]
    )  # type: ignore[index]
    assert json.loads(axolotl["tools"][0]["function"]["parameters"]) == TOOL["function"]["parameters"]  # type: ignore[index]
    assert [(turn["role"], turn["content"]) for turn in row("llamafactory")["messages"]] == [
        ("system", "s"), ("user", "u"), ("function_call", f"[{call}]"),
        ("observation", "12"), ("assistant", "12 degrees"),
    ]  # fmt: skip
    assert json.loads(row("llamafactory")["tools"]) == [TOOL]
    olmo = row("openinstruct")["messages"]
    assert olmo[2]["function_calls"] == "weather(city='Bern', days=None)"
    assert (json.loads(olmo[0]["functions"]), olmo[3]["role"]) == ([TOOL], "environment")
    assert [(turn["role"], turn["content"]) for turn in row("swift")["messages"]] == [
        ("system", "s"), ("user", "u"), ("tool_call", call), ("tool_response", "12"), ("assistant", "12 degrees")
    ]  # fmt: skip
    for name in ("axolotl", "llamafactory", "openinstruct", "swift"):
        file = str(place / name / "train.jsonl")
        assert len(load_dataset("json", data_files=file, cache_dir=str(tmp_path / "cache"))["train"]) >= 1
    # What Olmo's form says is what we read.
    again = read_mixture(str(place / "openinstruct" / "train.jsonl")).train["conversation"].to_pylist()
    calls = [
        turn["tool_calls"] for text in again for turn in from_json(text)["messages"] if "tool_calls" in turn
    ]
    assert [call["function"] for found in calls for call in found] == [CALL["function"]] * 2


@pytest.mark.parametrize("name", ["axolotl", "llamafactory", "openinstruct", "swift"])
def test_exports_of_rows_of_two_texts(tmp_path: Path, name: Export) -> None:
    from tests.mixture.examples import make_pool

    pool = make_pool(3, 2, 8)
    folder = tmp_path / "m"
    write_mixture(
        folder,
        RowView.of(pool.chosen()),
        None,
        pool.tasks,
        {**MANIFEST, "config": {"separator": "\n"}},
        separator="\n",
    )
    place = export(folder, name) / name
    prompts = pq.read_table(folder / "train.parquet")["prompt"].to_pylist()
    if name == "axolotl":
        entry = yaml.safe_load((place / "datasets.yml").read_text())["datasets"][0]
        assert entry["type"]["field_output"] == "response"
        assert entry["type"]["format"].format(instruction="q") == "q\n"
    elif name == "llamafactory":
        info = json.loads((place / "dataset_info.json").read_text())
        assert info["mixture"]["columns"] == {"prompt": "prompt", "response": "response"}
    else:
        assert [line["messages"][0]["content"] for line in lines(place / "train.jsonl")] == prompts


def test_an_export_is_added_to_a_mixture_that_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = make(tmp_path / "m", PLAIN)
    before = (folder / "manifest.json").read_bytes()
    place = export(folder, "swift")
    first = (place / "swift" / "train.jsonl").stat().st_mtime_ns
    assert is_made(folder, "0" * 32, "mixture")
    assert (folder / "manifest.json").read_bytes() == before
    assert {path.name for path in export(folder, "swift", "axolotl").iterdir()} == {"swift", "axolotl"}
    assert (place / "swift" / "train.jsonl").stat().st_mtime_ns == first
    (place / "swift" / "train.jsonl").write_text("damaged")
    export(folder, "swift")
    assert len(lines(place / "swift" / "train.jsonl")) == len(PLAIN)
    moved = folder.rename(tmp_path / "moved")
    assert str(moved) in (export(moved, "axolotl") / "axolotl" / "datasets.yml").read_text()
    monkeypatch.setattr(exports_module, "VERSION", 2)
    export(moved, "swift")
    assert (moved / "exports" / "swift" / "train.jsonl").stat().st_mtime_ns != first


TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}\n{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.full
def test_trl_trains_on_the_folder_as_it_is(tmp_path: Path) -> None:
    from datasets import load_dataset
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    folder, _ = make(tmp_path / "m", [*PLAIN, TOOLS, KWARGS, PLAIN[1]], held_out=1)
    data = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    words = Tokenizer(models.BPE(unk_token="<unk>"))
    words.pre_tokenizer, words.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    special = ["<unk>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words.train_from_iterator(
        ["text"], trainers.BpeTrainer(special_tokens=special, vocab_size=300, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<|im_end|>", pad_token="<unk>", chat_template=TEMPLATE
    )
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    trainer = SFTTrainer(
        LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape)),
        SFTConfig(str(tmp_path / "trl"), max_steps=1, report_to="none", use_cpu=True, bf16=False),
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        processing_class=tokenizer,
    )
    conversations = [from_json(text) for text in read_mixture(str(folder)).train["conversation"].to_pylist()]
    for prepared, one in zip(trainer.train_dataset, conversations, strict=True):
        expected = tokenizer.apply_chat_template(one["messages"], tools=one.get("tools"), tokenize=False)
        assert tokenizer.decode(prepared["input_ids"]) == expected
    assert trainer.train().global_step == 1
