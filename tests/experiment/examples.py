"""A small grid, stages that are fakes of a few lines, and folders of scores made by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from smart.evaluation.metrics import Scores
from smart.evaluation.scores import RESULTS, SAMPLES, samples_table, summarize, task_hashes
from smart.experiment.grid import Grid
from smart.experiment.run_graph import Study, build
from smart.experiment.stage_configs import StageConfig
from smart.runtime.manifest import write_manifest

SETTINGS: dict[str, Any] = {
    "select.strategy": ["smart", "equal"],
    "select.budget": ["10", "20"],
    "train.model": "tiny_llama",
    "evaluate.suite": "smoke",
}

FAKE = """
import json, os, pathlib, shutil, sys, time, xxhash
stage, *arguments = sys.argv[1:]
given = dict(argument.split("=", 1) for argument in arguments)
trap = pathlib.Path(os.environ["TRAPS"])
with (trap / "calls").open("a") as file:
    file.write(f"{stage} {pathlib.Path(given['output']).name}\\n")
with (trap / "arguments").open("a") as file:
    file.write(" ".join([stage, *arguments, os.environ.get("HYDRA_FULL_ERROR", "")]) + "\\n")
for word in (trap / "fail").read_text().split() if (trap / "fail").exists() else []:
    if word in given["output"]:
        infeasible = (trap / "said").exists()
        print((trap / "said").read_text() if infeasible else "cannot do it")
        sys.exit(3 if infeasible else 1)
if (trap / "slow").exists() and stage == (trap / "slow").read_text():
    (trap / "pid").write_text(str(os.getpid()))
    time.sleep(60)
folder = pathlib.Path(given["output"])
folder.mkdir(parents=True, exist_ok=True)
if (trap / f"made-{stage}").exists():
    shutil.copytree(trap / f"made-{stage}", folder, dirs_exist_ok=True)
source = given.get("mixture") or given.get("adapter")
before = json.loads((pathlib.Path(source) / "manifest.json").read_text())["key"] if source else None
written = [file for file in folder.glob("*.*") if file.name != "manifest.json"]
files = {file.name: xxhash.xxh3_128(file.read_bytes()).hexdigest() for file in written}
manifest = {"key": f"{folder.name} of {before}", "seconds": 1.5, "files": files}
manifest |= {"train": {"mixture": {"key": before}}, "evaluate": {"adapter": {"key": before}}}.get(stage, {})
(folder / "manifest.json").write_text(json.dumps(manifest))
"""


def compose(stage: str, overrides: tuple[str, ...]) -> StageConfig:
    """What a command would compose, near enough."""
    given = dict(override.split("=", 1) for override in overrides)
    defaults: dict[str, dict[str, Any]] = {
        "select": {"budget": "10", "num_tasks": None, "seed": 23, "threads": None},
        "train": {"seed": 23, "epochs": "1", "batch_size": "8", "max_length": None},
        "evaluate": {"limit": None},
    }
    choices = {
        "select": {"collection": "files", "strategy": "smart", "fn": "graphcut", "instance_fn": "random"},
        "train": {"model": "tiny_llama"},
        "evaluate": {"suite": "paper"},
    }[stage]
    config: dict[str, Any] = {**defaults[stage], **given}
    if stage == "train" or "model" in given:
        name = given.get("model", "tiny_llama")
        config["model"] = {"name": name, "context": 2048 if name == "falcon_7b" else None}
    if stage == "evaluate":
        config["suite"] = {"name": given.get("suite", "paper"), "tasks": ["mmlu_anatomy"]}
    choices = {**choices, **{k: v for k, v in given.items() if k in (*choices, "model")}}
    return StageConfig(config, choices, drawn=stage == "select" and choices["strategy"] != "smart")


def make_study(
    root: Path, seeds: tuple[int, ...] = (1, 2), base_model: bool = True, **settings: Any
) -> Study:
    grid = Grid.of(
        "mine",
        {**SETTINGS, **settings},
        seeds=seeds,
        baseline={"select.strategy": "equal"},
        base_model=base_model,
    )
    return build(grid, compose, root, {})


def fakes(folder: Path) -> dict[str, list[str]]:
    """Programs in the place of the stages' commands."""
    script = folder / "fake.py"
    script.write_text(FAKE)
    return {stage: [sys.executable, str(script), stage] for stage in ("select", "train", "evaluate")}


def write_scores(folder: Path, correct: dict[str, np.ndarray], losses: np.ndarray | None = None) -> None:
    """A folder as the evaluate command writes it: right or wrong for each task, and losses of one more task."""

    def sample(task: str, number: int, metrics: dict[str, Any]) -> dict[str, Any]:
        names = {
            "doc_id": number,
            "doc_hash": f"{task}{number}",
            "prompt_hash": f"p{number}",
            "target_hash": "t",
        }
        return {
            **names,
            "filter": "none",
            "target": "x",
            "resps": [["y"]],
            "filtered_resps": ["y"],
            "metrics": list(metrics),
            **metrics,
        }

    listed = {
        task: [sample(task, n, {"acc": float(value)}) for n, value in enumerate(values)]
        for task, values in correct.items()
    }
    results: dict[str, Any] = {task: {"acc,none": float(values.mean())} for task, values in correct.items()}
    parts = {"quiz": list(correct)}
    if losses is not None:
        listed["said"] = [sample("said", n, {"loss": (float(loss), 4)}) for n, loss in enumerate(losses)]
        results["said"] = {"loss,none": float(losses.sum() / (4 * len(losses)))}
        parts["heldout_loss"] = ["said"]
    samples = samples_table(listed)
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(samples, folder / SAMPLES)
    content = {
        "parts": parts,
        "scores": summarize(samples, parts, results, {}, {"easy": 0.25, "hard": 0.25}),
        "task_hashes": task_hashes(samples),
    }
    (folder / RESULTS).write_text(json.dumps(content))
    if (folder / "manifest.json").exists():  # a fake's, from before there were scores
        manifest = json.loads((folder / "manifest.json").read_text())
        write_manifest(folder, {name: value for name, value in manifest.items() if name != "files"})


def scores(folder: Path, rate: float, seed: int, items: int = 200, loss: float | None = None) -> Scores:
    """Scores of a model that is right at `rate` on two tasks; the seed decides on which items."""
    rng = np.random.default_rng(seed)
    right = {task: (rng.random(items) < rate).astype(float) for task in ("easy", "hard")}
    losses = None if loss is None else np.abs(rng.normal(loss, 0.1, items))
    write_scores(folder, right, losses)
    return Scores.read(folder)
