"""Training on conversations: the loss on every supervised token and no other, and one format to the end."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from smart.config import UserError
from smart.conversation import to_json
from smart.model import ChatOptions
from smart.model.chat import MANIFEST_FIELD, ChatFormat
from smart.model.load import load_model
from smart.training.dry_run import describe_plan
from smart.training.fit import fit
from smart.training.job import cached_tokens
from smart.training.loss import Collator, SupervisedHead
from smart.training.tokens import count_losses, sample_text, tokenize
from tests.chat_templates import SMOLLM2, chat_tokenizer, write_chat_model
from tests.training.conftest import ANIMALS

PLAIN = {"lora_dropout": 0.0, "method": "lora"}


def talk(number: int, turns: int, **more: Any) -> dict[str, Any]:
    rng = random.Random(number)
    messages = []
    for _ in range(turns):
        animal = rng.choice(sorted(ANIMALS))
        messages += [
            {"role": "user", "content": f"What does the {animal} say?" + " Please." * rng.randrange(4)},
            {"role": "assistant", "content": ANIMALS[animal]},
        ]
    return {"messages": messages, **more}


CONVERSATIONS = [talk(number, 1 + number % 3) for number in range(24)]


def table(conversations: list[Any]) -> pa.Table:
    count = len(conversations)
    columns = {"submixture": ["chat"] * count, "task_name": ["animals"] * count}
    return pa.table({"conversation": [to_json(one) for one in conversations], **columns})


@pytest.fixture(scope="module")
def talks(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("talks") / "talks.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in CONVERSATIONS))
    return file


@pytest.fixture(scope="module")
def chat_models(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {name: str(write_chat_model(folder / name, name)) for name in ("smollm2", "qwen3", "llama3")}


@pytest.fixture
def chat_runner(runner, talks, chat_models):
    """Trains on the talks; `model` is one of `chat_models`."""
    runner.mixture, runner.model = talks, chat_models["smollm2"]
    return runner


def loss_of_a_plain_loop(model: Any, tokenizer: Any, conversations: list[Any]) -> tuple[float, int]:
    """Sum of the loss, and the number of supervised tokens, turn by turn from transformers' own rendering."""
    template, total, count = ChatFormat.of(tokenizer).template, 0.0, 0
    for conversation in conversations:
        messages = conversation["messages"]
        for place in range(1, len(messages), 2):
            context = tokenizer.apply_chat_template(
                messages[:place], chat_template=template, add_generation_prompt=True
            )["input_ids"]
            text = tokenizer.apply_chat_template(
                messages[: place + 1], chat_template=template, tokenize=False
            )
            whole = tokenizer(text.rstrip("\n"), add_special_tokens=False)["input_ids"]
            assert whole[: len(context)] == context
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([whole])).logits[0]
            for position in range(len(context), len(whole)):
                total -= float(torch.log_softmax(logits[position - 1].double(), -1)[whole[position]])
                count += 1
    return total, count


@pytest.mark.parametrize("name", ["smollm2", "qwen3", "llama3"])
@pytest.mark.parametrize("packing", [False, True])
def test_the_first_loss_is_that_of_a_plain_loop(chat_runner, chat_models, tmp_path, name, packing):
    chat_runner.model = chat_models[name]
    options = {"tuning": PLAIN, "max_steps": 1, "packing": packing}
    job = chat_runner.job(**options)
    trained = fit(job, tmp_path / "out")
    store = job.train_tokens()
    learnt = [CONVERSATIONS[source] for source in store.source[job.order(store).stream]]
    model = load_model(job.base, chat_models[name], dtype="float32")
    if name == "qwen3":  # a row for each answer: the step holds some answers of a conversation alone
        assert store.split == 16
        assert len(store) == sum(len(one["messages"]) // 2 for one in CONVERSATIONS)
        total, count = loss_of_a_plain_loop(model, job.tokenizer, CONVERSATIONS)
        batch = Collator(job.tokenizer.pad_token_id, packing)([store[row] for row in range(len(store))])
        with torch.no_grad():
            found = float(SupervisedHead(model).loss(model, batch)) / store.supervised.sum()
        assert (found, store.supervised.sum()) == (pytest.approx(total / count, rel=1e-5), count)
    else:
        total, count = loss_of_a_plain_loop(model, job.tokenizer, learnt)
        assert trained.manifest["losses"]["first"] == pytest.approx(total / count, rel=1e-5)
        assert trained.manifest["counts"]["supervised_tokens"] == count
        assert trained.manifest["counts"]["turns"] == sum(len(one["messages"]) // 2 for one in learnt)


def test_the_format_goes_with_the_adapter(chat_runner, tmp_path, caplog):
    from transformers import AutoTokenizer, GenerationConfig

    caplog.set_level("INFO")
    output = tmp_path / "out"
    job = chat_runner.job(tuning=PLAIN, max_steps=1, merge=True, chat=ChatOptions(system="Be terse."))
    manifest = fit(job, output).manifest
    assert "format=auto: chat, since the rows have turns." in caplog.text
    assert "⟦" in caplog.text
    tokenizer = AutoTokenizer.from_pretrained(output)
    form = ChatFormat.of_manifest(
        json.loads((output / "manifest.json").read_text())[MANIFEST_FIELD], tokenizer
    )
    assert (form, form.system, form.end_of_turn) == (job.form, "Be terse.", "<|im_end|>")
    assert manifest["config"]["format"] == form.to_manifest()
    assert "separator" not in manifest["config"]
    for folder in (output, output / "merged"):
        assert GenerationConfig.from_pretrained(folder).eos_token_id == list(form.end_ids)
    assert "system text `'Be terse.'`" in (output / "README.md").read_text()


def test_generation_stops_at_an_end_of_turn_that_is_no_end_of_sequence(chat_runner, chat_models, tmp_path):
    from transformers import GenerationConfig

    folder = tmp_path / "base"
    shutil.copytree(chat_models["llama3"], folder)
    GenerationConfig(eos_token_id=[3, 4]).save_pretrained(folder)
    chat_runner.model = str(folder)
    for method in ("lora", "full"):
        job = chat_runner.job(tuning={**PLAIN, "method": method}, max_steps=1)
        fit(job, tmp_path / method)
        ends = [job.tokenizer.convert_tokens_to_ids(token) for token in ("<|eot_id|>", "<|end_of_text|>")]
        assert GenerationConfig.from_pretrained(tmp_path / method).eos_token_id == [*ends, 3, 4]


def test_keys_say_the_format(chat_runner, runner, mixture, chat_models):
    def key(**options: Any) -> str:
        return chat_runner.job(**options).key

    assert key() == key(format="chat") == key(separator="\n")
    assert (
        len(
            {
                key(),
                *(
                    key(chat=ChatOptions(**one))
                    for one in ({"system": "a"}, {"system": "b"}, {"thinking": False})
                ),
            }
        )
        == 4
    )
    chat_runner.model = chat_models["llama3"]
    assert "format" in chat_runner.job().deciding
    runner.mixture = mixture
    plain, chat = runner.job(), runner.job(format="chat")
    assert plain.key == runner.job(format="plain").key != chat.key
    assert "format" not in plain.deciding


def test_formats_that_cannot_be(chat_runner, runner, mixture):
    with pytest.raises(UserError, match=r"format=plain: talks has rows with turns.*format=auto"):
        chat_runner.job(format="plain")
    chat_runner.model = "tiny_llama"
    with pytest.raises(UserError, match="has no chat template"):
        chat_runner.job()
    runner.mixture = mixture
    with pytest.raises(UserError, match="add format=chat"):
        runner.job(chat=ChatOptions(system="x"))


def test_plain_rows_become_turns_where_chat_is_asked_for(chat_runner, mixture, caplog):
    caplog.set_level("INFO")
    chat_runner.mixture = mixture
    job = chat_runner.job(format="chat")
    assert "format=auto" not in caplog.text
    assert "format=auto: plain, since the rows have a prompt and a response." in (
        chat_runner.job() and caplog.text
    )
    store = job.train_tokens()
    row = job.mixture.train.slice(0, 1).to_pylist()[0]
    text = sample_text(job.tokenizer, store)
    assert text.endswith(
        f"<|im_start|>user\n{row['prompt']}<|im_end|>\n<|im_start|>assistant\n⟦{row['response']}<|im_end|>⟧"
    )
    assert len(store) == len(job.mixture.train)


def test_the_sample_shows_turns_and_mask():
    tokenizer = chat_tokenizer("smollm2")
    long = talk(1, 2)
    long["messages"][0]["content"] = "word " * 300 + "last"
    store, _ = tokenize(table([long]), tokenizer, 4096, form=ChatFormat.of(tokenizer))
    text = sample_text(tokenizer, store)
    first, second = (message["content"] for message in long["messages"][1::2])
    assert text.partition("\n")[2].count("⟦") == text.partition("\n")[2].count("⟧") == 2
    assert f"⟦{first}<|im_end|>⟧\n<|im_start|>user\n" in text
    assert text.endswith(f"⟦{second}<|im_end|>⟧")
    assert "… " in text
    assert f"{store.supervised.sum()} of them supervised" in text
    assert store.turns.tolist() == [2]


def test_what_a_template_cannot_carry_stops_the_run_or_is_left_out(chat_runner, tmp_path, caplog):
    tools = [{"type": "function", "function": {"name": "weather"}}]
    late = talk(3, 1)
    late["messages"][1]["reasoning_content"] = "hm"
    rows = [talk(1, 2), talk(2, 1, tools=tools), late, talk(4, 1, tools=tools)]
    chat_runner.mixture = tmp_path / "rows.jsonl"
    chat_runner.mixture.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError) as caught:
        chat_runner.job().train_tokens()
    assert "the template leaves out the tools in 2 rows: 1, 3" in str(caught.value)
    assert "reasoning_content, which chat.thinking=false does without in 1 row: 2" in str(caught.value)
    assert "bad_rows=drop" in str(caught.value)
    job = chat_runner.job(bad_rows="drop")
    store = job.train_tokens()
    assert "Left out 2 of 4 rows of rows: the template leaves out the tools." in caplog.text
    assert store.source.tolist() == [0]
    assert list(count_losses(job.mixture.train, store).values()) == [{"dropped": 3, "cut": 0}]
    assert chat_runner.job(
        bad_rows="drop", chat=ChatOptions(thinking=False)
    ).train_tokens().source.tolist() == [0, 2]


def test_conversations_that_are_too_long_are_counted(chat_models, chat_runner):
    lengths = chat_runner.job().train_tokens().lengths
    shortest = int(lengths.min())
    job = chat_runner.job(max_length=shortest + 10)
    store = job.train_tokens()
    assert store.lengths.max() <= shortest + 10
    (lost,) = count_losses(job.mixture.train, store).values()
    assert lost["cut"] == (store.cut > 0).sum() > 0
    assert lost["dropped"] == len(CONVERSATIONS) - len(store)
    plan = describe_plan(job)
    assert "chat, template" in plan
    assert f"{len(store)}, of {len(store)} conversations out of 24; {lost['dropped']} dropped" in plan
    assert f"{store.turns.sum()} supervised" in plan
    chat_runner.model = chat_models["qwen3"]
    job = chat_runner.job()
    assert (
        f"{len(job.train_tokens())}, of 24 conversations out of 24, 16 of them a row for each answer"
        in describe_plan(job)
    )


def test_no_row_is_without_supervision(chat_runner):
    shortest = int(chat_runner.job().train_tokens().lengths.min())
    for max_length in (shortest, shortest + 5, 2 * shortest):
        store = chat_runner.job(max_length=max_length).train_tokens()
        assert (store.supervised >= 2).all()
        assert store.mask[store.starts[1:] - 1].all(), "a row ends with a supervised end of turn"
        assert not store.mask[store.starts[:-1]].any()
    with pytest.raises(UserError, match="none of its 24 rows fits into max_length=20 tokens"):
        chat_runner.job(max_length=20).train_tokens()


def test_stored_tokens_of_another_layout_are_made_again(chat_runner, tmp_path, caplog):
    from smart.runtime.manifest import write_manifest

    job = chat_runner.job()
    folder = tmp_path / "tokens"
    folder.mkdir()
    np.save(folder / "borders.npy", np.zeros(3, np.int32))
    write_manifest(folder, {"kind": "tokens", "key": job.key})
    found, made = cached_tokens(job, folder), job.train_tokens()
    assert "made again" in caplog.text
    for name, array in vars(made).items():
        np.testing.assert_array_equal(getattr(found, name), array)
    assert sorted(file.stem for file in folder.glob("*.npy")) == sorted(vars(made))


def trl_rows(model: Any, tokenizer: Any, rows: list[Any], folder: Path, **options: Any) -> Any:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    arguments = SFTConfig(
        output_dir=str(folder), report_to="none", use_cpu=True, bf16=False, max_length=None, **options
    )
    return SFTTrainer(model, arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)


def supervised(row: Any) -> list[bool]:
    return [label != -100 for label in row["labels"]]


def test_what_trl_supervises_beside_the_same_tokens(chat_models, tmp_path):
    """TRL's SFTTrainer on the same rows, token by token.

    Given prompt and completion, it takes all that its rendering of the conversation has behind the prompt's for the
    completion: the answer, <|im_end|>, and the line feed that SmolLM2's template writes behind it. Ours ends with
    <|im_end|>, at which generation stops, so a model never has to write that line feed. All other ids and labels are
    equal, and so is the loss on them. Given messages, TRL supervises every token, or with assistant_only_loss what the
    template marks with {% generation %}: SmolLM2's has no marks, and TRL refuses it; with marks around the answer and
    its end, its rows are ours.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(chat_models["smollm2"])
    model = AutoModelForCausalLM.from_pretrained(chat_models["smollm2"]).eval()
    single = [one for one in CONVERSATIONS if len(one["messages"]) == 2]
    store, _ = tokenize(table(single), tokenizer, 4096, form=ChatFormat.of(tokenizer))
    pairs = [{"prompt": one["messages"][:1], "completion": one["messages"][1:]} for one in single]
    theirs = trl_rows(model, tokenizer, pairs, tmp_path / "pairs")
    line_feed = tokenizer("\n", add_special_tokens=False)["input_ids"]
    for row, found in enumerate(theirs.train_dataset):
        ids, mask = store[row]
        assert list(found["input_ids"]) == ids.tolist() + line_feed
        assert supervised(found) == [*mask.tolist(), True]
    head = SupervisedHead(model)
    feeds = [
        (np.append(ids, line_feed), np.append(mask & False, True))
        for ids, mask in map(store.__getitem__, range(len(store)))
    ]
    collate = Collator(tokenizer.pad_token_id)
    with torch.no_grad():
        ours = head.loss(model, collate([store[row] for row in range(len(store))]))
        behind = head.loss(model, collate(feeds))
        batch = theirs.data_collator([theirs.train_dataset[row] for row in range(len(store))])
        mean = float(theirs.compute_loss(model, dict(batch)))
    count = int(store.supervised.sum())
    assert mean == pytest.approx(float(ours + behind) / (count + len(store)), rel=1e-5)
    assert abs(mean - float(ours) / count) > 1e-4, "the line feeds tell"

    everything, _ = tokenize(table(CONVERSATIONS), tokenizer, 4096, form=ChatFormat.of(tokenizer))
    rows = [{"messages": one["messages"]} for one in CONVERSATIONS]
    with pytest.raises(ValueError, match="generation"):
        trl_rows(model, tokenizer, rows, tmp_path / "refused", assistant_only_loss=True)
    marked = "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}"
    marked = "{{ '<|im_start|>assistant\n' }}" + marked + "{{ '\n' }}"
    usual = "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    assert usual in SMOLLM2
    tokenizer.chat_template = SMOLLM2.replace(
        usual, f"{{% if m.role == 'assistant' %}}{marked}{{% else %}}{usual}{{% endif %}}"
    )
    theirs = trl_rows(model, tokenizer, rows, tmp_path / "marked", assistant_only_loss=True)
    assert ChatFormat.of(tokenizer).other_marks(tokenizer) is None
    for row, found in enumerate(theirs.train_dataset):
        ids, mask = everything[row]
        assert list(found["input_ids"]) == ids.tolist() + line_feed
        assert supervised(found) == [*mask.tolist(), False]
