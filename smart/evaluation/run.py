"""A model and a suite become scores: found, or answered and scored."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smart.benchmarks.suites import load_suite
from smart.evaluation.config import EvaluateConfig
from smart.evaluation.dry_run import describe_missing, describe_plan
from smart.evaluation.job import EvaluationJob, prepare
from smart.evaluation.scores import describe, describe_turns, read_scores
from smart.evaluation.scoring import check_device, score
from smart.model.base import fetch as fetch_model
from smart.runtime import processes
from smart.runtime.hub import NotHere, from_cache_first
from smart.runtime.locks import owned
from smart.runtime.manifest import Artifact, is_made
from smart.runtime.names import file_stem
from smart.runtime.processes import Processes
from smart.runtime.tracking import TrackedRun, is_unlogged, track

if TYPE_CHECKING:
    import torch


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
    job, sharing = _prepare(config), Processes.joined()
    name = f"{file_stem(f'{job.model.name}-{job.suite.name}')}-{job.key[:8]}"
    folder = config.output or config.output_root / "scores" / name
    with owned(folder) if sharing.rank == 0 else contextlib.nullcontext():
        # One looks, under the lock: what the others saw might be another command's work of a moment before or after.
        if sharing.of_main(lambda: is_made(folder, job.key, "scores", config.overwrite)):
            wandb, rank = config.output_root / "wandb", sharing.rank
            if rank == 0 and is_unlogged(config.tracker, job_type="evaluate", folder=wandb, key=job.key):
                with _tracked(job, folder, rank) as tracked, tracked.only_warns():
                    _log_scores(tracked, job, folder, read_scores(folder)[1])
            return EvaluationScores(folder)
        return EvaluationScores(folder, _score_and_track(job, folder, sharing))


def plan(config: EvaluateConfig) -> str:
    """What the evaluation would answer and cost, as text; loads no weights."""
    try:
        return from_cache_first(lambda: describe_plan(_prepare(config)))
    except NotHere as error:
        return describe_missing(config, error)


def fetch(config: EvaluateConfig) -> None:
    """Download the model and the data of the tasks, for machines without a network."""
    fetch_model(_prepare(config).model.base)
    if not config.benchmark_data and not config.suite.collection:
        load_suite(config.suite.tasks, config.suite.shots)


def _prepare(config: EvaluateConfig) -> EvaluationJob:
    processes.quieten_others()
    return prepare(config)


def _score_and_track(job: EvaluationJob, folder: Path, sharing: Processes) -> str:
    """Score, and log to Weights & Biases; returns the table of scores as text."""
    config, device = job.config, _device(sharing)
    check_device(job, device)
    if config.threads:
        import torch

        torch.set_num_threads(config.threads)
    with _tracked(job, folder, sharing.rank) as tracked:
        results = score(job, folder, sharing, device)
        with tracked.only_warns():
            _log_scores(tracked, job, folder, results)
    return "\n".join(filter(None, [describe(results["scores"]), describe_turns(results.get("turns", {}))]))


@contextlib.contextmanager
def _tracked(job: EvaluationJob, folder: Path, rank: int) -> Iterator[TrackedRun]:
    if rank > 0:
        yield TrackedRun()
        return
    config, before = job.config, job.model.manifest
    mixture = before.get("mixture", {})
    flat = {f"select.{key}": value for key, value in mixture.get("config", {}).items()}
    flat |= {f"train.{key}": value for key, value in before.get("config", {}).items()}
    flat |= {f"evaluate.{key}": value for key, value in config.composed.values.items()}
    tracker = dataclasses.replace(config.tracker, group=config.tracker.group or mixture.get("name"))
    wandb, name = config.output_root / "wandb", folder.name
    with track(tracker, job_type="evaluate", name=name, config=flat, folder=wandb, key=job.key) as run:
        yield run


def _log_scores(tracked: TrackedRun, job: EvaluationJob, folder: Path, results: dict[str, Any]) -> None:
    rows = results["scores"]
    tracked.summary({name: value for row in rows for name, value in _tracked_scores(row)})
    tracked.artifact(folder, "scores", {"key": job.key})


def _tracked_scores(row: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """A score, and the bounds of its 95 % interval where it has one."""
    mean, name = row.get("micro", row["macro"]), _metric(row)
    yield name, mean["value"]
    for bound in ("low", "high"):
        if mean.get(bound) is not None:
            yield f"{name}_{bound}", mean[bound]


def _metric(row: dict[str, Any]) -> str:
    """eval/mmlu/acc; a filter is named where there is one."""
    name = row["metric"] if row["filter"] == "none" else f"{row['metric']}_{row['filter']}"
    return f"eval/{row['part']}/{name.replace('-', '_')}"


def _device(sharing: Processes) -> torch.device:
    """What this process computes on."""
    import torch

    if sharing.size == 1:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    from accelerate import PartialState

    return PartialState().device
