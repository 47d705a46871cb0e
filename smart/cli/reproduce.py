"""`python reproduce.py table=budget`: a grid becomes runs, and runs become tables, figures and a report."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from smart.cli.app import run_command
from smart.config import UserError, conf_dir

if TYPE_CHECKING:
    import pyarrow as pa
    from omegaconf import DictConfig

    from smart.experiment.estimate import Texts
    from smart.experiment.execute import Runner
    from smart.experiment.grid import Grid
    from smart.experiment.report import TaskMap
    from smart.experiment.run_graph import Composed, Run, Study
    from smart.experiment.status import Ledger
    from smart.runtime.tracking import Tracker

log = logging.getLogger(__name__)


def main() -> None:
    sys.argv[1:] = gather_overrides(sys.argv[1:])
    run_command("reproduce", reproduce)


def gather_overrides(arguments: Sequence[str]) -> list[str]:
    """Keys with a stage before them, of which Hydra knows nothing here, become one list that it knows.

    >>> gather_overrides(["table=main", "select.budget=5k,10k"])
    ['table=main', "overrides=['select.budget=5k,10k']"]
    """
    from smart.experiment.grid import STAGES, spell

    mine = [
        argument for argument in arguments if argument.lstrip("+").startswith(tuple(f"{s}." for s in STAGES))
    ]
    rest = [argument for argument in arguments if argument not in mine]
    return [*rest, f"overrides={spell([argument.lstrip('+') for argument in mine])}"] if mine else rest


def reproduce(config: DictConfig) -> Path | None:
    """Run what is missing of the grid, and write its tables and report; returns their folder."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from smart.experiment.execute import PROGRAMS, Runner, run_missing
    from smart.experiment.grid import spell
    from smart.experiment.reference import read_reference
    from smart.experiment.run_graph import build
    from smart.experiment.scores import check_metrics
    from smart.experiment.status import Ledger
    from smart.runtime.files import ContentHashes

    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    root = Path(plain["output_root"])
    grid = _grid(plain, str(HydraConfig.get().runtime.choices["table"]), root)
    remembered = None if plain["plan"] else root / "cache" / "content"  # a plan writes nothing
    study = build(grid, compose, root, _versions(), ContentHashes(remembered))
    check_metrics(plain["metrics"], [study.configs[cell.last.id]["suite"] for cell in study.cells])
    read_reference(plain["reference"], grid)  # for its errors: after all runs is late
    ledger = Ledger(root / "logs" / f"table-{grid.name}")
    tracker = _tracker(plain["tracker"], grid.name)
    common = [f"output_root={spell(str(root))}"]
    common += [f"tracker.{key}={spell(value)}" for key, value in asdict(tracker).items()]
    common += [f"threads={plain['threads']}"] if plain["threads"] else []
    runner = Runner(ledger, common, PROGRAMS)
    if plain["run"]:
        return _run_one(study, runner, str(plain["run"]))
    if plain["plan"]:
        print(_plan(study, ledger, plain, root))
        return None
    if plain["fetch_only"]:
        _fetch(study, common)
        return None
    if plain["heldout"]:
        _write_heldout(plain["heldout"], heldout_file(plain["heldout"], root))
    run_missing(study, ledger, _starter(runner), print)
    return _tell(study, ledger, plain, root, tracker)


def _tracker(options: dict[str, Any], name: str) -> Tracker:
    """Each grid is a group of runs."""
    from smart.config import Problems
    from smart.runtime.tracking import Tracker

    tracker = Tracker(**{**options, "group": options["group"] or name})
    problems = Problems()
    tracker.validate(problems)
    problems.raise_if_any()
    return tracker


def _grid(plain: dict[str, Any], name: str, root: Path) -> Grid:
    from smart.experiment.grid import Grid

    settings = {**plain["grid"], **parse_overrides(plain["overrides"])}
    if plain["heldout"]:
        settings.setdefault("evaluate.suite.collection", str(heldout_file(plain["heldout"], root)))
    untuned = plain["base_model"] or plain["fetch_only"]
    return Grid.of(name, settings, seeds=plain["seeds"], baseline=plain["baseline"], base_model=untuned)


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Key → value, or a list where several are swept.

    >>> parse_overrides(["select.budget=5k,10k", "train.epochs=2"])
    {'select.budget': ['5k', '10k'], 'train.epochs': 2}
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import QuotedString

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(item) for item in value]
        return value.text if isinstance(value, QuotedString) else value

    found: dict[str, Any] = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        if override.is_sweep_override():
            found[override.key_or_group] = [plain(value) for value in override.sweep_iterator()]
        else:
            found[override.key_or_group] = plain(override._value)
    return found


_composed: dict[tuple[str, tuple[str, ...]], Composed] = {}


def compose(stage: str, overrides: tuple[str, ...]) -> Composed:
    """What the stage's own command would compose.

    Raises:
        UserError, or Hydra's errors: for keys and choices that do not exist.
    """
    if (stage, overrides) not in _composed:
        from hydra.utils import get_object
        from omegaconf import OmegaConf

        from smart.experiment.run_graph import Composed

        config = _load(stage, overrides, return_hydra_config=True)
        choices = {str(key): str(value) for key, value in config.hydra.runtime.choices.items()}
        plain: dict[str, Any] = OmegaConf.to_container(
            OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]), resolve=False
        )  # type: ignore[assignment]
        functions = [plain[axis]["_target_"] for axis in ("fn", "instance_fn") if axis in plain]
        drawn = any(not getattr(get_object(name), "needs_vectors", True) for name in functions)
        drawn = drawn or plain.get("optimizer") == "partition"
        _composed[stage, overrides] = Composed(plain, choices, drawn)
    return _composed[stage, overrides]


def _load(name: str, overrides: Sequence[str], return_hydra_config: bool = False) -> DictConfig:
    from hydra import compose as compose_config
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    here = GlobalHydra.instance().is_initialized()  # not so in a launcher's worker
    with nullcontext() if here else initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose_config(name, list(overrides), return_hydra_config=return_hydra_config)


def _versions() -> dict[str, int]:
    from smart.cli.select import VERSION as SELECT
    from smart.evaluation.run import VERSION as EVALUATE
    from smart.training.job import VERSION as TRAIN

    return {"select": SELECT, "train": TRAIN, "evaluate": EVALUATE}


def _run_one(study: Study, runner: Runner, name: str) -> Path:
    """What a launcher's job does: one run of the plan.

    Raises:
        UserError: if there is none of the name, or it fails.
    """
    from smart.config import nearest
    from smart.experiment.status import State

    runs = {run.id: run for run in study.runs}
    if name not in runs:
        raise UserError(f"run={name}: the grid has no such run. {nearest(name, runs)}")
    state = runner.run(runs[name])
    if state is not State.DONE:
        raise UserError(
            f"{runs[name].name}: {state}; {runner.ledger.log(runs[name])} ends with\n{runner.ledger.tail(runs[name])}"
        )
    return runs[name].folder


def _starter(runner: Runner) -> Callable[[Sequence[Run]], None]:
    """One after the other; or, where the command line names a launcher, as a sweep of this command over runs."""
    from hydra.core.hydra_config import HydraConfig

    from smart.experiment.execute import one_after_the_other

    hydra = HydraConfig.get()
    launcher = [o for o in hydra.overrides.hydra if o.startswith(("hydra/launcher", "hydra.launcher"))]
    if not launcher:
        return one_after_the_other(runner, print)
    # `output` is the table's folder, and no job's.
    task = [word for word in hydra.overrides.task if not word.startswith("output=")]
    # A folder of the user's own grids has to be known there, too.
    own = [f"--config-dir={s.path}" for s in hydra.runtime.config_sources if s.provider == "command-line"]

    def start(runs: Sequence[Run]) -> None:
        program = [sys.executable, "-c", "from smart.cli.reproduce import main; main()"]
        which = f"run={','.join(run.id for run in runs)}"
        subprocess.run([*program, *own, "-m", *launcher, *task, which], check=False)

    return start


def _fetch(study: Study, common: Sequence[str]) -> None:
    """Download what the first stages read, each pool, model and suite once; models are scored untuned, too.

    Raises:
        UserError: if something cannot be had.
    """
    from smart.experiment.dry_run import pool_of
    from smart.experiment.execute import PROGRAMS

    first = {
        (run.stage, pool_of(run) if run.stage == "select" else run.overrides): run
        for run in study.runs
        if not run.source
    }
    for run in first.values():
        command = [*PROGRAMS[run.stage], *run.overrides, *common, "fetch_only=true"]
        done = subprocess.run(command, check=False)
        if done.returncode:
            raise UserError(
                f"{run.name}: something that it reads could not be fetched; what it said is above"
            )


def heldout_file(options: dict[str, Any], root: Path) -> Path:
    from smart.runtime.manifest import make_key

    return root / "cache" / "heldout" / f"tasks-{make_key(options, [], 1)[:8]}.parquet"


def _write_heldout(options: dict[str, Any], path: Path) -> None:
    import pyarrow.parquet as pq

    from smart.runtime.files import atomic_file
    from smart.runtime.locks import locked

    with locked(path.with_suffix(".lock")):
        if not path.exists():
            rows = _heldout_rows(options)
            with atomic_file(path) as draft:
                pq.write_table(rows, draft)


def _heldout_rows(options: dict[str, Any]) -> pa.Table:
    """Rows of unseen tasks, zero-shot alone, in the columns that suite=heldout reads."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from hydra.utils import instantiate

    from smart.collection import load

    rows = load(instantiate(options)).train
    rows = rows.filter(pc.starts_with(rows["template_type"].cast(pa.string()), "zs"))
    names = {
        "inputs": "inputs",
        "targets": "targets",
        "task_name": "task_name",
        "submixture": "task_source",
    }
    return pa.table({ours: rows[theirs].cast(pa.string()) for theirs, ours in names.items()})


def _plan(study: Study, ledger: Ledger, plain: dict[str, Any], root: Path) -> str:
    """What the grid would do and cost; writes nothing."""
    import torch

    from smart.experiment.dry_run import Basis, outlook
    from smart.runtime.speed import is_gpu_here, measure

    if plain["threads"]:
        torch.set_num_threads(plain["threads"])
    pools: dict[str, Any] = {}
    impossible = infeasible(study, root, pools)
    texts = _known_texts(study, plain, root, pools)
    dtypes = [(study.configs[run.id].get("tuning") or {}).get("dtype") for run in study.runs]
    speed = measure(next(filter(None, dtypes), "bfloat16"))
    return outlook(study, ledger, impossible, Basis(texts, speed, is_gpu_here()))


def _known_texts(study: Study, plain: dict[str, Any], root: Path, pools: dict[str, Any]) -> dict[str, Texts]:
    """The rows that runs read, where they lie here or cost little to make."""
    from smart.experiment.dry_run import pool_of
    from smart.experiment.estimate import Texts
    from smart.experiment.lengths import heldout_texts, mixture_texts
    from smart.experiment.status import is_done

    found: dict[str, Texts] = {}
    known: dict[str, Texts] = {}
    ordered: set[tuple[str, ...]] = set()
    heldout = _heldout_table(study, plain, root)
    for run in study.runs:
        config = study.configs[run.id]
        source = study.configs[run.source.id] if run.source else {}
        model = config.get("model") or source.get("model") or {}
        if run.stage == "select" and run.id in pools:
            orders = pool_of(run, ("instance_fn",))
            drawn = all(str(config[axis]["_target_"]).endswith("Random") for axis in ("fn", "instance_fn"))
            sizes = np.diff(pools[run.id].groups.offsets).tolist()
            found[run.id] = Texts(sizes, made=drawn or orders in ordered)
            ordered |= set() if drawn else {orders}
        elif run.stage == "train" and run.source and is_done(run.source):
            name = repr([run.source.id, model])
            known[name] = known.get(name) or mixture_texts(run.source.folder, model)
            found[run.id] = known[name]
        elif run.stage == "evaluate" and heldout is not None:
            known[repr(model)] = known.get(repr(model)) or heldout_texts(heldout, model)
            found[run.id] = known[repr(model)]
    return found


def _heldout_table(study: Study, plain: dict[str, Any], root: Path) -> pa.Table | None:
    """Unseen tasks of the grid: those of `heldout`, or of the file that the suite names; None without them."""
    import pyarrow.parquet as pq

    named = [(study.configs[run.id].get("suite") or {}).get("collection") for run in study.runs]
    files = {str(name) for name in named if name}
    if len(files) == 1 and (file := Path(files.pop())).is_file():
        return pq.read_table(file, columns=["inputs", "targets", "task_name"])
    return _heldout_rows(plain["heldout"]) if plain["heldout"] else None


def infeasible(study: Study, root: Path, seen: dict[str, Any]) -> dict[str, str]:
    """Of each selection whose pool can be read here: why it cannot be made, if it cannot.

    Args:
        seen: is given each selection's pool.
    """
    from smart.experiment.status import is_done
    from smart.selection import steps

    found: dict[str, str] = {}
    pools: dict[str, Any] = {}
    for run in study.runs:
        if run.stage != "select" or is_done(run):
            continue
        try:
            request, pool = _pool(run, root, pools)
        except (UserError, OSError) as error:  # a pool that is not here yet says nothing
            log.info("%s: its pool cannot be read here (%s)", run.id, str(error).splitlines()[0])
            continue
        seen[run.id] = pool
        try:
            num_tasks, budget = steps.check_sizes(request, pool)
        except UserError as error:
            found[run.id] = str(error)
            continue
        held = int(np.sort(pool.groups.sizes.sum(axis=1))[-num_tasks:].sum())
        if budget > held:
            found[run.id] = (
                f"budget={request.budget.text}: any {num_tasks} tasks of the pool hold at most {held:,} rows"
            )
    return found


def _pool(run: Run, root: Path, pools: dict[str, Any]) -> tuple[Any, Any]:
    """The request of a selection and its pool; each pool is read once."""
    from smart.experiment.grid import spell
    from smart.selection.config import read_request
    from smart.selection.pool import read_pool

    own = [*run.overrides, f"output_root={spell(str(root))}"]
    # A plan writes nothing, but a collection that is kept already may be read.
    own += [] if (root / "cache/collections").exists() else ["plan=true"]
    request = read_request(_load("select", own), compose("select", run.overrides).choices)
    name = repr(
        [
            request.config[key]
            for key in (
                "collection",
                "tokenizer",
                "max_length",
                "decontaminate",
                "benchmark_data",
                "heldout_data",
            )
        ]
    )
    if name not in pools:
        pools[name] = read_pool(request)
    return request, pools[name]


def _task_map(study: Study, root: Path) -> TaskMap | None:
    """Where the tasks of the first finished selection with vectors lie; None where there is none."""
    from smart.experiment.report import TaskMap
    from smart.experiment.status import is_done
    from smart.mixture.figures import project
    from smart.selection import steps

    for run in study.runs:
        if run.stage == "select" and is_done(run):
            request, pool = _pool(run, root, {})
            made = steps.make_vectors(request, pool)
            if made is not None and len(pool.groups.tasks) > 1:
                return TaskMap(["/".join(task) for task in pool.groups.tasks], *project(made[1].task_means))
    return None


def _tell(study: Study, ledger: Ledger, plain: dict[str, Any], root: Path, tracker: Tracker) -> Path:
    """Write the results, and say what they are.

    Raises:
        UserError: after all is written, if a cell failed.
    """
    from smart.experiment.render import markdown
    from smart.experiment.results import read_table, write_results
    from smart.experiment.status import State, cell_state
    from smart.runtime.locks import locked
    from smart.runtime.tracking import track

    table = read_table(study, ledger, plain)
    folder = Path(plain["output"] or root / "tables" / study.grid.name)
    command = _command(plain["overrides"])
    with locked(folder.with_name(f".{folder.name}.lock")):
        write_results(folder, study, ledger, table, _task_map(study, root), command)
    text = markdown(table)
    config = {"title": table.title, "seeds": list(study.grid.seeds), **study.grid.fixed, **study.grid.axes}
    with track(
        tracker, job_type="table", name=f"table-{study.grid.name}", config=config, folder=root / "wandb"
    ) as run:
        run.table("scores", table.head(), [table.line(row) for row in table.rows])
        run.figures(folder / "figures")
        run.artifact(folder, "table", {})
    print(f"\n{text}\nTable:  {folder}\nReport: {(folder / 'report.html').resolve().as_uri()}")
    states = [cell_state(cell, ledger) for cell in study.cells]
    if bad := states.count(State.FAILED):
        raise UserError(
            f"{bad} of {len(states)} cells failed; the same command tries those again. Logs: {ledger.logs}"
        )
    if left := states.count(State.WAITING):
        raise UserError(
            f"{left} of {len(states)} cells were not run: the launcher ended before it started them, and what it said"
            " is above; the same command goes on"
        )
    more = "seeds=[1,2,3]" if len(study.grid.seeds) < 2 else "plan=true"
    print(f"Next:   {_command(plain['overrides'], more)}")
    return folder


def _command(overrides: Sequence[str], *more: str) -> str:
    """What the user typed, or could have; `more` takes the place of what was said of the same keys."""
    import shlex

    from hydra.core.hydra_config import HydraConfig

    given = [word for word in HydraConfig.get().overrides.task if not word.startswith("overrides=")]
    other = tuple(word.partition("=")[0] + "=" for word in more)
    words = [word for word in (*given, *overrides) if not word.startswith(other)]
    return shlex.join(["python", "reproduce.py", *words, *more])
