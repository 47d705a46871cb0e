"""Comparisons read folders of scores, and say no more than the numbers do."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smart.config import UserError
from smart.evaluation.compare import compare
from smart.evaluation.scores import SCHEMA, task_hashes
from smart.runtime.manifest import write_manifest

ITEMS = 120


def write(
    folder: Path, answers: dict[str, np.ndarray], prompt: str = "p", part: str = "suite", metric: str = "acc"
) -> str:
    """A folder of scores with one part; a metric that is no `acc` has pairs: a sum, and of how many tokens."""
    folder.mkdir(parents=True)
    rows = [
        {
            **dict.fromkeys(SCHEMA.names),
            "task": task,
            "filter": "none",
            "doc_id": number,
            "doc_hash": f"{task}{number}",
            "prompt_hash": f"{prompt}{number}",
            "metrics": json.dumps({metric: float(value) if metric == "acc" else value.tolist()}),
        }
        for task, values in answers.items()
        for number, value in enumerate(values)
    ]
    samples = pa.Table.from_pylist(rows[::-1], schema=SCHEMA)
    means = [x.mean() if metric == "acc" else x[:, 0].sum() / x[:, 1].sum() for x in answers.values()]
    score = {"part": part, "metric": metric, "filter": "none", "macro": {"value": float(np.mean(means))}}
    results = {
        "parts": {part: list(answers)},
        "scores": [{**score, "micro": {}} if metric == "acc" else score],
        "task_hashes": task_hashes(samples),
    }
    pq.write_table(samples, folder / "samples.parquet")
    (folder / "results.json").write_text(json.dumps(results))
    write_manifest(folder, {"kind": "scores", "key": folder.name})
    return str(folder)


def answers(seed: int, accuracy: float, items: int = ITEMS) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {task: (rng.random(items) < accuracy).astype(float) for task in ("one", "two")}


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "comparison.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_clear_difference_is_said_of_these_two_models_only(tmp_path):
    a, b = write(tmp_path / "a", answers(0, 0.8)), write(tmp_path / "b", answers(1, 0.5))
    folder, text = compare([a, b], tmp_path / "out", tmp_path)
    assert "suite (acc, 240 items in 2 subtasks): a scores 0." in text
    assert "higher than b" in text
    assert "two models only" in text
    (row,) = table(folder)
    first, second = answers(0, 0.8), answers(1, 0.5)
    difference = np.mean([first[task] - second[task] for task in first])
    assert float(row["difference"]) == pytest.approx(difference)
    assert float(row["low"]) < difference < float(row["high"])
    assert row["test"] == "mid-p McNemar"
    assert (folder / "comparison.png").stat().st_size > 5_000
    assert json.loads((folder / "manifest.json").read_text())["inputs"] == ["a", "b"]


def test_a_difference_that_is_not_significant_is_called_so(tmp_path):
    a, b = write(tmp_path / "a", answers(0, 0.6)), write(tmp_path / "b", answers(1, 0.6))
    _, text = compare([a, b], tmp_path / "out", tmp_path)
    assert "is not significant" in text
    assert "higher than" not in text


def test_how_many_decisions_differ_is_counted(tmp_path):
    one = answers(0, 0.6)
    other = {task: values.copy() for task, values in one.items()}
    other["one"][:3] = 1 - other["one"][:3]
    _, text = compare([write(tmp_path / "a", one), write(tmp_path / "b", other)], tmp_path / "out", tmp_path)
    assert "differ in 3 decisions" in text


def test_names_of_others_are_text_in_the_table_and_the_card(tmp_path):
    names = ["=HYPERLINK('x')", "<b>|*c*"]
    folders = [write(tmp_path / name, answers(seed, 0.6)) for seed, name in enumerate(names)]
    folder, text = compare(folders, tmp_path / "out", tmp_path)
    (row,) = table(folder)
    assert [row["first"], row["second"]] == ["'=HYPERLINK('x')", "<b>|*c*"]
    assert "<b>|*c*" in text
    card = (folder / "README.md").read_text()
    assert "<b>" not in card
    assert r"&lt;b&gt;\|\*c\*" in card


def groups(tmp_path: Path, accuracies: dict[str, float]) -> dict[str, list[str]]:
    return {
        name: [write(tmp_path / f"{name}{seed}", answers(100 * place + seed, accuracy)) for seed in range(3)]
        for place, (name, accuracy) in enumerate(accuracies.items())
    }


def test_groups_of_runs_are_compared_in_pairs_with_holms_correction(tmp_path):
    spec = groups(tmp_path, {"smart": 0.8, "equal": 0.5, "random": 0.5})
    folder, text = compare(spec, None, tmp_path / "tables")
    rows = {(row["first"], row["second"]): row for row in table(folder)}
    assert list(rows) == [("smart", "equal"), ("smart", "random"), ("equal", "random")]
    assert [row["significant"] for row in rows.values()] == ["True", "True", "False"]
    assert all(float(row["p_holm"]) >= float(row["p"]) for row in rows.values())
    assert {row["test"] for row in rows.values()} == {"t over seeds and items"}
    assert "as far as these seeds show" in text
    assert "two models only" not in text


def test_two_seeds_are_too_few(tmp_path):
    spec = groups(tmp_path, {"smart": 0.8, "equal": 0.5})
    with pytest.raises(UserError, match="at least 3 runs"):
        compare({name: folders[:2] for name, folders in spec.items()}, None, tmp_path)


def test_a_run_counts_once_however_often_it_is_named(tmp_path):
    """Named three times, it would seem that seeds don't matter."""
    spec = groups(tmp_path, {"smart": 0.8, "equal": 0.5})
    copy = shutil.copytree(spec["smart"][0], tmp_path / "copy")
    for folders in (
        [spec["smart"][0]] * 3,
        [*spec["smart"][:2], str(copy)],
        [*spec["smart"][:2], spec["equal"][0]],
    ):
        with pytest.raises(UserError, match=r"are scores of one run \(key .*a run counts once"):
            compare({**spec, "smart": folders}, None, tmp_path)


def test_scores_that_are_equal_have_an_interval_and_no_difference(tmp_path):
    one = answers(0, 0.6)
    folder, text = compare(
        [write(tmp_path / "a", one), write(tmp_path / "b", one)], tmp_path / "out", tmp_path
    )
    assert "differ in 0 decisions" in text
    (row,) = table(folder)
    assert float(row["p"]) == 1
    assert -0.1 < float(row["low"]) < 0 < float(row["high"]) < 0.1


@pytest.mark.parametrize("spec", [["a"], ["a", "a"], "a", ["a", "b", "c"]])
def test_what_is_no_pair_is_refused(spec, tmp_path):
    with pytest.raises(UserError, match="two different folders"):
        compare(spec, None, tmp_path)


def test_scores_of_other_items_are_not_compared(tmp_path):
    a = write(tmp_path / "a", answers(0, 0.6))
    for name, other in (
        ("fewer", write(tmp_path / "fewer", answers(0, 0.6, items=50))),
        ("prompts", write(tmp_path / "prompts", answers(0, 0.6), prompt="q")),
    ):
        with pytest.raises(UserError, match="did not answer the same prompts of one"):
            compare([a, other], None, tmp_path / name)
    with pytest.raises(UserError, match="holds no scores"):
        compare([a, str(tmp_path / "nothing")], None, tmp_path)


def test_the_interval_points_where_the_sentence_does(tmp_path):
    low, high = write(tmp_path / "a", answers(1, 0.5)), write(tmp_path / "b", answers(0, 0.8))
    _, text = compare([low, high], tmp_path / "out", tmp_path)
    said = re.search(r"b scores ([\d.]+) higher than a \(95 % interval ([+-][\d.]+) to ([+-][\d.]+)", text)
    assert said, text
    value, least, most = map(float, said.groups())
    assert 0 < least < value < most


def losses(seed: int, worse: float, tasks: int) -> dict[str, np.ndarray]:
    """Of two items each: nats and tokens, (items, 2)."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 9, (tasks, 2))
    nats = tokens * (2 + worse + 0.1 * rng.random((tasks, 2)))
    return {f"t{task}": np.stack([nats[task], tokens[task]], axis=1) for task in range(tasks)}


@pytest.mark.parametrize(("tasks", "drawn"), [(12, "12 tasks"), (4, "8 items in 4 subtasks")])
def test_unseen_tasks_are_compared_by_their_loss_per_token_and_drawn_where_they_are_many(
    tmp_path, tasks, drawn
):
    one, other = losses(0, 0.0, tasks), losses(0, 0.5, tasks)
    folders = [
        write(tmp_path / name, scores, part="heldout_loss", metric="loss")
        for name, scores in (("a", one), ("b", other))
    ]
    folder, text = compare(folders, tmp_path / "out", tmp_path)
    assert f"heldout_loss (loss, lower is better, {drawn}): b scores 0.5000 higher than a" in text
    (row,) = table(folder)
    per_token = [
        np.mean([task[:, 0].sum() / task[:, 1].sum() for task in scores.values()]) for scores in (one, other)
    ]
    assert [float(row["first_score"]), float(row["second_score"])] == pytest.approx(per_token)
    assert row["test"] == "paired t"


def add(folder: str, **content: object) -> None:
    """More content of results.json."""
    file = Path(folder) / "results.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | content))
    write_manifest(Path(folder), {"kind": "scores", "key": Path(folder).name})


def test_settings_in_which_scores_differ_are_named_beside_the_result(tmp_path):
    a, b = write(tmp_path / "a", answers(0, 0.8)), write(tmp_path / "b", answers(1, 0.5))
    exact = {"dtype": "float32", "batch_size": 8, "max_length": 1024, "four_bit": False}
    add(a, model=exact, limit=None, version=3, packages={"torch": "2.12"})
    changed = {"max_length": 300, "batch_size": 4, "generation_batch_size": 2, "tf32": True}
    add(b, model=exact | changed, version=3, packages={"torch": "2.13"})
    folder, text = compare([a, b], tmp_path / "out", tmp_path)
    assert text.splitlines()[1:] == [
        "Not scored alike: max_length is 1024 for a; 300 for b.",
        "Not scored alike: tf32 is false for a; true for b.",
        "Not scored alike: version of torch is 2.12 for a; 2.13 for b.",
    ], "in float32, the batch size changes nothing but rounding"
    assert "- Not scored alike: max_length" in (folder / "README.md").read_text()
    add(b, model=exact | {"dtype": "bfloat16"}, chat_template=True)  # as before there were formats
    _, text = compare([a, b], tmp_path / "other", tmp_path)
    told = {line.partition(" is ")[0].rpartition(": ")[2] for line in text.splitlines()[1:]}
    assert told == {"dtype", "format", "version of torch"}
    form = {
        "kind": "chat",
        "template": "0123456789abcdef",
        "system": "Be brief.",
        "thinking": None,
        "date": "2024-07-26",
    }
    add(b, model=exact | {"format": form}, format="chat", chat_template=None)
    _, text = compare([a, b], tmp_path / "third", tmp_path)
    said = 'plain for a; chat by the template 01234567, system "Be brief.", date "2024-07-26" for b.'
    assert f"Not scored alike: format is {said}" in text
