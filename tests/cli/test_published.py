"""The whole command against what the published scripts returned on the same vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smart.templates import TEMPLATES
from tests.cli.test_select import folder_of, read_tasks
from tests.commands import Command, Done

NAMES = {"gc": "graphcut", "fl": "facility_location", "logdet": "logdet"}
TESTS = Path(__file__).resolve().parents[1]
# Task means, sizes and published numbers, kept beside the tests of the engine and of the mixture.
MEANS, STAGE1 = TESTS / "submodular/fixtures/golden.npz", TESTS / "mixture/fixtures/stage1.json"
# Numbers of tasks and rows for which exact greedy has one order only, once its first task is known. (Beyond 16
# tasks, facility location has ties of mutual neighbours; at 63, the published order of graph cut isn't greedy's.)
# The 8 tasks hold fewer than 500 rows.
UNAMBIGUOUS = {
    "gc": [(8, 250), (8, 500), (32, 1000)],
    "fl": [(8, 250), (8, 500), (16, 500)],
    "logdet": [(8, 250), (8, 500), (63, 2000)],
}


def select_tasks(run: Command, collection: Path, vectors: Path, entry: dict[str, Any]) -> Done:
    return run(
        *("select", "collection=files", f"collection.path={collection}", "tracker=none"),
        *("encoder=precomputed", f"encoder.path={vectors}", f"fn={NAMES[entry['fn']]}"),
        *("instance_fn=random", f"num_tasks={entry['num_tasks']}", f"budget={entry['num_instances']}"),
    )


def assert_refused(done: Done) -> None:
    assert done.code == 3
    assert "selected tasks can give" in done.err


def assert_published(tasks: list[dict[str, str]], entry: dict[str, Any]) -> None:
    """Order, gains, probabilities, budgets and template budgets."""
    selected = tasks[: entry["num_tasks"]]
    assert [task["task_name"] for task in selected] == entry["order"]
    assert np.allclose([float(task["gain"]) for task in selected], entry["gains"], rtol=1e-5, atol=1e-5)
    assert np.allclose([float(task["weight"]) for task in selected], entry["probabilities"], rtol=1e-5)
    assert {task["task_name"]: int(task["budget"]) for task in tasks} == entry["budgets"]
    split = {task["task_name"]: [int(task[template]) for template in TEMPLATES] for task in tasks}
    assert split == entry["template_budgets"]


def kept_entries(fn: str) -> list[dict[str, Any]]:
    """Entries of the fixture, in the form of reference.json: tasks by name; no budgets where the scripts stop."""
    published = json.loads(STAGE1.read_text())
    names = published["tasks"]
    found = []
    for entry in published["stage1"]:
        if entry["fn"] == fn and (len(entry["order"]), entry["num_instances"]) in UNAMBIGUOUS[fn]:
            order = [names[task] for task in entry["order"]]
            named = {
                key: entry[key] and dict(zip(names, entry[key], strict=True))
                for key in ("budgets", "template_budgets")
            }
            found.append({**entry, **named, "order": order, "num_tasks": len(order)})
    return found


def write_collection(folder: Path, first: str) -> tuple[Path, Path]:
    """A collection with the published tasks and sizes, and vectors with the published means.

    Rows lie on both sides of their task's mean, in no order; the means of its template types differ.

    Args:
        first: the task that comes first in the pool, and so wins ties.
    """
    published = json.loads(STAGE1.read_text())
    generator = np.random.default_rng(0)
    rows, vectors = [], []
    for name, sizes, mean in zip(
        published["tasks"], published["sizes"], np.load(MEANS)["tasks"], strict=True
    ):
        templates = np.repeat(TEMPLATES, sizes).tolist()
        aside = generator.normal(scale=0.05, size=(len(templates) // 2, len(mean)))
        vectors += [mean + aside, mean - aside, mean[None][: len(templates) % 2]]
        rows += [
            {
                "submixture": "a" if name == first else "b",
                "task_name": name,
                "template_type": template,
                "inputs": f"{name}, question {number}",
                "targets": "yes",
            }
            for number, template in enumerate(templates)
        ]
    places = generator.permutation(len(rows))
    pq.write_table(pa.Table.from_pylist(rows).take(places), folder / "tasks.parquet")
    np.save(folder / "vectors.npy", np.concatenate(vectors).astype(np.float32)[places])
    return folder / "tasks.parquet", folder / "vectors.npy"


@pytest.mark.parametrize("fn", NAMES)
def test_the_published_stage_1_from_the_published_task_means(run: Command, tmp_path: Path, fn: str) -> None:
    """Log-determinant begins with a tie among all tasks, so the task that won it comes first in the pool."""
    entries = kept_entries(fn)
    assert [entry["budgets"] is None for entry in entries] == [False, True, False]
    collection, vectors = write_collection(tmp_path, first=entries[0]["order"][0])
    for entry in entries:
        done = select_tasks(run, collection, vectors, entry)
        if entry["budgets"] is None:
            assert_refused(done)
            continue
        assert done.code == 0, done.said
        assert_published(read_tasks(tmp_path / folder_of(done.out)), entry)


@pytest.mark.parametrize("fn", ["gc", "fl"])
def test_the_published_stage_1_from_the_vectors_of_real_rows(
    run: Command, shared: Path, tmp_path: Path, fn: str
) -> None:
    """Where the published order is exact greedy's (regret at most 1e-6) and has no structural ties."""
    reference = json.loads((shared / "golden/reference.json").read_text())
    entries = [e for e in reference["stage1"] if e["fn"] == fn and e["regret"] <= 1e-6]
    assert len(entries) >= 3
    compared = 0
    for entry in entries:
        done = select_tasks(run, shared / "data/sni-small.parquet", shared / "golden/embeddings.npy", entry)
        if entry["error"]:
            assert_refused(done)
            continue
        assert done.code == 0, done.said
        tasks = read_tasks(tmp_path / folder_of(done.out))
        if [task["task_name"] for task in tasks[: entry["num_tasks"]]] != entry["order"]:
            assert fn == "fl", "graph cut has no ties here"
            continue
        compared += 1
        assert_published(tasks, entry)
    assert compared >= 1
