"""The command: keys with a stage, every table that comes with it, plans, and one study from end to end."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from smart.commands.reproduce import compose, gather_overrides, parse_overrides
from smart.config import conf_dir
from smart.experiment.grid import Grid
from smart.experiment.stages import build
from tests.commands.conftest import Done

TABLES = sorted(path.stem for path in (conf_dir() / "table").glob("*.yaml"))
TINY = [
    *("train.model=tiny_llama", "train.tuning.lora_r=4", "train.tuning.dtype=float32", "train.batch_size=8"),
    *("train.micro_batch_size=4", "train.max_steps=2", "evaluate.suite=heldout", "evaluate.dtype=float32"),
]


def table(name: str) -> dict[str, object]:
    content: dict[str, object] = yaml.safe_load((conf_dir() / "table" / f"{name}.yaml").read_text())
    return content


@pytest.fixture
def reproduce(run: Callable[..., Done], collection: Path) -> Callable[..., Done]:
    """reproduce("table=budget"): on the small collection, without tracking."""
    pool = ["select.collection=files", f"select.collection.path={collection}", "select.encoder=wordllama"]
    return lambda *more: run("reproduce", "tracker=none", "threads=1", *pool, *TINY, *more)


def test_keys_with_a_stage_are_gathered_and_read_as_a_sweep_reads_them() -> None:
    given = ["select.budget=5k,10k", "table=main", "+train.model.name='a b'", "seeds=[1,2]", "train.epochs=2"]
    *rest, gathered = gather_overrides(given)
    assert rest == ["table=main", "seeds=[1,2]"]
    assert gather_overrides([*rest, gathered]) == [*rest, gathered]
    from hydra.core.override_parser.overrides_parser import OverridesParser

    listed = [item.text for item in OverridesParser.create().parse_override(gathered)._value]
    assert parse_overrides(listed) == {
        "select.budget": ["5k", "10k"],
        "train.model.name": "a b",
        "train.epochs": 2,
    }


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_headed_by_its_command_and_composes(name: str, tmp_path: Path) -> None:
    from hydra import initialize_config_dir

    text = (conf_dir() / "table" / f"{name}.yaml").read_text()
    assert text.splitlines()[:2] == ["# @package _global_", f"# python reproduce.py table={name}"]
    content = table(name)
    grid = Grid.of(
        name,
        content["grid"],  # type: ignore[arg-type]
        baseline=content["baseline"],  # type: ignore[arg-type]
        base_model=True,
    )
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        study = build(grid, compose, tmp_path, {})
    assert len(study.cells) >= len(grid.rows()) + 1
    assert any(grid.is_baseline(row) for row in grid.rows())


def test_the_quickstart_holds_no_task_out_that_it_learns() -> None:
    content = table("quickstart")
    (learnt,) = content["grid"]["select.collection.tasks"]  # type: ignore[index]
    held_out = content["heldout"]["tasks"]  # type: ignore[index]
    assert not set(learnt) & set(held_out)
    from smart.collection.reasoning_gym import _generators

    assert {*learnt, *held_out} <= set(_generators())


def test_a_plan_knows_what_is_infeasible_and_writes_nothing(
    reproduce: Callable[..., Done], tmp_path: Path
) -> None:
    done = reproduce(
        "table=task_pruning", "select.num_tasks=2,12", "select.budget=60,400,900", "seeds=[1]", "plan=true"
    )
    assert done.code == 0, done.said
    assert "13 cells (7 waiting, 6 infeasible)" in done.out
    assert "budget=400: any 2 tasks of the pool hold at most 1" in done.out
    assert "budget=900: the pool holds 576 rows" in done.out
    assert "embeddings of 1 pool(s), 1 set(s) of orderings" in done.out
    assert [path.name for path in tmp_path.iterdir()] == ["small.parquet"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["table=bugdet"], "Did you mean budget?"),
        (["table=budget", "select.fn=grafcut"], "Did you mean graphcut?"),
        (["table=budget", "select.bugdet=5"], "Did you mean budget?"),
        (["table=budget", "seeds=[]"], "seeds=[]"),
        (["table=budget", "train.batch_size=8,16"], "train.batch_size=8, 16: differs between cells"),
        (["table=budget", "run=select-00000000"], "the grid has no such run"),
    ],
)
def test_mistakes_are_told_before_any_work(
    reproduce: Callable[..., Done], tmp_path: Path, arguments: list[str], said: str
) -> None:
    done = reproduce(*arguments)
    assert done.code == 1
    assert said in done.err
    assert "Traceback" not in done.said
    assert not (tmp_path / "outputs" / "mixtures").exists()


def heldout(path: Path) -> Path:
    rows = [
        {"task_name": f"unseen{n % 2}", "inputs": f"Say {n}", "targets": f"word{n % 3}", "task_source": "s"}
        for n in range(12)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.full
def test_from_grid_to_report_and_only_what_is_missing(reproduce: Callable[..., Done], tmp_path: Path) -> None:
    grid = ["table=budget", "select.strategy=smart,examples_proportional", "seeds=[1,2]"]
    grid += [f"evaluate.suite.collection={heldout(tmp_path / 'unseen.parquet')}"]
    done = reproduce(*grid, "select.budget=60,900")
    assert done.code == 0, done.said
    assert done.out.count("infeasible") >= 3
    folder = tmp_path / "outputs/tables/budget"
    with (folder / "table.csv").open() as file:
        lines = list(csv.DictReader(file))
    scored = [line for line in lines if line["metric"] == "loss" and line["mean"]]
    assert [(line["select.budget"], line["tuned"]) for line in scored] == [
        ("60", "True"),
        ("60", "True"),
        ("", "False"),
    ]
    assert all(line["seeds"] == "2" for line in scored[:2])
    assert "Report: file://" in done.out
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [cell["state"] for cell in manifest["cells"]].count("done") == 5
    assert '<script id="tasks"' in (folder / "report.html").read_text()

    again = reproduce(*grid, "select.budget=60,900")
    assert again.out.count("0 to do") == 3
    one = manifest["cells"][0]["runs"][2]["folder"]
    (tmp_path / one / "manifest.json").unlink()
    (tmp_path / one / "samples.parquet").unlink()
    (tmp_path / one / "results.json").unlink()
    third = reproduce(*grid, "select.budget=60,900")
    assert "1 to do" in third.out
    assert third.code == 0, third.said
