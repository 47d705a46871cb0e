"""`python select.py budget=25k fn=graphcut`: a collection becomes a mixture."""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smart.cli.app import log_so_far, run_command

if TYPE_CHECKING:
    import pyarrow as pa
    from omegaconf import DictConfig

    from smart.runtime.progress import Clock
    from smart.selection.config import Request
    from smart.selection.pool import Pool
    from smart.selection.steps import Selection

log = logging.getLogger(__name__)

VERSION = 1
"""Raised whenever the same configuration and pool give another mixture."""


def main() -> None:
    run_command("select", select)


def select(config: DictConfig) -> Path | None:
    """Make the mixture that the configuration asks for, or find it made; returns its folder."""
    from hydra.core.hydra_config import HydraConfig

    from smart.runtime.files import make_writable
    from smart.runtime.locks import locked
    from smart.runtime.manifest import is_made
    from smart.runtime.progress import Clock
    from smart.selection import steps
    from smart.selection.config import read_request
    from smart.selection.dry_run import plan
    from smart.selection.pool import read_pool

    request = read_request(config, HydraConfig.get().runtime.choices)
    if request.fetch_only:
        _fetch(request)
        return None
    if not request.plan:
        make_writable("output_root", request.root)
    clock = Clock()
    with clock("collection"):
        pool = read_pool(request)
        num_tasks, budget = steps.check_sizes(request, pool)
        inputs = steps.input_keys(request, pool)
    if request.plan:
        print(plan(request, pool, num_tasks, budget))
        return None
    key = mixture_key(request, inputs, budget)
    folder = request.output or request.root / "mixtures" / f"{stem(request, pool)}-{key[:8]}"
    make_writable("output", folder.parent)
    with locked(folder.with_name(f".{folder.name}.lock")):
        if is_made(folder, key, "mixture", request.overwrite):
            print(f"Made before, from the same configuration and rows.\n{_ending(folder)}")
            return folder
        selection = steps.run(request, pool, num_tasks, budget, clock)
        _write(request, pool, selection, key, inputs, folder, clock)
    return folder


def mixture_key(request: Request, inputs: list[str], budget: int) -> str:
    from smart.runtime.manifest import make_key

    return make_key({**request.deciding(), "budget": budget}, inputs, VERSION)


def stem(request: Request, pool: Pool) -> str:
    """sni-25k-graphcut-facility_location: what a person looks for in a list of folders."""
    how = [request.strategy] if request.strategy != "smart" else [request.fn.name, request.instance_fn.name]
    tasks = [f"{request.num_tasks}tasks"] if request.num_tasks else []
    return "-".join([pool.collection.name, request.budget.text.replace("%", "pct"), *tasks, *how])


def _fetch(request: Request) -> None:
    from smart.selection.decontamination import questions

    request.collection.fetch()
    if request.needs_vectors:
        request.encoder.fetch()
    if request.decontaminate:
        questions(request.benchmark_data, request.heldout_data)
    print("Everything that this selection needs from the hub is there.")


def _write(
    request: Request,
    pool: Pool,
    selection: Selection,
    key: str,
    inputs: list[str],
    folder: Path,
    clock: Clock,
) -> None:
    from smart.mixture import summarise, write_mixture
    from smart.runtime.manifest import versions
    from smart.runtime.memory import peak_memory
    from smart.runtime.tracking import flatten, track
    from smart.selection.steps import validation_rows

    for warning in selection.warnings:
        log.warning("%s", warning)
    validation = validation_rows(request, pool)
    tasks = selection.tasks
    counts = {
        "rows": len(selection.rows),
        "validation_rows": 0 if validation is None else len(validation),
        "tasks": len(tasks.selected),
        "pool_rows": len(pool.table),
        "pool_tasks": len(pool.groups.tasks),
        **selection.counts,
    }
    manifest = {
        "kind": "mixture",
        "key": key,
        "inputs": inputs,
        "config": request.config,
        "choices": request.choices,
        "source": pool.source,
        "counts": counts,
        "distinct_vectors": selection.distinct,
        "drops": pool.drops,
        **_contamination(pool, selection, validation),
        "warnings": selection.warnings,
        "approximation": selection.approximation,
        "versions": versions("numpy", "pyarrow", "numba"),
        "seconds": clock.seconds,
        "peak_memory": peak_memory(),
    }
    means = selection.task_means
    write_mixture(
        folder, selection.rows, validation, tasks, manifest,
        seed=request.seed, task_embeddings=means, log=log_so_far(),
    )  # fmt: skip
    print(f"\n{summarise(tasks)}\n")
    flat = flatten("select", request.config, request.choices)
    with track(
        request.tracker, job_type="select", name=folder.name, config=flat, folder=request.root / "wandb"
    ) as run:
        with (folder / "tasks.csv").open(encoding="utf-8", newline="") as file:
            header, *lines = csv.reader(file)
        run.summary(counts)
        run.table("tasks", header, lines)
        run.figures(folder / "figures")
        run.artifact(folder, "mixture", {"key": key})
    print(_ending(folder))


def _contamination(pool: Pool, selection: Selection, validation: pa.Table | None) -> dict[str, Any]:
    if pool.contamination is None:
        return {}
    mixture = {"train": selection.rows, "validation": validation}
    return {"contamination": pool.contamination.describe(pool.collection, mixture)}


def _ending(folder: Path) -> str:
    return f"Mixture: {folder}\nNext:    accelerate launch train.py mixture={folder} model=mistral_7b"
