"""`python evaluate.py adapter=DIR suite=paper`: an adapter becomes scores, and scores become comparisons."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smart.cli.app import log_so_far, run_command
from smart.config import Problems, UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from smart.evaluation.cached_lm import Processes
    from smart.evaluation.run import Request
    from smart.runtime.tracking import Run, Tracker

log = logging.getLogger(__name__)


def main() -> None:
    run_command("evaluate", evaluate)


def evaluate(config: DictConfig) -> Path | None:
    """Score what the configuration names, or find it scored, or compare scores; returns the result's folder."""
    from omegaconf import OmegaConf

    from smart.evaluation import run
    from smart.runtime.locks import locked

    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    if plain["compare"]:
        return _compare(plain)
    rank = int(os.environ.get("RANK", 0))
    if rank > 0:
        logging.getLogger().setLevel(logging.ERROR)
    request, tracker = _read(plain)
    if plain["fetch_only"]:
        run.fetch(request)
        _say(rank, "Everything that this evaluation needs from the hub is there.")
        return None
    if plain["plan"]:
        _say(rank, run.plan(request))
        return None
    name = f"{request.subject.name}-{request.suite.name}-{request.key[:8]}"
    folder = Path(plain["output"] or Path(plain["output_root"]) / "scores" / name)
    with locked(folder.with_name(f".{folder.name}.lock")) if rank == 0 else contextlib.nullcontext():
        if not _is_to_be_made(folder, request.key, plain["overwrite"]):
            _say(rank, f"Scored before, with the same model and suite.\n{_ending(folder)}")
            return folder
        _score(request, folder, plain, tracker)
    _say(rank, _ending(folder))
    return folder


def _read(plain: dict[str, Any]) -> tuple[Request, Tracker]:
    from smart.benchmarks.suites import Suite
    from smart.evaluation.model_under_test import Precision, find_subject
    from smart.evaluation.run import Request
    from smart.model import ModelOptions
    from smart.runtime.tracking import Tracker

    problems = Problems()
    suite = Suite(**plain["suite"])
    tracker = Tracker(**plain["tracker"])
    precision = Precision(*(plain[key] for key in ("dtype", "four_bit", "batch_size", "max_length")))
    for part in (suite, tracker, precision):
        part.validate(problems)
    for key in ("limit", "max_length"):
        if plain[key] is not None and (not isinstance(plain[key], int) or plain[key] < 1):
            problems.add(key, plain[key], "must be a whole number, at least 1", "leave it null for all")
    model = None
    if plain["model"]:
        targets = plain["model"]["lora_targets"]
        model = ModelOptions(**{**plain["model"], "lora_targets": tuple(targets) if targets else None})
        model.validate(problems)
    problems.raise_if_any()
    request = Request(
        subject=find_subject(model, Path(plain["adapter"]) if plain["adapter"] else None, precision),
        suite=suite,
        limit=suite.limit if plain["limit"] is None else plain["limit"],
        chat_template=plain["chat_template"],
        benchmark_data=Path(plain["benchmark_data"]) if plain["benchmark_data"] else None,
        cache=Path(plain["output_root"]) / "cache",
    )
    return request, tracker


def _score(request: Request, folder: Path, plain: dict[str, Any], tracker: Tracker) -> None:
    from smart.evaluation import run
    from smart.evaluation.scores import describe

    processes, device = _processes()
    run.check_device(request, device)
    if plain["threads"]:
        import torch

        torch.set_num_threads(plain["threads"])
    before = request.subject.manifest
    flat = {f"select.{key}": value for key, value in before.get("mixture", {}).get("config", {}).items()}
    flat |= {f"train.{key}": value for key, value in before.get("config", {}).items()}
    flat |= {f"evaluate.{key}": value for key, value in plain.items()}
    tracker = dataclasses.replace(tracker, group=tracker.group or before.get("mixture", {}).get("name"))
    with _tracked(tracker, folder, flat, plain, processes.rank) as tracked:
        results = run.evaluate(request, folder, processes, device)
        tracked.summary(
            {_metric(row): row["macro"]["value"] for row in results["scores"] if "micro" not in row}
        )
        tracked.summary({_metric(row): row["micro"]["value"] for row in results["scores"] if "micro" in row})
        tracked.artifact(folder, "scores", {"key": request.key})
    if processes.rank == 0:
        print(describe(results["scores"]))
        (folder / "evaluate.log").write_text(log_so_far(), encoding="utf-8")


@contextlib.contextmanager
def _tracked(
    tracker: Tracker, folder: Path, config: dict[str, Any], plain: dict[str, Any], rank: int
) -> Iterator[Run]:
    from smart.runtime.tracking import Run, track

    if rank > 0:
        yield Run()
        return
    wandb = Path(plain["output_root"]) / "wandb"
    with track(tracker, job_type="evaluate", name=folder.name, config=config, folder=wandb) as run:
        yield run


def _metric(row: dict[str, Any]) -> str:
    """eval/mmlu/acc; a filter is named where there is one."""
    name = row["metric"] if row["filter"] == "none" else f"{row['metric']}_{row['filter']}"
    return f"eval/{row['part']}/{name.replace('-', '_')}"


def _processes() -> tuple[Processes, Any]:
    """The processes that torchrun or accelerate started, and what this one computes on."""
    import torch

    from smart.evaluation.cached_lm import Processes

    gpu = torch.cuda.is_available()
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return Processes(), torch.device("cuda" if gpu else "cpu")
    from accelerate import PartialState

    state = PartialState(cpu=not gpu)
    return Processes(state.process_index, state.num_processes), state.device


def _is_to_be_made(folder: Path, key: str, overwrite: bool) -> bool:
    from smart.runtime.manifest import read_manifest

    if overwrite or not folder.exists() or not any(folder.iterdir()):
        return True
    manifest = read_manifest(folder)
    if manifest and manifest.get("key") == key:
        return False
    what = "other scores" if manifest else "something that is no scores"
    raise UserError(f"output={folder}: holds {what}; name another folder, or replace it with overwrite=true")


def _compare(plain: dict[str, Any]) -> Path:
    from smart.evaluation.compare import compare

    folder, text = compare(
        plain["compare"],
        Path(plain["output"]) if plain["output"] else None,
        Path(plain["output_root"]) / "tables",
        plain["seed"],
    )
    print(f"{text}\nTable and figure: {folder}")
    return folder


def _say(rank: int, text: str) -> None:
    if rank == 0:
        print(text)


def _ending(folder: Path) -> str:
    return f"Scores: {folder}\nNext:   python evaluate.py compare=[{folder},OTHER_SCORES]"


if __name__ == "__main__":
    main()
