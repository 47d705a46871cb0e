"""`accelerate launch train.py mixture=DIR model=mistral_7b`: a mixture becomes an adapter."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smart.cli.app import explain, log_so_far, run_command
from smart.config import Problems, UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from smart.runtime.tracking import Tracker
    from smart.training.job import Job

LOG_FILE = "train.log"
log = logging.getLogger(__name__)


def main() -> None:
    from smart.training.launch import refuse_sweep

    try:
        refuse_sweep(sys.argv[1:])
    except UserError as error:
        print(f"train: {explain(error)}", file=sys.stderr)
        sys.exit(1)
    run_command("train", train)


def train(config: DictConfig) -> Path | None:
    """Train what the configuration asks for, or find it trained; returns its folder."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from smart.runtime.files import make_writable
    from smart.runtime.locks import locked
    from smart.training import launch
    from smart.training.dry_run import plan
    from smart.training.run import is_finished, merge

    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    choices = {group: str(HydraConfig.get().runtime.choices[group]) for group in ("model", "tuning")}
    world = launch.world(plain["launch"], plain["num_processes"])
    if world.rank > 0:
        logging.getLogger().setLevel(logging.ERROR)
    job, tracker = _read(plain, world)
    if plain["fetch_only"]:
        _fetch(job)
        return None
    if plain["plan"]:
        _say(job, plan(job))
        return None
    folder = Path(
        plain["output"] or Path(plain["output_root"]) / "adapters" / f"{_stem(job, choices)}-{job.key[:8]}"
    )
    make_writable("output", folder.parent)
    if is_finished(folder, job.key, plain["overwrite"]):
        _say(job, "Trained before, from the same configuration and rows.")
        if job.options.merge and world.rank == 0:
            merge(job, folder, _models(plain))
        _say(job, _ending(folder))
        return folder
    if plain["launch"] and not launch.is_launched():
        launch.start(plain["launch"], world.size, world.gpu, HydraConfig.get().overrides.task)
        return folder
    with locked(folder.with_name(f".{folder.name}.lock")) if world.rank == 0 else contextlib.nullcontext():
        launch.wait_for_all(world)
        finished = is_finished(folder, job.key, plain["overwrite"])  # by another command meanwhile
        launch.wait_for_all(world)  # all have looked before the first writes
        if not finished:
            _train(job, folder, plain, choices, tracker)
    _say(job, _ending(folder))
    return folder


def _read(plain: dict[str, Any], world: Any) -> tuple[Job, Tracker]:
    from smart.model import ModelOptions, TuningOptions
    from smart.runtime.tracking import Tracker
    from smart.training.job import prepare
    from smart.training.options import TrainingOptions

    problems = Problems()
    if not plain["mixture"]:
        problems.add(
            "mixture", plain["mixture"], "needs a folder, file or hub name", "python select.py makes one"
        )
    tracker = Tracker(**plain["tracker"])
    tracker.validate(problems)
    problems.raise_if_any()
    targets = plain["model"]["lora_targets"]
    model = ModelOptions(**{**plain["model"], "lora_targets": None if targets is None else tuple(targets)})
    names = {field.name for field in dataclasses.fields(TrainingOptions)}
    options = TrainingOptions(**{key: value for key, value in plain.items() if key in names})
    return prepare(options, model, TuningOptions(**plain["tuning"]), str(plain["mixture"]), world), tracker


def _train(job: Job, folder: Path, plain: dict[str, Any], choices: dict[str, str], tracker: Tracker) -> None:
    from smart.runtime.files import write_atomic
    from smart.runtime.tracking import Run, flatten, track
    from smart.training.run import train as run_training

    before = job.mixture.manifest
    flat = flatten("select", before.get("config", {}), before.get("choices", {}))
    flat |= flatten("train", plain, choices)
    tracker = dataclasses.replace(tracker, group=tracker.group or job.mixture.name)
    root = Path(plain["output_root"])

    tracking: contextlib.AbstractContextManager[Run] = contextlib.nullcontext(Run())
    if job.world.rank == 0:
        tracking = track(tracker, job_type="train", name=folder.name, config=flat, folder=root / "wandb")
    with tracking as run:

        def watch(logs: dict[str, float], step: int) -> None:
            run.metrics({_metric(name): value for name, value in logs.items()}, step)

        trained = run_training(
            job, folder, _models(plain), watch, choices=choices, overwrite=plain["overwrite"]
        )
        if job.world.rank == 0:
            write_atomic(folder / LOG_FILE, log_so_far())
        if trained.interrupted:
            raise KeyboardInterrupt
        run.summary(trained.manifest["counts"])
        run.artifact(folder, "adapter", {"key": job.key})


def _models(plain: dict[str, Any]) -> Path:
    return Path(plain["output_root"]) / "cache" / "models"


def _metric(name: str) -> str:
    return name.replace("eval_", "eval/", 1) if name.startswith("eval_") else f"train/{name}"


def _fetch(job: Job) -> None:
    from smart.model.base import fetch

    fetch(job.base)
    _say(job, "Everything that this run needs from the hub is there.")


def _stem(job: Job, choices: dict[str, str]) -> str:
    model = choices["model"] if choices["model"] != "auto" else job.model.name.rstrip("/").rpartition("/")[2]
    return f"{job.mixture.name}-{model}-{choices['tuning']}"


def _say(job: Job, text: str) -> None:
    if job.world.rank == 0:
        print(text)


def _ending(folder: Path) -> str:
    return f"Adapter: {folder}\nNext:    python evaluate.py adapter={folder} suite=paper"


if __name__ == "__main__":
    main()
