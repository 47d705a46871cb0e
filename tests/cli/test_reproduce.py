"""The command: keys with a stage, every table that comes with it, plans, and one study from end to end."""

from __future__ import annotations

import csv
import html
import json
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from smart.config import conf_dir
from smart.experiment.config import parse_overrides
from smart.experiment.grid import Grid, gather_overrides
from smart.experiment.run_graph import build
from smart.experiment.stage_configs import compose_stage
from tests.commands import Done
from tests.experiment.examples import fakes, scores

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
        study = build(grid, compose_stage, tmp_path, {})
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
    assert "budget=400: any 2 tasks of the pool can give at most 1" in done.out
    assert "budget=900: the pool holds 576 rows" in done.out
    assert "embeddings of 1 pool, 1 set of orderings" in done.out
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
        (["table=budget", "metrics=[heldout_los/loss]"], "Did you mean heldout_loss?"),
        (["table=budget", "reference=nowhere.csv"], "reference=nowhere.csv: cannot be read"),
    ],
)
def test_mistakes_are_told_before_any_work(
    reproduce: Callable[..., Done], tmp_path: Path, arguments: list[str], said: str
) -> None:
    # A grid of one cell: what is wrong is told before any other.
    done = reproduce("select.budget=60", "select.strategy=equal", *arguments)
    assert done.code == 1
    assert said in done.err
    assert "Traceback" not in done.said
    assert not (tmp_path / "outputs" / "mixtures").exists()


MINE = """\
# @package _global_
# python reproduce.py --config-dir=FOLDER table=mine
title: My own study
grid:
  select.strategy: [smart, equal]
  select.budget: [60, 120]
  train.epochs: 1
  evaluate.suite: smoke
seeds: [1, 2, 3]
baseline: {select.strategy: equal}
base_model: false
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments for a user's own grid; its stages are fakes, which hand on files made by hand."""
    (tmp_path / "grids" / "table").mkdir(parents=True)
    (tmp_path / "grids" / "table" / "mine.yaml").write_text(MINE)
    scores(tmp_path / "made-evaluate", 0.5, 1, items=30)
    (tmp_path / "made-select").mkdir()
    head = "submixture,task_name,order,gain,weight,size,budget"
    lines = [f"a,task{n},{n},{3 - n},0.5,{n + 5},{n + 1}" for n in range(3)]
    (tmp_path / "made-select" / "tasks.csv").write_text("\n".join([head, *lines]) + "\n")
    monkeypatch.setenv("TRAPS", str(tmp_path))
    monkeypatch.setattr("smart.experiment.run.PROGRAMS", fakes(tmp_path))
    return [f"--config-dir={tmp_path / 'grids'}", "table=mine"]


def test_a_users_own_grid_is_one_yaml_of_a_dozen_lines(
    reproduce: Callable[..., Done], own: list[str], tmp_path: Path
) -> None:
    done = reproduce(*own)
    assert done.code == 0, done.said
    folder = tmp_path / "outputs/tables/mine"
    assert {"table.md", "table.tex", "table.csv", "report.html", "figures", "manifest.json"} <= {
        path.name for path in folder.iterdir()
    }
    assert "# My own study" in (folder / "table.md").read_text()
    assert f"Report: {(folder / 'report.html').as_uri()}" in done.out
    assert len(MINE.splitlines()) <= 12
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [cell["state"] for cell in manifest["cells"]] == ["done"] * 12
    commands = re.findall(r"python reproduce\.py[^<]*", (folder / "report.html").read_text())
    assert commands
    assert all(own[0] in html.unescape(command) for command in commands)


def test_table_and_figures_go_to_a_summary_run_of_the_grids_group(
    reproduce: Callable[..., Done], own: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from contextlib import contextmanager

    from smart.runtime import tracking

    seen: dict[str, object] = {}

    class Recorder(tracking.TrackedRun):
        def table(self, name: str, columns: object, rows: object) -> None:
            seen[name] = columns, rows

        def figures(self, folder: Path) -> None:
            seen["figures"] = sorted(path.stem for path in folder.glob("*.png"))

    @contextmanager
    def track(tracker: tracking.Tracker, **about: object):  # type: ignore[no-untyped-def]
        seen.update(about, group=tracker.group)
        yield Recorder()

    monkeypatch.setattr("smart.experiment.run.track", track)
    assert reproduce(*own).code == 0
    assert (seen["job_type"], seen["group"]) == ("table", "mine")
    columns, rows = seen["scores"]  # type: ignore[misc]
    assert columns[:2] == ["budget", "strategy"]
    assert len(rows) == 4
    assert {"scores", "budget", "gains"} <= set(seen["figures"])  # type: ignore[call-overload]
    calls = (tmp_path / "arguments").read_text().splitlines()
    assert all("tracker.group=mine" in call for call in calls), "each stage is a run of the group"
    assert not any(call.endswith(" 1") for call in calls), "a stage's error is one line, without a traceback"


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "submitit_slurm"])
def test_launchers_compose(launcher: str) -> None:
    pytest.importorskip("submitit" if "submitit" in launcher else "joblib")
    from hydra import compose as compose_config
    from hydra import initialize_config_dir

    chosen = ["table=main", f"hydra/launcher={launcher}"]
    chosen += ["hydra.launcher.gpus_per_node=1"] if launcher == "submitit_slurm" else []
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose_config("reproduce", chosen, return_hydra_config=True)
    assert launcher.split("_")[-1] in str(config.hydra.launcher._target_).lower()


@pytest.mark.full
@pytest.mark.parametrize("launcher", [["joblib", "hydra.launcher.n_jobs=2"], ["submitit_local"]])
def test_runs_go_through_a_launcher(
    reproduce: Callable[..., Done], tmp_path: Path, launcher: list[str]
) -> None:
    pytest.importorskip(launcher[0].split("_")[0])
    own = tmp_path / "grids" / "table"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text(MINE)
    grid = [f"--config-dir={own.parent}", "table=mine", "select.budget=60", "seeds=[1]"]
    grid += [f"evaluate.suite.collection={heldout(tmp_path / 'unseen.parquet')}"]
    done = reproduce(*grid, f"hydra/launcher={launcher[0]}", *launcher[1:], "output=outputs/here")
    assert done.code == 0, done.said
    assert "seeds=[1,2,3]" in done.out.rpartition("Next:")[2]
    assert "seeds=[1]" not in done.out.rpartition("Next:")[2]
    manifest = json.loads((tmp_path / "outputs/here/manifest.json").read_text())
    assert [cell["state"] for cell in manifest["cells"]] == ["done"] * 2


def test_a_launcher_that_starts_nothing_is_an_error(reproduce: Callable[..., Done], tmp_path: Path) -> None:
    pytest.importorskip("joblib")
    grid = ["table=budget", "select.budget=60", "select.strategy=equal", "seeds=[1]", "base_model=false"]
    done = reproduce(*grid, "hydra/launcher=joblib", "hydra.launcher.n_jobs=0")
    assert done.code == 1
    assert "not run: 1 of 1 cell; the launcher ended" in done.err
    assert (tmp_path / "outputs/tables/budget/table.md").is_file()


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
