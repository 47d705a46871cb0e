"""Unseen conversations: the loss of each turn by training's own masks, and the last answer generated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from smart.benchmarks.heldout import heldout_texts, read_heldout
from smart.benchmarks.suites import Suite
from smart.config import UserError
from smart.evaluation import scoring
from smart.evaluation.heldout import heldout_groups
from smart.evaluation.heldout_turns import score_answer
from smart.model.chat import ChatFormat, encode_conversations
from smart.runtime.processes import Processes
from tests.evaluation.examples import CHATML, make_job, save_model

CPU = torch.device("cpu")
TOOLS = (
    "{{ bos_token }}{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "{% for call in message['tool_calls'] or [] %}CALL {{ call['function'] | tojson }}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FORGETFUL = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] if loop.last else message['content'].split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Drops the thoughts of earlier answers, as Qwen3's does."""


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("chatty") / "tiny", template=CHATML)


def said(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


TURNS = [
    {
        "source": "one",
        "messages": [
            said("system", "be had"),
            said("user", "the of a"),
            said("assistant", "to and"),
            said("user", "in that"),
            said("assistant", "is was for it"),
        ],
    },
    {"source": "one", "messages": [said("user", "not are"), said("assistant", "but from or")]},
    {"source": "two", "messages": [said("user", "with as his"), said("assistant", "on")]},
]


def write(folder: Path, rows: list[dict[str, Any]], name: str = "unseen.jsonl") -> Path:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / name


def with_template(model: Path, template: str) -> tuple[Any, ChatFormat]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = template
    return tokenizer, ChatFormat.of(tokenizer)


def documents(
    file: Path, tokenizer: Any, form: ChatFormat, group: str = "heldout_loss"
) -> list[dict[str, Any]]:
    groups = heldout_groups(file, tokenizer, form=form)
    return [doc for task in groups[group].get_all_tasks() for doc in task.eval_docs]


def scores_of(model: Path, file: Path, root: Path, **more: Any) -> dict[str, Any]:
    job = make_job(model, None, root, suite=Suite("heldout", (), 0, str(file)), **more)
    return scoring.score(job, root / "scores", Processes(), CPU)


def test_the_loss_of_each_turn_is_that_of_training(chatty, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    result = scores_of(chatty, write(tmp_path, TURNS), tmp_path, format="chat")
    network = AutoModelForCausalLM.from_pretrained(chatty, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(chatty)
    by_turn: dict[tuple[str, int], list[tuple[float, int]]] = {}
    for row in TURNS:
        (encoded,) = encode_conversations(
            ChatFormat.of(tokenizer), tokenizer, [{"messages": row["messages"]}]
        )
        (made,) = encoded.rows
        with torch.no_grad():
            logits = network(input_ids=torch.tensor([made.ids])).logits[0].log_softmax(-1)
        for turn, (start, stop) in enumerate(made.spans, 1):
            loss = -sum(float(logits[place - 1, made.ids[place]]) for place in range(start, stop))
            by_turn.setdefault((row["source"], turn), []).append((loss, stop - start))
    for task in ("one", "two"):
        items = [pair for (name, _), pairs in by_turn.items() if name == task for pair in pairs]
        expected = sum(loss for loss, _ in items) / sum(tokens for _, tokens in items)
        assert result["results"][f"heldout_loss_{task}"]["loss,none"] == pytest.approx(expected, rel=1e-5)
        for found in result["turns"][f"heldout_loss_{task}"]:
            pairs = by_turn[task, found["turn"]]
            assert (found["tokens"], found["conversations"]) == (
                sum(tokens for _, tokens in pairs),
                len(pairs),
            )
            assert found["loss"] * found["tokens"] == pytest.approx(sum(loss for loss, _ in pairs), rel=1e-5)
    assert [len(result["turns"][f"heldout_loss_{task}"]) for task in ("one", "two")] == [2, 1]
    assert result["format"] == "chat"
    assert result["model"]["format"]["end_of_turn"] == "<|im_end|>"
    samples = pq.read_table(tmp_path / "scores/samples.parquet").to_pylist()
    texts = {row["target"] for row in samples if row["task"].startswith("heldout_text")}
    assert texts == {"is was for it", "but from or", "on"}, "the last answer is generated"
    likelihoods = [len(row["likelihoods"]) for row in samples if row["task"] == "heldout_loss_one"]
    assert sorted(likelihoods) == [1, 2]


def test_an_answer_ends_with_its_turn(chatty, tmp_path, monkeypatch):
    """The end of turn is not the tokenizer's end of sequence, and nothing is written behind it."""
    from lm_eval.models.huggingface import HFLM

    from smart.evaluation import model_under_test

    lengths, load, generate = [], model_under_test.load_model, HFLM._model_generate

    def eager(*arguments: Any, **named: Any) -> Any:
        """A model that ends its turn at once."""
        model = load(*arguments, **named)
        (end,) = ChatFormat.of(with_template(chatty, CHATML)[0]).end_ids
        assert end != model.generation_config.eos_token_id

        def end_turn(module: Any, given: Any, logits: torch.Tensor) -> torch.Tensor:
            logits[..., end] = logits.max() + 1
            return logits

        model.get_output_embeddings().register_forward_hook(end_turn)
        return model

    def measured(self: Any, context: Any, *more: Any, **named: Any) -> Any:
        found = generate(self, context, *more, **named)
        lengths.append(found.shape[1] - context.shape[1])
        return found

    monkeypatch.setattr(model_under_test, "load_model", eager)
    monkeypatch.setattr(HFLM, "_model_generate", measured)
    result = scores_of(chatty, write(tmp_path, TURNS), tmp_path, format="chat")
    assert set(lengths) == {1}
    rows = pq.read_table(tmp_path / "scores/samples.parquet").to_pylist()
    assert {row["responses"][0] for row in rows if row["responses"]} == {""}
    assert len(result["model"]["generation"]["eos_token_id"]) == 2


def test_a_template_that_rewrites_history_has_each_answer_after_its_own_context(chatty, tmp_path):
    tokenizer, form = with_template(chatty, FORGETFUL)
    thinking = [said("user", "the"), said("assistant", "<think>of a</think>to"), said("user", "and")]
    messages = [*thinking, said("assistant", "<think>in</think>that")]
    (doc,) = documents(write(tmp_path, [{"messages": messages}]), tokenizer, form)
    contexts = [tokenizer.decode(ids) for ids in doc["contexts"]]
    assert ["of a" in context for context in contexts] == [False, False]
    for place, ids in zip((1, 3), doc["contexts"], strict=True):
        whole = tokenizer.apply_chat_template(messages[:place], add_generation_prompt=True, return_dict=False)
        assert ids == whole
    assert "of a</think>to<|im_end|>" in tokenizer.decode(doc["answers"][0])
    assert score_answer(doc, ["<think>not it</think>\n that"])["exact_match"] == 1
    assert score_answer(doc, ["<think>that"])["exact_match"] == 0


def test_tools_and_calls_go_through_the_template(chatty, tmp_path):
    tokenizer, form = with_template(chatty, TOOLS)
    call = {"type": "function", "function": {"name": "at", "arguments": {"be": "on"}}}
    tools = [{"type": "function", "function": {"name": "at", "parameters": {"type": "object"}}}]
    rows = [{"messages": [said("user", "the"), said("assistant", "", tool_calls=[call])], "tools": tools}]
    (doc,) = documents(write(tmp_path, rows), tokenizer, form, "heldout_text")
    assert '"parameters"' in doc["prompt"]
    assert doc["target"].startswith("CALL {")
    assert not doc["target"].endswith("<|im_end|>")
    assert doc["references"] == [doc["target"]]
    plain, form = with_template(chatty, CHATML)
    with pytest.raises(UserError, match=r"conversation: the template leaves out .* in 1 row: 0"):
        heldout_groups(tmp_path / "unseen.jsonl", plain, form=form)


def test_plain_rows_are_a_users_turns_for_a_model_of_turns(chatty, tmp_path):
    tokenizer, form = with_template(chatty, CHATML)
    rows = [
        {"inputs": "the of", "targets": "yes", "task_name": "t", "options": ["no", "yes"]},
        {"inputs": "a to", "targets": "in", "task_name": "t", "options": None},
    ]
    file = write(tmp_path, rows)
    first, second = documents(file, tokenizer, form)
    asked = [said("user", "the of")]
    assert first["contexts"] == [
        tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
    ]
    (answer,) = first["answers"]
    assert answer[-1:] == list(form.end_ids)
    assert first["choices"][1] == answer[:-1], "options are compared without an end"
    assert second["choices"] == []
    result = scores_of(chatty, file, tmp_path, format="chat")
    assert set(result["parts"]) == {"heldout_text", "heldout_loss", "heldout_options"}
    assert [row["turn"] for row in result["turns"]["heldout_loss_t"]] == [1]


def test_conversations_need_a_format(chatty, tmp_path):
    with pytest.raises(UserError, match=r"holds conversations.*format=chat"):
        scores_of(chatty, write(tmp_path, TURNS), tmp_path)


def test_files_in_other_shapes_are_read(tmp_path):
    sharegpt = [{"conversations": [{"from": "human", "value": "the"}, {"from": "gpt", "value": "of"}]}]
    table = read_heldout(write(tmp_path, sharegpt, "talks.jsonl"), "suite.collection")
    assert (table["task_name"].to_pylist(), table.column_names) == (["talks"], ["conversation", "task_name"])
    alpaca = [{"instruction": "the", "input": "of", "output": "a", "category": "c"}]
    (row,) = read_heldout(write(tmp_path, alpaca, "alpaca.jsonl"), "suite.collection").to_pylist()
    assert (row["inputs"], row["targets"], row["task_name"]) == ("the\n\nof", "a", "c")
    (row, *_) = read_heldout(write(tmp_path, TURNS), "suite.collection").to_pylist()
    assert row["task_name"] == "one"
    odd = [{**alpaca[0], "source": ["x"]}]
    (row,) = read_heldout(write(tmp_path, odd, "odd.jsonl"), "suite.collection").to_pylist()
    assert row["task_name"] == "c", "a column that is no text names no tasks"
    assert heldout_texts(tmp_path / "talks.jsonl") == {"heldout/talks": ["the"]}
    with pytest.raises(UserError, match=r"messages: no turn of the assistant in 1 row"):
        read_heldout(write(tmp_path, [{"messages": [said("user", "x")]}]), "suite.collection")
