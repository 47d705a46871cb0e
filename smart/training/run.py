"""A mixture and a base model become an adapter: found finished, resumed, or trained."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from smart.config import UserError
from smart.model.base import fetch as fetch_model
from smart.runtime import processes
from smart.runtime.files import make_writable, real
from smart.runtime.hub import NotHere, from_cache_first, offline
from smart.runtime.locks import owned
from smart.runtime.manifest import Artifact
from smart.runtime.names import file_stem
from smart.runtime.tracking import TrackedRun, flatten, is_unlogged, track
from smart.training import launch
from smart.training.config import TrainConfig
from smart.training.data import read_mixture
from smart.training.dry_run import describe_mixture, describe_plan
from smart.training.fit import HISTORY, fit, is_finished, merge, tidy
from smart.training.job import TrainingJob, prepare
from smart.training.moments import FILE as MOMENTS


@dataclass(frozen=True)
class TrainedAdapter(Artifact):
    """A folder with an adapter, or with a whole model after full tuning."""

    found: bool = False
    """It was there already."""
    launched: bool = False
    """Processes of its own have made it, and said so."""


def train(config: TrainConfig) -> TrainedAdapter:
    """Train what the configuration asks for, or find it trained; on as many processes as call this.

    Raises:
        UserError: for a model, a mixture or a folder that cannot be used, or a loss that is not finite.
        KeyboardInterrupt: after a signal; the same call resumes.
    """
    job = prepare_job(config)
    folder = config.output or config.output_root / "adapters" / f"{_stem(job)}-{job.key[:8]}"
    folder = real(folder)
    make_writable("output", folder.parent)
    starts = config.launch is not None and not processes.is_launched()
    if starts and not is_finished(folder, job.key, config.overwrite):
        launch.start(job.world, (*config.composed.flags, *config.composed.overrides))
        return TrainedAdapter(folder, launched=True)
    group = processes.Processes() if starts else launch.join_group(job.world, config.ddp_timeout)
    with owned(folder) if group.rank == 0 else contextlib.nullcontext():
        launch.check_agreement(job.key, folder, group)
        # One looks, under the lock: what the others saw might be another command's work of a moment before or after.
        if not group.of_main(lambda: is_finished(folder, job.key, config.overwrite)):
            _fit_and_track(job, folder)
            return TrainedAdapter(folder)
        if config.keep_moments and not (folder / MOMENTS).is_file():
            raise UserError(
                f"keep_moments=true: {folder} was trained before, without keeping them, and only training knows them:"
                " train again with overwrite=true, or another output=FOLDER"
            )
        if group.rank == 0:
            tidy(folder)
            if config.merge:
                merge(job, folder)
            _catch_up(job, TrainedAdapter(folder))
    return TrainedAdapter(folder, found=True)


def plan(config: TrainConfig) -> str:
    """What the training would do and cost, as text; loads no weights."""
    try:
        return from_cache_first(lambda: describe_plan(prepare_job(config)))
    except NotHere as error:
        with offline():
            return describe_mixture(config, read_mixture(config.mixture, config.bad_rows), error)


def fetch(config: TrainConfig) -> None:
    """Download the base model, for machines without a network."""
    fetch_model(prepare_job(config).base)


def prepare_job(config: TrainConfig) -> TrainingJob:
    """The job on the processes that take part; those beside the main one only log errors."""
    processes.quieten_others()
    return prepare(config, launch.world(config))


def _fit_and_track(job: TrainingJob, folder: Path) -> None:
    with _tracked(job, folder) if job.world.rank == 0 else contextlib.nullcontext(TrackedRun()) as run:

        def watch(logs: dict[str, float], step: int) -> None:
            _log_step(run, logs, step)

        fitted = fit(job, folder, watch)
        if fitted.interrupted:
            raise KeyboardInterrupt
        run.summary(fitted.manifest["counts"])
        run.artifact(folder, "adapter", {"key": job.key})


def _tracked(job: TrainingJob, folder: Path) -> contextlib.AbstractContextManager[TrackedRun]:
    config, before = job.config, job.mixture.manifest
    flat = flatten("select", before.get("config", {}), before.get("choices", {}))
    flat |= flatten("train", config.composed.values, config.choices)
    tracker = dataclasses.replace(config.tracker, group=config.tracker.group or job.mixture.name)
    wandb = config.output_root / "wandb"
    return track(tracker, job_type="train", name=folder.name, config=flat, folder=wandb, key=job.key)


def _catch_up(job: TrainingJob, adapter: TrainedAdapter) -> None:
    """Log a training that was finished, but never logged, from its history."""
    wandb = job.config.output_root / "wandb"
    if not is_unlogged(job.config.tracker, job_type="train", folder=wandb, key=job.key):
        return
    with _tracked(job, adapter.path) as run, run.only_warns():
        for line in (adapter.path / HISTORY).read_text(encoding="utf-8").splitlines():
            logs = json.loads(line)
            _log_step(run, logs, logs.pop("step"))
        run.summary(adapter.manifest["counts"])
        run.artifact(adapter.path, "adapter", {"key": job.key})


def _log_step(run: TrackedRun, logs: dict[str, float], step: int) -> None:
    run.metrics({_metric(name): value for name, value in logs.items()}, step)


def _metric(name: str) -> str:
    return name.replace("eval_", "eval/", 1) if name.startswith("eval_") else f"train/{name}"


def _stem(job: TrainingJob) -> str:
    choices, name = job.config.choices, job.config.model.name
    model = choices.get("model", "auto")
    model = name.rstrip("/").rpartition("/")[2] if model == "auto" else model
    return file_stem(f"{job.mixture.name}-{model}-{choices.get('tuning', job.config.tuning.method)}")
