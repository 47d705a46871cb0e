from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from smart.mixture import TaskBudgets, Uniform, distribute, render_summary, write_mixture
from smart.mixture import write as write_module
from smart.mixture.budgets import read_tasks, write_tasks
from smart.mixture.card import render_card
from smart.reading import RowView
from smart.runtime.files import hash_file
from smart.runtime.manifest import read_manifest
from smart.templates import TEMPLATES

from .examples import Pool, make_pool

MANIFEST = {
    "kind": "mixture",
    "key": "0" * 32,
    "config": {"budget": "150", "fn": "graphcut"},
    "counts": {"train": 150},
    "drops": {"empty prompt": 3},
    "warnings": ["group sub0/task, 1/zs_opt has 2 distinct vectors in 9 rows"],
}


@pytest.fixture
def pool() -> Pool:
    return make_pool()


def write(folder: Path, pool: Pool, **options: Any) -> Path:
    write_mixture(
        folder, RowView.of(pool.chosen()), RowView.of(pool.rows.slice(0, 20)), pool.tasks, MANIFEST, **options
    )
    return folder


def test_train_rows_are_the_chosen_ones_shuffled(tmp_path: Path, pool: Pool) -> None:
    train = pq.read_table(write(tmp_path / "m", pool) / "train.parquet").to_pylist()
    chosen = {row["row"]: row for row in pool.chosen().to_pylist()}
    assert len(train) == len(chosen) == 150
    assert [row["row"] for row in train] != sorted(chosen)
    for row in train:
        source = chosen[row["row"]]
        assert row == {
            "prompt": source["inputs"],
            "response": source["targets"],
            **{name: source[name] for name in ("submixture", "task_name", "template_type", "row")},
            "completion": " " + source["targets"],
        }


def test_tasks_csv_has_every_task_and_exact_numbers(tmp_path: Path, pool: Pool) -> None:
    with (write(tmp_path / "m", pool) / "tasks.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    expected = ["submixture", "task_name", "order", "gain", "weight", "size", "budget", *TEMPLATES]
    assert list(lines[0]) == expected
    assert {(line["submixture"], line["task_name"]) for line in lines} == set(pool.tasks.tasks)
    assert [line["order"] for line in lines] == [*map(str, range(9)), "", "", ""]
    for line in lines:
        task = pool.tasks.tasks.index((line["submixture"], line["task_name"]))
        assert [int(line[name]) for name in TEMPLATES] == pool.tasks.budgets[task].tolist()
        assert int(line["budget"]) == pool.tasks.budgets[task].sum()
        assert int(line["size"]) == pool.tasks.sizes[task].sum()
        assert float(line["weight"]) == pool.tasks.weights[task]
        assert float(line["gain"] or "nan") == pytest.approx(pool.tasks.gains[task], rel=0, nan_ok=True)
    assert sum(int(line["budget"]) for line in lines) == 150


def test_the_same_rows_and_seed_give_the_same_bytes(tmp_path: Path, pool: Pool) -> None:
    first = write(tmp_path / "a", pool)
    chosen = pool.chosen()
    mixed = chosen.take(np.random.default_rng(5).permutation(chosen.num_rows))
    second = tmp_path / "b"
    write_mixture(second, RowView.of(mixed), RowView.of(pool.rows.slice(0, 20)), pool.tasks, MANIFEST)
    for name in ("train.parquet", "validation.parquet", "tasks.csv"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    other = write(tmp_path / "c", pool, seed=24)
    assert (first / "train.parquet").read_bytes() != (other / "train.parquet").read_bytes()
    assert (first / "validation.parquet").read_bytes() == (other / "validation.parquet").read_bytes()


def test_row_groups_do_not_show(tmp_path: Path, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pq.read_table(write(tmp_path / "a", pool) / "train.parquet")
    monkeypatch.setattr(write_module, "ROW_GROUP", 7)
    parts = pq.ParquetFile(write(tmp_path / "b", pool) / "train.parquet")
    assert parts.num_row_groups == 22
    assert parts.read().equals(whole)


def test_the_manifest_names_every_file(tmp_path: Path, pool: Pool) -> None:
    folder = write(tmp_path / "m", pool, task_embeddings=np.random.default_rng(0).normal(size=(12, 5)))
    manifest = read_manifest(folder)
    assert manifest is not None
    assert {key: manifest[key] for key in MANIFEST} == MANIFEST
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(manifest["files"]) == found - {"manifest.json"}
    assert {"figures/budgets.png", "figures/gains.png", "figures/tasks.png"} < found
    for name, digest in manifest["files"].items():
        assert hash_file(folder / name) == digest


def test_load_dataset_finds_both_splits(tmp_path: Path, pool: Pool) -> None:
    from datasets import load_dataset

    data = load_dataset(str(write(tmp_path / "m", pool)), cache_dir=str(tmp_path / "cache"))
    assert {split: rows.num_rows for split, rows in data.items()} == {"train": 150, "validation": 20}
    assert data["train"].features["prompt"].dtype == "string"
    assert data["validation"]["row"][:] == pool.rows["row"][:20].to_pylist()


def test_a_collection_without_validation(tmp_path: Path, pool: Pool) -> None:
    from datasets import load_dataset

    for number, validation in enumerate([None, pool.rows.slice(0, 0)]):
        folder = tmp_path / str(number)
        write_mixture(folder, RowView.of(pool.chosen()), validation, pool.tasks, MANIFEST)
        assert not (folder / "validation.parquet").exists()
        assert list(load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))) == ["train"]


def test_the_card_shows_what_a_reader_must_know(tmp_path: Path, pool: Pool) -> None:
    card = (write(tmp_path / "stem-1234", pool) / "README.md").read_text()
    assert card.startswith("---\nconfigs:\n")
    for text in (
        "# stem-1234",
        "150 training rows",
        "9 of 12 tasks",
        "- n<1K",
        MANIFEST["warnings"][0],
        '"fn": "graphcut"',
        '"empty prompt": 3',
        "## Licence",
        "![budgets.png](figures/budgets.png)",
    ):
        assert text in card


def test_an_error_leaves_what_was_there(tmp_path: Path, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "m", pool)
    before = (folder / "manifest.json").read_bytes()
    monkeypatch.setattr(write_module, "draw_figures", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write(folder, pool, seed=1)
    assert (folder / "manifest.json").read_bytes() == before
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path / "new", pool)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_rows_that_are_not_the_budgets_are_refused(tmp_path: Path, pool: Pool) -> None:
    with pytest.raises(ValueError, match="149 rows chosen for budgets of 150"):
        write_mixture(tmp_path / "m", RowView.of(pool.chosen().slice(1)), None, pool.tasks, MANIFEST)
    assert list(tmp_path.iterdir()) == []


def test_random_tasks_have_no_gains(tmp_path: Path, pool: Pool) -> None:
    table = distribute(pool.tasks.tasks, pool.tasks.sizes, pool.tasks.selected, None, Uniform(), 150)
    write_mixture(tmp_path / "m", RowView.of(replace(pool, tasks=table).chosen()), None, table, MANIFEST)
    assert not (tmp_path / "m" / "figures" / "gains.png").exists()
    lines = (tmp_path / "m" / "tasks.csv").read_text().splitlines()
    assert {line.split('"')[2].split(",")[2] for line in lines[1:]} == {""}


@pytest.mark.parametrize(("tasks", "selected", "budget"), [(1, 1, 3), (12, 9, 150), (600, 400, 5000)])
def test_the_summary_is_short_and_adds_up(tasks: int, selected: int, budget: int) -> None:
    table = make_pool(tasks, selected, budget).tasks
    many = TaskBudgets(
        tuple((f"{number % 50:03}-{'long' * 30}", name) for number, (_, name) in enumerate(table.tasks)),
        table.sizes, table.order, table.gains, table.weights, table.budgets,
    )  # fmt: skip
    for shown in (table, many):
        lines = render_summary(shown).splitlines()
        assert len(lines) <= 25
        assert max(map(len, lines)) <= 110
        assert lines[0].startswith(f"{budget:,} of {table.sizes.sum():,} rows; {selected} of {tasks} task")
        by_template = [int(word.replace(",", "")) for word in lines[1].split()[1::2]]
        assert by_template == table.budgets.sum(axis=0).tolist()


@pytest.mark.full
def test_trl_trains_on_the_folder_as_it_is(tmp_path: Path, pool: Pool) -> None:
    from datasets import load_dataset
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    data = load_dataset(str(write(tmp_path / "m", pool)), cache_dir=str(tmp_path / "cache"))
    words = Tokenizer(models.BPE(unk_token="<unk>"))
    words.pre_tokenizer, words.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    special = trainers.BpeTrainer(special_tokens=["<unk>", "</s>"], vocab_size=300)
    words.train_from_iterator(data["train"]["prompt"], special)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", pad_token="</s>")
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    trainer = SFTTrainer(
        LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape)),
        SFTConfig(str(tmp_path / "trl"), max_steps=2, report_to="none", use_cpu=True, bf16=False),
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        processing_class=tokenizer,
    )
    row, prepared = data["train"][0], trainer.train_dataset[0]
    supervised = [token for token in prepared["labels"] if token != -100]
    assert tokenizer.decode(prepared["input_ids"]) == row["prompt"] + " " + row["response"] + "</s>"
    assert tokenizer.decode(supervised) == " " + row["response"] + "</s>"
    assert trainer.train().global_step == 2


def test_names_of_strangers_are_text_to_a_spreadsheet_and_to_markdown(tmp_path: Path, pool: Pool) -> None:
    names = [("=cmd|' /C calc'!A0", "@SUM(1)"), ("'=a", "-x\r\ny"), ("<b>|`c`", "\t+1")]
    tasks = replace(pool.tasks, tasks=(*names, *pool.tasks.tasks[len(names) :]))
    write_tasks(tmp_path / "tasks.csv", tasks)
    read = [(task["submixture"], task["task_name"]) for task in read_tasks(tmp_path / "tasks.csv")]
    assert sorted(read) == sorted(tasks.tasks)
    with (tmp_path / "tasks.csv").open(encoding="utf-8", newline="") as file:
        cells = {cell for line in csv.reader(file) for cell in line[:2]}
    assert not [cell for cell in cells if cell[:1] in "=+-@\t\r"]
    card = render_card("a|b", tasks, 0, {}, ())
    assert "<b>" not in card
    assert r"&lt;b&gt;\|\`c\`" in card
    assert "\x1b" not in render_summary(replace(tasks, tasks=(("\x1b[2J", "a"), *tasks.tasks[1:])))
