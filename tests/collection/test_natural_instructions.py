"""A folder laid out like allenai/natural-instructions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from smart.collection import Groups, NaturalInstructions, check_source, load
from smart.config import ConfigError, UserError
from tests.collection.examples import content


def task(name: str, count: int, closed: bool = False, examples: int = 3) -> dict[str, Any]:
    return {
        "Contributors": ["somebody"],
        "Categories": ["Question Answering"],
        "Definition": [f"Do {name}."],
        "Positive Examples": [
            {"input": f"example {i}", "output": f"shown {i}", "explanation": "so"} for i in range(examples)
        ],
        "Negative Examples": [],
        "Instances": [
            {
                "id": f"{name}-{i}",
                "input": f"{name} input {i}",
                "output": [("yes", "no")[i % 2] if closed else f"out {i}", "another reference"],
            }
            for i in range(count)
        ],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tasks = {
        "task2_open": task("task2_open", 60),
        "task1_closed": task("task1_closed", 80, closed=True),
        "task3_bare": task("task3_bare", 10, examples=0),
        "task4_test": task("task4_test", 12),
        "task5_excluded": {"broken": True},
    }
    (tmp_path / "tasks").mkdir()
    for name, content_ in tasks.items():
        (tmp_path / "tasks" / f"{name}.json").write_text(json.dumps(content_))
    splits = tmp_path / "splits" / "default"
    splits.mkdir(parents=True)
    (splits / "train_tasks.txt").write_text("task2_open\ntask1_closed\ntask3_bare\n")
    (splits / "test_tasks.txt").write_text("task4_test\n")
    (splits / "excluded_tasks.txt").write_text("task5_excluded\n")
    return tmp_path


@pytest.mark.parametrize("validation", [None, "test", "10%"])
def test_it_keeps_the_contract_of_a_source(folder: Path, validation: str | None) -> None:
    check_source(NaturalInstructions(path=str(folder), validation=validation, max_per_task=20))


def test_rows_and_template_types(folder: Path) -> None:
    collection = load(NaturalInstructions(path=str(folder)))
    groups = Groups.of(collection.train)
    assert groups.tasks == (("niv2", "task1_closed"), ("niv2", "task2_open"), ("niv2", "task3_bare"))
    assert groups.sizes.sum(1).tolist() == [80, 60, 10]
    assert ((groups.sizes > 0) == [[1, 1, 1, 1], [0, 1, 0, 1], [0, 1, 0, 0]]).all()
    assert collection.validation is None
    expected = {
        ("task2_open", "zs_noopt"): "Do task2_open.\n\nInput: {}\nOutput:",
        ("task2_open", "fs_noopt"): "Do task2_open.\n\nInput: example 0\nOutput: shown 0\n\n"
        "Input: example 1\nOutput: shown 1\n\nInput: {}\nOutput:",
        ("task1_closed", "zs_opt"): "Do task1_closed.\n\nOptions:\n- no\n- yes\n\nInput: {}\nOutput:",
    }
    rows = content(collection.train)
    seen = dict.fromkeys(groups.tasks, 0)
    for row in rows:
        number = seen["niv2", row["task_name"]]
        seen["niv2", row["task_name"]] += 1
        template = expected.get((row["task_name"], row["template_type"]))
        if template:
            assert row["inputs"] == template.format(f"{row['task_name']} input {number}")
        assert row["targets"] == (
            ("yes", "no")[number % 2] if "closed" in row["task_name"] else f"out {number}"
        )


def test_max_per_task_is_seeded_and_does_not_touch_other_tasks(folder: Path) -> None:
    few = load(NaturalInstructions(path=str(folder), max_per_task=25))
    assert Groups.of(few.train).sizes.sum(1).tolist() == [25, 25, 10]
    assert load(NaturalInstructions(path=str(folder), max_per_task=25)).fingerprint == few.fingerprint
    assert load(NaturalInstructions(path=str(folder), max_per_task=25, seed=1)).fingerprint != few.fingerprint
    (folder / "splits" / "default" / "train_tasks.txt").write_text("task2_open\n")
    alone = load(NaturalInstructions(path=str(folder), max_per_task=25))
    assert content(alone.train) == [row for row in content(few.train) if row["task_name"] == "task2_open"]


def test_validation(folder: Path) -> None:
    test = load(NaturalInstructions(path=str(folder), validation="test")).validation
    assert test is not None
    assert Groups.of(test).tasks == (("niv2", "task4_test"),)
    assert test["row"].to_pylist() == list(range(12))
    collection = load(NaturalInstructions(path=str(folder), validation="10%"))
    assert collection.validation is not None
    assert (len(collection.train), len(collection.validation)) == (135, 15)


def test_an_instance_without_output_is_named(folder: Path) -> None:
    broken = task("task2_open", 5)
    broken["Instances"][3]["output"] = []
    path = folder / "tasks" / "task2_open.json"
    path.write_text(json.dumps(broken))
    with pytest.raises(UserError, match=r"task2_open\.json: targets: null in 1 row: 3"):
        load(NaturalInstructions(path=str(folder)))
    dropped = load(NaturalInstructions(path=str(folder), bad_rows="drop")).source["splits"]["train"][
        "dropped"
    ]
    assert dropped == {"targets: null": 1}


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"Instances": []}', '{"Instances": [{"input": 3, "output": "a"}]}', "[" * 5000]
)
def test_broken_task_files(folder: Path, text: str) -> None:
    (folder / "tasks" / "task2_open.json").write_text(text)
    with pytest.raises(UserError, match=r"task2_open\.json: not a task file"):
        load(NaturalInstructions(path=str(folder)))


def test_what_is_no_text_is_named_by_row(folder: Path) -> None:
    broken = task("task2_open", 9)
    broken["Instances"][3]["output"] = [7]
    broken["Instances"][4]["input"] = 5
    broken["Instances"][5]["input"] = "half of \ud83d"
    (folder / "tasks" / "task2_open.json").write_text(json.dumps(broken))
    with pytest.raises(UserError) as caught:
        load(NaturalInstructions(path=str(folder)))
    for fault in (
        "targets: number instead of text in 1 row: 3 (7)",
        "inputs: number instead of text in 1 row: 4 (5)",
    ):
        assert f"task2_open.json: {fault}" in str(caught.value)
    assert "inputs: half a character (a lone surrogate) in 1 row: 5" in str(caught.value)
    collection = load(NaturalInstructions(path=str(folder), bad_rows="drop"))
    assert sum(collection.source["splits"]["train"]["dropped"].values()) == 3


def test_examples_and_definitions_must_be_text(folder: Path) -> None:
    broken = task("task2_open", 9)
    broken["Positive Examples"][0]["output"] = 7
    (folder / "tasks" / "task2_open.json").write_text(json.dumps(broken))
    with pytest.raises(
        UserError, match=r"task2_open\.json: not a task file: TypeError: 7 stands where text is due"
    ):
        load(NaturalInstructions(path=str(folder)))


def test_a_split_without_tasks(folder: Path) -> None:
    (folder / "splits" / "default" / "train_tasks.txt").write_text("\n")
    with pytest.raises(UserError, match=r"train_tasks\.txt: names no task"):
        load(NaturalInstructions(path=str(folder)))


def test_wrong_options_and_missing_files(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"collection\.path=null: no folder given"):
        load(NaturalInstructions())
    with pytest.raises(ConfigError) as caught:
        load(NaturalInstructions(path=str(folder), split="english", max_per_task=0, validation="tests"))
    assert str(caught.value).startswith("3 values")
    (folder / "splits" / "default" / "train_tasks.txt").write_text("task9\n")
    with pytest.raises(UserError, match=r"task9\.json: no such file, but .*train_tasks\.txt names it"):
        load(NaturalInstructions(path=str(folder)))
