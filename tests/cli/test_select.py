"""Selection as a user runs it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import wandb

from tests.commands import Command

STRATEGIES = ("smart", "smart_random_instances", "examples_proportional", "equal")


def folder_of(said: str) -> Path:
    return Path(said.split("Mixture: ")[1].splitlines()[0])


def read_tasks(folder: Path) -> list[dict[str, str]]:
    with (folder / "tasks.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix in (".parquet", ".csv")}


def test_a_mixture(select: Command, tmp_path: Path) -> None:
    done = select("collection.validation=10%", "validation_rows=20")
    assert done.code == 0, done.said
    assert "Next:    accelerate launch train.py mixture=" in done.out
    folder = tmp_path / folder_of(done.out)
    assert folder.name.startswith("small-100-graphcut-facility_location-")
    data = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert (len(data["train"]), len(data["validation"])) == (100, 20)
    assert {"prompt", "response", "submixture", "task_name", "template_type", "row"} <= set(
        data["train"].column_names
    )

    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["kind"] == "mixture"
    assert manifest["counts"]["rows"] == 100
    assert manifest["counts"]["pool_tasks"] == 12
    assert manifest["key"].startswith(folder.name[-8:])
    assert (folder / "select.log").read_text()

    rows = pq.read_table(folder / "train.parquet").to_pylist()
    for task in read_tasks(folder):
        mine = [
            r for r in rows if (r["submixture"], r["task_name"]) == (task["submixture"], task["task_name"])
        ]
        assert len(mine) == int(task["budget"]) <= int(task["size"])
        for template in ("zs_opt", "zs_noopt", "fs_opt", "fs_noopt"):
            assert sum(r["template_type"] == template for r in mine) == int(task[template])


def test_rows_are_those_of_the_collection(select: Command, collection: Path, tmp_path: Path) -> None:
    folder = tmp_path / folder_of(select().out)
    source = pq.read_table(collection).to_pylist()
    for row in pq.read_table(folder / "train.parquet").to_pylist():
        assert source[row["row"]]["inputs"] == row["prompt"]
        assert source[row["row"]]["targets"] == row["response"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_budgets_nest(select: Command, tmp_path: Path, strategy: str) -> None:
    """Within a group a larger budget keeps the rows of a smaller one, so a study of budgets compares like with like."""
    small, large = (
        tmp_path / folder_of(select(f"strategy={strategy}", f"budget={n}").out) for n in (60, 120)
    )
    kept = {row["row"]: row for row in pq.read_table(large / "train.parquet").to_pylist()}
    grown = {(t["submixture"], t["task_name"]): t for t in read_tasks(large)}
    for task in read_tasks(small):
        other = grown[task["submixture"], task["task_name"]]
        if all(int(other[t]) >= int(task[t]) for t in ("zs_opt", "zs_noopt", "fs_opt", "fs_noopt")):
            for row in pq.read_table(small / "train.parquet").to_pylist():
                if (row["submixture"], row["task_name"]) == (task["submixture"], task["task_name"]):
                    assert row["row"] in kept


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_same_bytes_at_one_and_two_threads(select: Command, tmp_path: Path, strategy: str) -> None:
    folders = [tmp_path / str(threads) for threads in (1, 2)]
    for threads, folder in zip((1, 2), folders, strict=True):
        root = tmp_path / f"root{threads}"
        done = select(f"strategy={strategy}", f"threads={threads}", f"output={folder}", f"output_root={root}")
        assert done.code == 0, done.said
    assert content(folders[0]) == content(folders[1])


def test_baselines_need_no_vectors(select: Command, tmp_path: Path) -> None:
    done = select("strategy=examples_proportional")
    assert done.code == 0
    assert [path.name for path in (tmp_path / "outputs/cache").iterdir()] == ["collections"]
    tasks = read_tasks(tmp_path / folder_of(done.out))
    sizes, budgets = (np.array([int(task[key]) for task in tasks]) for key in ("size", "budget"))
    assert np.abs(budgets - 100 * sizes / sizes.sum()).max() < 2


def test_random_tasks_weigh_the_same(select: Command, tmp_path: Path) -> None:
    tasks = read_tasks(tmp_path / folder_of(select("fn=random").out))
    assert {task["gain"] for task in tasks} == {""}
    assert {float(task["weight"]) for task in tasks} == {1 / 12}


def test_random_rows_do_not_change_with_another_task(
    select: Command, collection: Path, tmp_path: Path
) -> None:
    """Orders are seeded by seed, submixture, task and template, not by place."""
    table = pq.read_table(collection)
    names, submixtures = table["task_name"].to_pylist(), table["submixture"].to_pylist()
    keep = [(s, n) != (submixtures[0], names[0]) for s, n in zip(submixtures, names, strict=True)]
    fewer = tmp_path / "fewer.parquet"
    pq.write_table(table.filter(keep), fewer)
    offset = keep.count(False)
    arguments = ("fn=random", "weighting=proportional", "instance_fn=random", "budget=50%")
    whole = pq.read_table(tmp_path / folder_of(select(*arguments).out) / "train.parquet").to_pylist()
    part = select(*arguments, f"collection.path={fewer}")
    rows = pq.read_table(tmp_path / folder_of(part.out) / "train.parquet").to_pylist()
    chosen = {row["row"] for row in whole} - set(range(offset))
    again = {row["row"] + offset for row in rows}
    assert len(chosen & again) >= 0.98 * len(again)


def test_one_name_in_two_submixtures_is_two_tasks(select: Command, tmp_path: Path) -> None:
    tasks = read_tasks(tmp_path / folder_of(select().out))
    assert len(tasks) == 12
    assert [task["task_name"] for task in tasks].count("task1") == 2


def test_num_tasks_prunes_whatever_the_strategy(select: Command, tmp_path: Path) -> None:
    chosen = {}
    for strategy in STRATEGIES:
        done = select(f"strategy={strategy}", "fn=graphcut", "num_tasks=4")
        tasks = read_tasks(tmp_path / folder_of(done.out))
        chosen[strategy] = [task["task_name"] for task in tasks if task["order"]]
        assert all((task["order"] == "") == (int(task["budget"]) == 0) for task in tasks)
    assert len(chosen["smart"]) == 4
    assert all(tasks == chosen["smart"] for tasks in chosen.values())


def test_the_command_line_wins_over_the_strategy(select: Command, tmp_path: Path) -> None:
    folder = tmp_path / folder_of(
        select("strategy=equal", "weighting=proportional", "instance_fn=logdet").out
    )
    config = json.loads((folder / "manifest.json").read_text())["config"]
    assert config["weighting"]["_target_"].endswith("Proportional")
    assert config["instance_fn"]["_target_"].endswith("LogDeterminant")
    assert config["fn"]["_target_"].endswith("Random")


def test_validation_is_the_same_for_every_strategy(select: Command, tmp_path: Path) -> None:
    """Its rows are of all tasks, selected or not."""
    options = ("collection.validation=20%", "validation_rows=24", "fn=graphcut", "num_tasks=9", "budget=60")
    folders = [tmp_path / folder_of(select(f"strategy={strategy}", *options).out) for strategy in STRATEGIES]
    samples = {content(folder)["validation.parquet"] for folder in folders}
    assert len(samples) == 1
    rows = pq.read_table(folders[0] / "validation.parquet").to_pylist()
    assert len(rows) == 24
    assert len({(row["submixture"], row["task_name"]) for row in rows}) == 12
    chosen = [set(pq.read_table(folder / "train.parquet")["row"].to_pylist()) for folder in folders]
    assert not {row["row"] for row in rows} & set.union(*chosen)


def test_a_run_is_tracked_without_secrets(
    select: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", "a-very-secret-token")
    done = select("tracker=wandb", "tracker.mode=offline")
    assert done.code == 0, done.said
    wandb.teardown()  # a run's end doesn't wait until its file is written; a process's does
    (record,) = (tmp_path / "outputs/wandb").glob("wandb/offline-run-*/*.wandb")
    logged = record.read_bytes()
    for part in (b"select.fn", b"select.budget", b"graphcut", b"tasks.table.json", b"budgets", b"mixture"):
        assert part in logged
    files = [path for path in (tmp_path / "outputs").rglob("*") if path.is_file()]
    assert not [path for path in files if b"a-very-secret-token" in path.read_bytes()]
    assert not list((tmp_path / "outputs").rglob("wandb-metadata.json"))


def test_made_before_is_found_again(select: Command) -> None:
    assert select().code == 0
    again = select("threads=1")
    assert again.code == 0
    assert "Made before" in again.out


def test_another_mixture_is_not_overwritten(select: Command, tmp_path: Path) -> None:
    assert select("output=mine").code == 0
    refused = select("output=mine", "seed=24")
    assert refused.code == 1
    assert "overwrite=true" in refused.err
    before = content(tmp_path / "mine")
    assert select("output=mine", "seed=24", "overwrite=true").code == 0
    assert content(tmp_path / "mine") != before


def test_a_folder_of_something_else_is_refused(select: Command, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("do not lose me")
    refused = select("output=mine")
    assert refused.code == 1
    assert "no mixture" in refused.err
    assert (tmp_path / "mine/thesis.tex").exists()


def test_plan_writes_nothing(select: Command, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    done = select("plan=true")
    assert done.code == 0, done.said
    assert "prompts to encode" in done.out
    assert sorted(tmp_path.rglob("*")) == before
    assert select().code == 0
    planned = select("plan=true", "budget=120")
    assert "embeddings  done" in planned.out
    assert "orderings   done" in planned.out or "groups" in planned.out
    assert "120 of" in planned.out


def test_rows_that_training_would_drop_leave_the_pool(
    select: Command, collection: Path, tmp_path: Path
) -> None:
    from smart.model.tokens import fits
    from tests.cli.tokenizers import word_tokenizer

    tokenizer = word_tokenizer(tmp_path / "tokenizer")
    table = pq.read_table(collection).to_pylist()
    table[5]["targets"] = "far too long an answer for eight tokens of words to hold it all"
    import pyarrow as pa

    pq.write_table(pa.Table.from_pylist(table), collection)
    assert not fits(tokenizer, [table[5]["inputs"]], [table[5]["targets"]], 8).any()
    done = select(f"tokenizer={tmp_path / 'tokenizer'}", "max_length=8", "strategy=equal", "budget=100%")
    assert done.code == 0, done.said
    folder = tmp_path / folder_of(done.out)
    assert json.loads((folder / "manifest.json").read_text())["drops"]["train"]["longer_than_max_length"] == 1
    assert 5 not in pq.read_table(folder / "train.parquet")["row"].to_pylist()


def test_few_distinct_vectors_are_a_warning(select: Command, collection: Path, tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(len(pq.read_table(collection)), 8)).astype(np.float32)
    vectors[:14] = vectors[0]
    np.save(tmp_path / "E.npy", vectors)
    done = select("encoder=precomputed", f"encoder.path={tmp_path / 'E.npy'}")
    assert done.code == 0, done.said
    assert "groups fewer than half of the prompts have a vector of their own" in done.err
    folder = tmp_path / folder_of(done.out)
    assert "a vector of their own" in (folder / "README.md").read_text()
    distinct = json.loads((folder / "manifest.json").read_text())["distinct_vectors"]
    assert distinct["a/task1/zs_opt"] == [1, 4]
    assert sum(rows for _, rows in distinct.values()) == len(vectors)


def test_precomputed_vectors_must_fit(select: Command, tmp_path: Path) -> None:
    np.save(tmp_path / "E.npy", np.ones((7, 3), np.float32))
    refused = select("encoder=precomputed", f"encoder.path={tmp_path / 'E.npy'}")
    assert refused.code == 1
    assert "7" in refused.err
    assert "Traceback" not in refused.err


def test_partition_is_named_approximate_with_its_quality(
    select: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = json.loads((tmp_path / folder_of(select().out) / "manifest.json").read_text())
    assert exact["approximation"] is None
    monkeypatch.setattr("smart.selection.orderings.PART", 8)
    monkeypatch.setattr("smart.selection.instances.PART", 8)
    done = select("optimizer=partition", "memory_limit=1GB")
    assert done.code == 0, done.said
    said = json.loads((tmp_path / folder_of(done.out) / "manifest.json").read_text())["approximation"]
    assert said["optimizer"] == "partition"
    assert said["groups"] > 0
    assert -1 <= said["quality"] <= 1.2


def test_too_little_memory_is_refused_with_the_numbers_and_the_way_out(select: Command) -> None:
    done = select("memory_limit=1kB")
    assert done.code == 1
    assert "memory_limit" in done.err
    assert "partition" in done.err
    assert "Traceback" not in done.said
