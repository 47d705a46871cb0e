"""A model and a suite become scores: found, or answered and scored."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smart.benchmarks.suites import load_suite
from smart.evaluation.config import EvaluateConfig
from smart.evaluation.dry_run import describe_plan
from smart.evaluation.job import EvaluationJob, prepare
from smart.evaluation.scores import describe
from smart.evaluation.scoring import check_device, score
from smart.model.base import fetch as fetch_model
from smart.runtime import processes
from smart.runtime.files import write_atomic
from smart.runtime.locks import locked
from smart.runtime.logs import log_so_far
from smart.runtime.manifest import Artifact, is_made
from smart.runtime.tracking import TrackedRun, track

if TYPE_CHECKING:
    import torch

    from smart.evaluation.cached_lm import Processes

LOG_FILE = "evaluate.log"


@dataclass(frozen=True)
class EvaluationScores(Artifact):
    """A folder of scores."""

    summary: str = ""
    """A table for the terminal; empty where the scores were there already."""


def evaluate(config: EvaluateConfig) -> EvaluationScores:
    """Score what the configuration names, or find it scored; on as many processes as call this.

    Raises:
        UserError: for tasks, data, a model or an adapter that cannot be used.
    """
    rank = processes.rank()
    job = _prepare(config)
    name = f"{job.model.name}-{job.suite.name}-{job.key[:8]}"
    folder = config.output or config.output_root / "scores" / name
    with locked(folder.with_name(f".{folder.name}.lock")) if rank == 0 else contextlib.nullcontext():
        if is_made(folder, job.key, "scores", config.overwrite):
            return EvaluationScores(folder)
        return EvaluationScores(folder, _score_and_track(job, folder))


def plan(config: EvaluateConfig) -> str:
    """What the evaluation would answer and cost, as text; loads no weights."""
    return describe_plan(_prepare(config))


def fetch(config: EvaluateConfig) -> None:
    """Download the model and the data of the tasks, for machines without a network."""
    fetch_model(_prepare(config).model.base)
    if not config.benchmark_data and not config.suite.collection:
        load_suite(config.suite.tasks, config.suite.shots)


def _prepare(config: EvaluateConfig) -> EvaluationJob:
    processes.quieten_others()
    return prepare(config)


def _score_and_track(job: EvaluationJob, folder: Path) -> str:
    """Score, and log to Weights & Biases; returns the table of scores as text."""
    config, before = job.config, job.model.manifest
    sharing, device = _processes()
    check_device(job, device)
    if config.threads:
        import torch

        torch.set_num_threads(config.threads)
    flat = {f"select.{key}": value for key, value in before.get("mixture", {}).get("config", {}).items()}
    flat |= {f"train.{key}": value for key, value in before.get("config", {}).items()}
    flat |= {f"evaluate.{key}": value for key, value in config.composed.values.items()}
    with _tracked(config, folder, flat, before.get("mixture", {}).get("name"), sharing.rank) as tracked:
        results = score(job, folder, sharing, device)
        tracked.summary(
            {_metric(row): row["macro"]["value"] for row in results["scores"] if "micro" not in row}
        )
        tracked.summary({_metric(row): row["micro"]["value"] for row in results["scores"] if "micro" in row})
        tracked.artifact(folder, "scores", {"key": job.key})
    if sharing.rank == 0:
        write_atomic(folder / LOG_FILE, log_so_far())
    return describe(results["scores"])


@contextlib.contextmanager
def _tracked(
    config: EvaluateConfig, folder: Path, flat: dict[str, Any], mixture: str | None, rank: int
) -> Iterator[TrackedRun]:
    if rank > 0:
        yield TrackedRun()
        return
    tracker = dataclasses.replace(config.tracker, group=config.tracker.group or mixture)
    wandb = config.output_root / "wandb"
    with track(tracker, job_type="evaluate", name=folder.name, config=flat, folder=wandb) as run:
        yield run


def _metric(row: dict[str, Any]) -> str:
    """eval/mmlu/acc; a filter is named where there is one."""
    name = row["metric"] if row["filter"] == "none" else f"{row['metric']}_{row['filter']}"
    return f"eval/{row['part']}/{name.replace('-', '_')}"


def _processes() -> tuple[Processes, torch.device]:
    """The processes that torchrun or accelerate started, and what this one computes on."""
    import torch

    from smart.evaluation.cached_lm import Processes

    gpu = torch.cuda.is_available()
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return Processes(), torch.device("cuda" if gpu else "cpu")
    from accelerate import PartialState

    state = PartialState(cpu=not gpu)
    return Processes(state.process_index, state.num_processes), state.device
