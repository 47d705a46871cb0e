"""Rows of any data set, their tokens, and what is lost on the way."""

from __future__ import annotations

import csv
import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smart.config import ConfigError, UserError
from smart.conversation import from_json
from smart.model import ModelOptions, TuningOptions
from smart.runtime.manifest import write_manifest
from smart.training.config import TrainConfig
from smart.training.data import read_mixture
from smart.training.dry_run import describe_plan
from smart.training.job import World, prepare
from smart.training.memory import Shape
from smart.training.tokens import TokenStore, count_losses, sample_text
from tests.training.conftest import make_table


def test_a_mixture_folder_is_known_by_its_manifest(mixture):
    read = read_mixture(str(mixture))
    assert (read.name, read.key, len(read.train), len(read.validation)) == ("animals", "a" * 32, 120, 24)
    assert read.manifest["config"] == {"budget": 120}


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_any_file_with_prompt_and_response_will_do(tmp_path, kind):
    table = make_table(10, seed=0).select(["prompt", "response"])
    file = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        pq.write_table(table, file)
    elif kind == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    else:
        import pyarrow.csv

        pyarrow.csv.write_csv(table, file)
    read = read_mixture(str(file))
    assert read.train["prompt"].to_pylist() == table["prompt"].to_pylist()
    assert set(read.train["task_name"].to_pylist()) == {"all"}
    assert len(read.validation) == 0
    before = read.key
    pq.write_table(table.slice(1), tmp_path / "rows.parquet")
    assert read_mixture(str(tmp_path / "rows.parquet")).key != before


def test_wrong_data_sets_say_what_is_wrong(tmp_path):
    pq.write_table(pa.table({"question": ["a"], "response": ["b"]}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match=r"no column inputs or prompt, nor .*; it has: question, response"):
        read_mixture(str(tmp_path / "x.parquet"))
    pq.write_table(pa.table({"prompt": ["a", None], "response": ["b", "c"]}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match=r"prompt: null in 1 row: 1"):
        read_mixture(str(tmp_path / "x.parquet"))
    with pytest.raises(UserError, match="no such folder or file"):
        read_mixture("nobody/nothing")


def test_a_mixture_that_is_not_what_its_manifest_says_is_refused(tmp_path):
    pq.write_table(make_table(10, seed=0), tmp_path / "train.parquet")
    write_manifest(tmp_path, {"kind": "mixture", "key": "c" * 32})
    pq.write_table(make_table(5, seed=0), tmp_path / "validation.parquet")
    read = read_mixture(str(tmp_path))
    assert (len(read.train), len(read.validation)) == (10, 0), "what the manifest does not name is not read"
    pq.write_table(make_table(9, seed=0), tmp_path / "train.parquet")
    with pytest.raises(
        UserError, match=r"train.parquet: has changed since.* mixture again with overwrite=true"
    ):
        read_mixture(str(tmp_path))
    (tmp_path / "train.parquet").unlink()
    with pytest.raises(UserError, match=r"train\.parquet: is missing"):
        read_mixture(str(tmp_path))


def test_a_cloned_data_set_of_the_hub_will_do(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text("a card")
    pq.write_table(make_table(6, seed=0), tmp_path / "data" / "train-00000-of-00002.parquet")
    pq.write_table(make_table(5, seed=1), tmp_path / "data" / "train-00001-of-00002.parquet")
    pq.write_table(make_table(3, seed=2), tmp_path / "data" / "validation-00000-of-00001.parquet")
    read = read_mixture(str(tmp_path))
    assert (len(read.train), len(read.validation)) == (11, 3)


def test_published_mixtures_are_found_by_name(monkeypatch):
    asked = []

    def load(name, config=None, revision=None):
        asked.append(name)
        raise OSError("offline")

    monkeypatch.setattr("datasets.load_dataset", load)
    with pytest.raises(UserError):
        read_mixture("flan2022-4096-16-tasks-gc-25000-instances-fl")
    assert asked == ["kowndinya23/flan2022-4096-16-tasks-gc-25000-instances-fl"]


def test_losses_are_counted_by_task_and_no_row_is_without_supervision(runner):
    job = runner.job(max_length=24)
    store = job.train_tokens()
    assert 0 < len(store) <= 120
    assert (store.lengths > store.supervised).all()
    assert (store.supervised >= 1).all()
    assert (store.turns == 1).all()
    assert store.lengths.max() <= 24
    counts = count_losses(job.mixture.train, store)
    assert sum(task["cut"] for task in counts.values()) == (store.cut > 0).sum() > 0
    assert sum(task["dropped"] for task in counts.values()) == 120 - len(store)
    dropped = runner.job(max_length=24, overlength="drop").train_tokens()
    assert len(dropped) == 120 - (store.cut > 0).sum() - (120 - len(store))
    with pytest.raises(UserError, match="none of its 120 rows fits"):
        runner.job(max_length=3, separator=" so, as everybody knows, ").train_tokens()


def test_tokens_are_the_same_from_disk(runner, tmp_path):
    store = runner.job().train_tokens()
    store.save(tmp_path / "tokens")
    read = TokenStore.load(tmp_path / "tokens")
    for name, array in vars(store).items():
        np.testing.assert_array_equal(array, getattr(read, name))


def test_the_sample_shows_mask_and_row(runner):
    job = runner.job()
    text = sample_text(job.tokenizer, job.train_tokens(), 3)
    row = job.mixture.train.slice(3, 1).to_pylist()[0]
    assert text.startswith("Row 3, ")
    assert f"⟦ {row['response']}</s>⟧" in text.replace("⟦<", "⟦ <") or f"⟦{row['response']}</s>⟧" in text


def test_plan_counts_what_peft_counts(runner):
    from smart.model.adapters import add_adapters
    from smart.model.base import weights_source
    from smart.model.load import load_model

    for model in ("tiny_llama", "tiny_falcon", "tiny_mistral"):
        job = runner.job(model=model)
        shape, tuning = Shape.of(job.base), job.config.tuning
        loaded = load_model(job.base, weights_source(job.base, runner.models), dtype="float32")
        adapted = add_adapters(job.base, loaded, job.config.tuning, seed=0)
        trainable, total = adapted.get_nb_trainable_parameters()
        learning = shape.learning(tuning)
        assert (learning, shape.parameters + learning) == (trainable, total)
        assert f"{trainable:,} trainable of {total:,}" in describe_plan(job)
    text = describe_plan(job)
    for word in (
        "rows",
        "tokens",
        "dropped",
        "steps",
        "trainable",
        "weights",
        "adapters",
        "optimiser",
        "peak memory",
    ):
        assert word in text


def prepare_with(mixture, *, world=None, model=None, tuning=None, **options):
    config = TrainConfig(
        mixture=str(mixture),
        model=model or ModelOptions("tiny_llama"),
        tuning=tuning or TuningOptions(),
        **options,
    )
    return prepare(config, world or World())


def test_all_wrong_values_come_together(mixture):
    with pytest.raises(ConfigError) as caught:
        prepare_with(
            mixture,
            batch_size=0,
            overlength="cut",
            epochs=0,
            tuning=TuningOptions(lora_r=0),
        )
    for part in (
        "batch_size=0: must be a whole number, at least 1",
        "overlength=cut",
        "epochs=0",
        "tuning.lora_r=0",
    ):
        assert part in str(caught.value)


def test_values_of_the_wrong_type_come_together(mixture):
    with pytest.raises(ConfigError) as caught:
        prepare_with(
            mixture,
            batch_size="abc",
            max_steps=1.5,
            merge="maybe",
            learning_rate=True,
            model=ModelOptions("tiny_llama", revision=1234567),
            tuning=TuningOptions(lora_dropout=None),
        )
    for part in (
        "batch_size=abc: must be a whole number",
        "max_steps=1.5: must be a whole number, at least 1, or null",
        "merge=maybe: must be true or false",
        "learning_rate=true: must be a number, above 0",
        "model.revision=1234567: must be text (put it in quotes)",
        "tuning.lora_dropout=null: must be a number",
    ):
        assert part in str(caught.value)
    assert str(caught.value).startswith("6 values")


def test_unknown_optimizers_and_schedules_name_the_nearest(mixture):
    with pytest.raises(ConfigError) as caught:
        prepare_with(mixture, seed=-1, tuning=TuningOptions(optimizer="adamw_torhc", schedule="cosin"))
    assert "tuning.optimizer=adamw_torhc: no such optimizer. Did you mean adamw_torch?" in str(caught.value)
    assert "tuning.schedule=cosin: no such schedule. Did you mean cosine?" in str(caught.value)
    assert "seed=-1" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "model", "tuning", "world", "said"),
    [
        ({"max_length": 4096}, ModelOptions("tiny_falcon"), {}, World(), "was trained on 2,048 tokens"),
        ({"packing": True}, None, {"dtype": "float32"}, World(gpu=True), "kernels for bfloat16 alone"),
        (
            {},
            ModelOptions("tiny_llama", attention="flash_attention"),
            {},
            World(),
            "Did you mean flash_attention_3",
        ),
        ({}, None, {"kernels": "liger"}, World(), "needs a GPU and the package liger-kernel"),
        ({"merge": True}, None, {"method": "full"}, World(), "no adapters to merge"),
        ({}, ModelOptions("tiny_llama", attention="flash_attention_2"), {}, World(), "needs a GPU"),
        ({}, None, {"optimizer": "adamw_8bit"}, World(2, gpu=True, sharded=True), "cannot be sharded"),
        ({}, None, {"optimizer": "paged_adamw_8bit"}, World(), "there is no GPU"),
        ({"batch_size": 64, "micro_batch_size": 8}, None, {}, World(3), "cannot be made of micro-batches"),
        ({"batch_size": 10, "micro_batch_size": 4}, None, {}, World(), "micro_batch_size can be 1, 2, 5, 10"),
    ],
)
def test_combinations_that_cannot_work_are_refused_before_loading(
    mixture, monkeypatch, options, model, tuning, world, said
):
    monkeypatch.setattr(
        "smart.training.job.read_mixture", lambda source: pytest.fail("read the mixture first")
    )
    with pytest.raises(ConfigError, match=said):
        prepare_with(mixture, model=model, tuning=TuningOptions(**tuning), world=world, **options)


GUESSED = ["True", "false", "007", "0.50", "12:30", "1969-07-20", "null", "NaN", "1e5", "a\r\nb", "é 😀"]


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.parquet", "rows.json", "ROWS.JSONL.GZ"])
def test_no_text_is_taken_for_a_number_a_date_or_a_boolean(tmp_path, name):
    rows = [{"prompt": text, "response": text} for text in GUESSED]
    file = tmp_path / name
    if name.endswith("csv"):
        with file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, ["prompt", "response"])
            writer.writeheader()
            writer.writerows(rows)
    elif name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(rows), file)
    else:
        text = json.dumps(rows) if name.endswith("json") else "\n".join(map(json.dumps, rows))
        file.write_bytes(gzip.compress(text.encode()) if name.endswith("GZ") else text.encode())
    read = read_mixture(str(file))
    assert read.train.select(["prompt", "response"]).to_pylist() == rows


def test_rows_that_cannot_be_used_are_named_or_dropped_and_said(tmp_path, caplog):
    lines = [
        '{"prompt": "q", "response": "a"}',
        '{"prompt": 5, "response": "a"}',
        "null",
        '{"prompt": "q", "response": null}',
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join([*lines, '{"prompt": "\\ud83d", "response": "a"}']))
    with pytest.raises(UserError) as caught:
        read_mixture(str(file))
    for fault in (
        "line: not a JSON object in 1 row: 2",
        "prompt: number instead of text in 1 row: 1 (5)",
        "prompt: half a character (a lone surrogate) in 1 row: 4",
        "response: null in 1 row: 3",
    ):
        assert f"{file}: {fault}" in str(caught.value)
    assert len(read_mixture(str(file), "drop").train) == 1
    assert caplog.text.count("Left out 1 of 5 rows") == 4


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *(
            (f"{word}.jsonl", "validation")
            for word in ("val", "valid", "validation", "dev", "EVAL", "heldout", "held_out")
        ),
        *(
            (f"{name}.jsonl", "validation")
            for name in ("dolly-val", "val_1", "validation-00000-of-00001", "validation_matched")
        ),
        *(
            (f"{name}.jsonl", "train")
            for name in ("train", "training_2", "train_sft-00000-of-00002", "dolly", "devices", "a-b")
        ),
        *((f"{name}.jsonl", "test") for name in ("test", "TEST-00000-of-00001", "testing")),
        *((f"{name}.jsonl", None) for name in ("test_taking", "train_val", "eval-test")),
    ],
)
def test_names_in_a_folder_say_what_files_are_for(tmp_path, name, split, caplog):
    caplog.set_level("INFO")
    row = '{{"prompt": "{0}", "response": "{0}"}}\n'
    (tmp_path / "other.jsonl").write_text(row.format("other"))
    (tmp_path / name).write_text(row.format("this"))
    (tmp_path / "dataset_info.json").write_text("{}")
    if split is None:
        with pytest.raises(UserError, match=f"is {name} for training, for validation, or for tests"):
            read_mixture(str(tmp_path))
        return
    read = read_mixture(str(tmp_path))
    assert ("this" in read.train["prompt"].to_pylist()) == (split == "train")
    assert ("this" in read.validation["prompt"].to_pylist()) == (split == "validation")
    assert name in caplog.text
    assert (
        "training: other.jsonl" in caplog.text
        or "other.jsonl, " in caplog.text
        or ", other.jsonl" in caplog.text
    )
    (tmp_path / name).rename(tmp_path / "zz.jsonl")
    assert (read_mixture(str(tmp_path)).key == read.key) == (split == "train" and name > "other.jsonl")


USER, ASSISTANT = {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "json"])
def test_rows_with_turns_are_conversations_and_so_is_all_beside_them(tmp_path, kind):
    rows = [{"messages": [USER, ASSISTANT] * turns, "task_name": f"t{turns}"} for turns in (1, 2)]
    file = tmp_path / f"train.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    else:
        file.write_text(json.dumps(rows) if kind == "json" else "\n".join(map(json.dumps, rows)))
    alone = read_mixture(str(file))
    assert [from_json(text)["messages"] for text in alone.train["conversation"].to_pylist()] == [
        row["messages"] for row in rows
    ]
    assert (
        alone.train.column_names
        == alone.validation.column_names
        == ["conversation", "submixture", "task_name"]
    )
    assert alone.train["task_name"].to_pylist() == ["t1", "t2"]
    (tmp_path / "val.jsonl").write_text('{"instruction": "q", "input": "i", "output": "a"}\n')
    both = read_mixture(str(tmp_path))
    assert both.key != alone.key
    assert [from_json(text)["messages"] for text in both.validation["conversation"].to_pylist()] == [
        [{"role": "user", "content": "q\n\ni"}, {"role": "assistant", "content": "a"}]
    ]


def test_conversations_that_cannot_be_used_are_named_or_dropped(tmp_path, caplog):
    caplog.set_level("INFO")
    file = tmp_path / "rows.jsonl"
    rows = [[USER, ASSISTANT, USER], [USER], [{"role": "narrator", "content": "x"}]]
    file.write_text("\n".join(json.dumps({"messages": row}) for row in rows))
    with pytest.raises(UserError) as caught:
        read_mixture(str(file))
    assert f"{file}: messages: no turn of the assistant in 1 row: 1" in str(caught.value)
    assert f"{file}: messages: unknown role 'narrator' in 1 row: 2" in str(caught.value)
    assert len(read_mixture(str(file), "drop").train) == 1
    assert "cut behind the last answer in 1 conversation." in caplog.text


def test_folders_without_rows_to_train_on(tmp_path):
    (tmp_path / "val.jsonl").write_text('{"prompt": "q", "response": "a"}\n')
    with pytest.raises(UserError, match=r"has no file to train on, only val\.jsonl"):
        read_mixture(str(tmp_path))
    (tmp_path / "a.jsonl").write_text("")
    with pytest.raises(UserError, match="holds no rows to train on"):
        read_mixture(str(tmp_path))
    (tmp_path / "b.jsonl").write_text('{"prompt": "q", "response": "a"}\n')
    assert len(read_mixture(str(tmp_path)).train) == 1
