"""Stock tasks on local data stay stock: what a model is asked equals another rendering of the installed YAML."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import jinja2
import lm_eval
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from smart.benchmarks.offline import benchmark_texts, build_cache, content_key, data_from
from smart.benchmarks.suites import load_suite, stock_texts
from smart.config import UserError
from tests.evaluation import examples

INSTALLED = Path(lm_eval.__file__).parent / "tasks"
BBH_KINDS = ("zeroshot", "fewshot", "cot_zeroshot", "cot_fewshot")


class Loader(yaml.SafeLoader):
    """Reads task files without importing the functions that they name."""


Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def installed(folder: str) -> dict[str, dict[str, Any]]:
    """Task → its YAML with what it includes."""
    found = {}
    for file in sorted((INSTALLED / folder).glob("*.yaml")):
        content = yaml.load(file.read_text(), Loader)
        if "include" in content:
            content = yaml.load((file.parent / content["include"]).read_text(), Loader) | content
        if isinstance(content.get("task"), str) and "group" not in content:
            found[content["task"]] = content
    return found


def render(template: str, row: dict[str, Any]) -> str:
    return jinja2.Environment(keep_trailing_newline=True).from_string(template).render(**row)


def expected(config: dict[str, Any], rows: list[dict], shots: list[dict]) -> list[tuple[str, list[str], str]]:
    """Prompt, choices and target of each row."""
    choices = config.get("doc_to_choice", [])
    delimiter = config.get("target_delimiter", " ")

    def target(row: dict) -> str:
        return choices[row["answer"]] if choices else row["target"]

    head = config["description"] + "".join(
        render(config["doc_to_text"], shot) + delimiter + target(shot) + "\n\n" for shot in shots
    )
    return [
        (head + render(config["doc_to_text"], row), [delimiter + choice for choice in choices], target(row))
        for row in rows
    ]


def asked(task: Any, limit: int | None) -> list[tuple[str, list[str], str]]:
    task.build_all_requests(limit=limit, rank=0, world_size=1)
    found: dict[int, tuple[str, list[str], str]] = {}
    for instance in task.instances:
        prompt, answer = instance.args
        target = task.doc_to_target(instance.doc)
        choices = task.doc_to_choice(instance.doc) if isinstance(answer, str) else []
        known = found.setdefault(instance.doc_id, (prompt, [], choices[target] if choices else target))
        assert known[0] == prompt
        if isinstance(answer, str):
            known[1].append(answer)
    return [found[doc] for doc in sorted(found)]


def check(folder: Path, cache: Path, limit: int | None) -> int:
    """Compare every task for which `folder` has rows; returns how many documents were compared."""
    mmlu = pq.read_table(folder / "mmlu.parquet").to_pylist()
    bbh = pq.read_table(folder / "bbh.parquet").to_pylist()
    compared = 0
    with data_from(build_cache(folder, cache)):
        subjects, tasks = {row["subject"] for row in mmlu}, {row["task"] for row in bbh}
        for shots in (0, 5):
            configs = {k: v for k, v in installed("mmlu/default").items() if v["dataset_name"] in subjects}
            loaded = load_suite(list(configs), shots).loaded["tasks"]
            for name, config in configs.items():
                mine = [row for row in mmlu if row["subject"] == config["dataset_name"]]
                test = [row for row in mine if row["split"] == "test"][:limit]
                examples_ = [row for row in mine if row["split"] == "dev"][:shots]
                assert asked(loaded[name], limit) == expected(config, test, examples_), name
                compared += len(test)
        for kind in BBH_KINDS:
            configs = {k: v for k, v in installed(f"bbh/{kind}").items() if v["dataset_name"] in tasks}
            loaded = load_suite(list(configs), None).loaded["tasks"]
            for name, config in configs.items():
                test = [row for row in bbh if row["task"] == config["dataset_name"]][:limit]
                examples_ = config.get("fewshot_config", {}).get("samples", [])
                assert asked(loaded[name], limit) == expected(config, test, examples_), name
                compared += len(test)
    return compared


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two subjects and one task, of plain words."""
    return examples.write_benchmarks(tmp_path_factory.mktemp("benchmarks"))


# What a rendering could change: templates, outer and inner white space, characters beyond ASCII.
PARTS = (
    *("{{ question }}", "{% if x %}", "{# note #}", "<b>&amp;</b>", r"\frac{a}{b}", "$x_{1}$", "'\"", "%s"),
    *("the", "½", "σ²", "“don’t”", "e\u0301", "日本", "👍🏽"),
    *("  ", "\n", "\n\n", "\t", "\r\n", "\xa0", "\x85", "\ufeff"),
)


@pytest.fixture(scope="module")
def every_part(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All subjects and tasks in the columns of the real files: odd text, two rows of each to score, no order."""
    rng = random.Random(0)

    def text(most: int) -> str:
        return "".join(rng.choice(PARTS) + rng.choice(["", " "]) for _ in range(rng.randint(0, most)))

    subjects = sorted(config["dataset_name"] for config in installed("mmlu/default").values())
    tasks = sorted(config["dataset_name"] for config in installed("bbh/zeroshot").values())
    mmlu = [
        {
            "subject": subject,
            "question": f"{text(2)}{number}. {text(9)}",
            "choices": [text(3) for _ in range(4)],
            "answer": rng.randrange(4),
            "split": split,
        }
        for subject in subjects
        for number, split in enumerate(["dev"] * 6 + ["val"] + ["test"] * 2)
    ]
    bbh = [
        {"task": task, "input": f"{text(9)}{number}{text(2)}", "target": f"({text(2)}"}
        for task in tasks
        for number in range(2)
    ]
    folder = tmp_path_factory.mktemp("every_part")
    for name, rows in (("mmlu", mmlu), ("bbh", bbh)):
        rng.shuffle(rows)
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    return folder


def test_miniature_prompts_equal_another_rendering(benchmarks, tmp_path):
    assert check(benchmarks, tmp_path, None) == 6 * (2 * 2 + 1 * 4)


def test_every_subject_and_task_asks_odd_text_as_its_yaml_says(every_part, tmp_path):
    assert check(every_part, tmp_path, None) == 2 * (2 * 57 + 4 * 27)


def test_every_subject_and_task_asks_what_its_yaml_says(shared, tmp_path):
    assert check(shared / "data", tmp_path, 2) == 2 * (2 * 57 + 4 * 27)


@pytest.mark.full
def test_every_document_is_asked_as_its_yaml_says(shared, tmp_path):
    assert check(shared / "data", tmp_path, None) == 2 * 14_042 + 4 * 6_511


def test_an_edited_file_is_another_cache(benchmarks, tmp_path):
    first = build_cache(benchmarks, tmp_path / "cache")
    assert build_cache(benchmarks, tmp_path / "cache") == first
    edited = examples.write_benchmarks(tmp_path / "edited", items=7)
    assert content_key(edited) != content_key(benchmarks)
    with data_from(build_cache(edited, tmp_path / "cache")):
        suite = load_suite(["mmlu_anatomy"], 0)
        assert len(list(suite.loaded["tasks"]["mmlu_anatomy"].test_docs())) == 7
    with data_from(first):
        suite = load_suite(["mmlu_anatomy"], 0)
        assert len(list(suite.loaded["tasks"]["mmlu_anatomy"].test_docs())) == 6


def test_the_hub_is_as_before_afterwards(benchmarks, tmp_path, monkeypatch):
    import datasets
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    before = datasets.config.HF_DATASETS_CACHE
    with data_from(build_cache(benchmarks, tmp_path)):
        assert huggingface_hub.constants.HF_HUB_OFFLINE is True
    with pytest.raises(UserError), data_from(build_cache(benchmarks, tmp_path)):
        load_suite(["mmlu_virology"], 0)
    assert before == datasets.config.HF_DATASETS_CACHE
    assert huggingface_hub.constants.HF_HUB_OFFLINE is False


def test_a_file_without_a_column_is_refused(benchmarks, tmp_path):
    table = pq.read_table(benchmarks / "mmlu.parquet").drop_columns(["answer"])
    pq.write_table(table, tmp_path / "mmlu.parquet")
    with pytest.raises(UserError, match=r"mmlu.parquet: lacks answer"):
        build_cache(tmp_path, tmp_path / "cache")


def test_only_what_models_are_scored_on_counts_as_a_benchmarks_text(benchmarks):
    texts = benchmark_texts(benchmarks)
    assert {name: len(asked) for name, asked in texts.items()} == {
        "mmlu/abstract_algebra": 6,
        "mmlu/anatomy": 6,
        "bbh/navigate": 6,
    }


def test_the_texts_of_stock_tasks_are_those_of_made_up_files(every_part, tmp_path):
    with data_from(build_cache(every_part, tmp_path)):
        texts = stock_texts()
    assert texts == benchmark_texts(every_part)
    assert [len(asked) for asked in texts.values()] == [2] * (57 + 27)


def test_the_texts_of_stock_tasks_are_those_of_the_files(shared, tmp_path):
    with data_from(build_cache(shared / "data", tmp_path)):
        assert stock_texts() == benchmark_texts(shared / "data")
