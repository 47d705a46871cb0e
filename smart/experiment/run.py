"""A grid becomes runs of the stages, and runs become tables, figures and a report."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from smart.benchmarks.heldout import read_heldout
from smart.benchmarks.suites import check_tasks
from smart.config import UserError, counted, nearest
from smart.config.command_line import literal
from smart.evaluation.heldout import METRICS as HELDOUT_METRICS
from smart.evaluation.job import VERSION as EVALUATE
from smart.experiment.config import ReproduceConfig
from smart.experiment.dry_run import Basis, describe_plan
from smart.experiment.execute import PROGRAMS, Runner, one_after_the_other, run_missing
from smart.experiment.heldout import heldout_file, heldout_rows, write_heldout
from smart.experiment.lengths import known_texts
from smart.experiment.pools import Pools, infeasible, task_map
from smart.experiment.reference import read_reference
from smart.experiment.render import DIFFERENCES, Table, differences, markdown
from smart.experiment.results import read_table, write_results
from smart.experiment.run_graph import StageRun, Study, build
from smart.experiment.scores import check_metrics, known_parts
from smart.experiment.stage_configs import compose_stage
from smart.experiment.status import RunLog, Status, cell_status
from smart.runtime.content import ContentHashes
from smart.runtime.hub import offline
from smart.runtime.locks import owned
from smart.runtime.manifest import read_manifest
from smart.runtime.plans import writing_nothing
from smart.runtime.speed import is_gpu_here, measure
from smart.runtime.tracking import track
from smart.selection.keys import VERSION as SELECT
from smart.training.job import VERSION as TRAIN

VERSIONS = {"select": SELECT, "train": TRAIN, "evaluate": EVALUATE}
Tell = Callable[[str], None]
"""Says a line to the user."""


@dataclass(frozen=True)
class Reproduction:
    """A grid whose runs are known, and what is done of them."""

    config: ReproduceConfig
    study: Study
    run_log: RunLog

    @cached_property
    def runner(self) -> Runner:
        """Runs stages by their commands."""
        return Runner(self.run_log, self.common, PROGRAMS)

    @property
    def common(self) -> list[str]:
        """Arguments of every stage: the user's own configurations, where artifacts go, how runs are tracked."""
        tracker = asdict(self.config.tracker) | {"group": self.config.tracker.group or self.config.name}
        words = [f"--config-dir={folder}" for folder in self.config.composed.config_dirs]
        words += [f"output_root={literal(self.config.output_root)}"]
        words += [f"tracker.{key}={literal(value)}" for key, value in tracker.items()]
        return words + ([f"threads={self.config.threads}"] if self.config.threads else [])


def prepare(config: ReproduceConfig) -> Reproduction:
    """Compose every stage of every cell, and check what can be checked before a run.

    Raises:
        ConfigError: for keys, values, metrics and references that cannot be used.
    """
    heldout = str(heldout_file(config.heldout, config.output_root)) if config.heldout else None
    grid = config.make_grid(heldout)
    remembered = None if config.plan else config.output_root / "cache" / "content"  # a plan writes nothing
    study = build(grid, compose_stage, config.output_root, VERSIONS, ContentHashes(remembered))
    suites = [study.config(cell.last)["suite"] for cell in study.cells]
    check_metrics(config.metrics, suites)
    check_tasks(sorted({name for suite in suites for name in suite["tasks"]} - set(HELDOUT_METRICS)))
    read_reference(config.reference, grid, known_parts(suites))  # for its errors: after all runs is late
    return Reproduction(config, study, RunLog(config.output_root / "logs" / f"table-{grid.name}"))


def reproduce(config: ReproduceConfig, tell: Tell = print) -> Path:
    """Run what is missing of the grid, and write its tables and report; returns their folder.

    Raises:
        UserError: after all is written, if a cell failed or was not run.
    """
    made = prepare(config)
    if config.heldout:
        write_heldout(config.heldout, config.output_root)
    run_missing(made.study, made.run_log, _starter(made, tell), tell)
    table = read_table(made.study, made.run_log, config)
    folder = config.output or config.output_root / "tables" / made.study.grid.name
    with owned(folder):
        tasks = task_map(made.study, Pools(config.output_root))
        write_results(folder, made.study, made.run_log, table, tasks, config)
    _track(config, made.study, table, folder)
    tell(f"\n{markdown(table)}\nTable:  {folder}\nReport: {(folder / 'report.html').resolve().as_uri()}")
    _check_cells(made)
    more = "seeds=[1,2,3]" if len(made.study.grid.seeds) < 2 else "plan=true"
    tell(f"Next:   {config.command(more)}")
    return folder


def run_one(config: ReproduceConfig) -> Path:
    """What a launcher's job does: the run of the plan that `config.run` names; returns its folder.

    Raises:
        UserError: if there is none of the name, or it fails.
    """
    made, name = prepare(config), str(config.run)
    runs = {run.id: run for run in made.study.runs}
    if name not in runs:
        raise UserError(f"run={name}: the grid has no such run. {nearest(name, runs)}")
    status = made.runner.run(runs[name])
    if status is not Status.DONE:
        raise UserError(
            f"{runs[name].name}: {status}; {made.run_log.log(runs[name])} ends with\n{made.run_log.tail(runs[name])}"
        )
    return runs[name].folder


def plan(config: ReproduceConfig) -> str:
    """What the grid would do and cost, as text; writes nothing, and downloads nothing."""
    made = prepare(config)
    if config.threads:
        import torch

        torch.set_num_threads(config.threads)
    reader = Pools(config.output_root)
    with offline(), writing_nothing():
        pools = reader.of_study(made.study)
        texts = known_texts(made.study, pools, _heldout_table(made))
    dtypes = [(made.study.config(run).get("tuning") or {}).get("dtype") for run in made.study.runs]
    speed = measure(next(filter(None, dtypes), "bfloat16"))
    basis = Basis(texts, speed, is_gpu_here(), reader.unread)
    return describe_plan(made.study, made.run_log, infeasible(pools), basis)


def fetch(config: ReproduceConfig) -> None:
    """Download what the first stages read: each pool with its vectors, model and suite once.

    Raises:
        UserError: if something cannot be had.
    """
    made = prepare(config)
    for run in runs_to_fetch(made.study):
        command = [*PROGRAMS[run.stage], *run.overrides, *made.common, "fetch_only=true"]
        if subprocess.run(command, check=False).returncode:
            raise UserError(
                f"{run.name}: something that it reads could not be fetched; what it said is above"
            )


def runs_to_fetch(study: Study) -> list[StageRun]:
    """The runs that between them read everything that a grid reads from the hub.

    A selection that needs vectors fetches its pool and its encoder; one that needs none, its pool alone.
    """
    first = [run for run in study.runs if not run.source]
    with_vectors: dict[str, StageRun] = {}
    pools: dict[str | None, StageRun] = {}
    others: dict[tuple[str, ...], StageRun] = {}
    for run in first:
        config = study.configs[run.id]
        if run.stage != "select":
            others.setdefault(run.overrides, run)
        elif config.vectors:
            with_vectors.setdefault(config.vectors, run)
        else:
            pools.setdefault(config.pool, run)
    read = {study.configs[run.id].pool for run in with_vectors.values()}
    alone = [run for pool, run in pools.items() if pool not in read]
    return [*with_vectors.values(), *alone, *others.values()]


def _starter(made: Reproduction, tell: Tell) -> Callable[[Sequence[StageRun]], None]:
    """One after the other; or, where the command line names a launcher, as a sweep of this command over runs."""
    composed = made.config.composed
    launcher = [o for o in composed.hydra_overrides if o.startswith(("hydra/launcher", "hydra.launcher"))]
    if not launcher:
        return one_after_the_other(made.runner, tell)
    # `output` is the table's folder, and no job's.
    words = [word for word in composed.overrides if not word.startswith("output=")]
    # A folder of the user's own grids has to be known there, too.
    own = composed.flags

    def start(runs: Sequence[StageRun]) -> None:
        program = [sys.executable, "-c", "from smart.cli.reproduce import main; main()"]
        which = f"run={','.join(run.id for run in runs)}"
        subprocess.run([*program, *own, "-m", *launcher, *words, which], check=False)

    return start


def _heldout_table(made: Reproduction) -> pa.Table | None:
    """Unseen tasks of the grid: those of `heldout`, or of the file that the suite names; None without them."""
    configs = [made.study.config(run) for run in made.study.runs]
    files = {str(name) for config in configs if (name := (config.get("suite") or {}).get("collection"))}
    if len(files) == 1 and (file := Path(files.pop())).is_file():
        return read_heldout(file, "evaluate.suite.collection")
    return heldout_rows(made.config.heldout) if made.config.heldout else None


def _track(config: ReproduceConfig, study: Study, table: Table, folder: Path) -> None:
    """Each grid is a group of runs."""
    tracker = replace(config.tracker, group=config.tracker.group or study.grid.name)
    said = {"title": table.title, "seeds": list(study.grid.seeds), **study.grid.fixed, **study.grid.axes}
    name, wandb = f"table-{study.grid.name}", config.output_root / "wandb"
    key = (read_manifest(folder) or {}).get("key", name)
    with (
        track(tracker, job_type="table", name=name, config=said, folder=wandb, key=key) as run,
        run.only_warns(),
    ):
        run.table("scores", table.head(), [table.line(row) for row in table.rows])
        run.table("differences", [*DIFFERENCES[:-1], "verdict"], differences(table))
        run.figures(folder / "figures")
        run.artifact(folder, "table", {})


def _check_cells(made: Reproduction) -> None:
    statuses = [cell_status(cell, made.run_log) for cell in made.study.cells]
    if bad := statuses.count(Status.FAILED):
        raise UserError(
            f"{bad} of {counted(len(statuses), 'cell')} failed; the same command tries those"
            f" again. Logs: {made.run_log.logs}"
        )
    if left := statuses.count(Status.WAITING):
        raise UserError(
            f"not run: {left} of {counted(len(statuses), 'cell')}; the launcher ended before it started them, and"
            " what it said is above; the same command goes on"
        )
