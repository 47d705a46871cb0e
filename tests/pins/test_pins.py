"""What a version of a stage returns, pinned: keys, bytes of mixtures and tables, losses and scores.

Keys name results that people have stored, so they outlive every change of the code. A pin changes only together with
its stage's raised VERSION and a line in the changelog; `UPDATE_PINS=1 python -m pytest tests/pins` writes new ones.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import torch

from smart.evaluation.job import VERSION as EVALUATE
from smart.experiment.results import VERSION as TABLE
from smart.runtime.manifest import make_key
from smart.selection.keys import VERSION as SELECT
from smart.training.job import VERSION as TRAIN
from tests.pins.examples import planned_runs, run_script, write_finished_run, write_inputs

FILE = Path(__file__).with_name("pins.json")
VERSIONS = {"select": SELECT, "train": TRAIN, "evaluate": EVALUATE, "reproduce": TABLE}
TOLERANCE = 1e-5
"""Relative and absolute, of losses and scores: float32 sums differ between processors in their last digits."""

VECTORS = ("encoder=precomputed", "encoder.path=vectors.npy")
SELECTIONS: dict[str, tuple[str, ...]] = {
    "paper": (*VECTORS, "budget=100", "collection.validation=10%", "validation_rows=20"),
    "share": (*VECTORS, "fn=facility_location", "instance_fn=graphcut", "num_tasks=4", "budget=10%"),
    "softmax": (*VECTORS, "fn=logdet", "weighting=softmax", "optimizer=partition", "budget=60"),
    "equal": ("strategy=equal", "seed=7", "budget=48"),
    "temperature": ("fn=random", "weighting=temperature", "weighting.cap=20", *VECTORS, "budget=0.05k"),
    "tradeoff": (*VECTORS, "fn.tradeoff=0.2", "instance_fn=logdet", "instance_fn.regularizer=2", "budget=90"),
    "clean": (
        *("strategy=examples_proportional", "decontaminate=drop", "benchmark_data=benchmarks", "budget=70"),
        *("drop_duplicates=true", "bad_rows=drop", "collection.name=clean"),
    ),
}
SMALL = ("batch_size=8", "micro_batch_size=4", "max_steps=4", "tuning.lora_r=4", "tuning.dtype=float32")
TRAININGS: dict[str, tuple[str, ...]] = {
    "lora": ("model=tiny_llama", "tuning=lora", *SMALL),
    "qlora": ("model=tiny_mistral", "tuning=qlora", "seed=5", "overlength=drop", "max_length=64", *SMALL),
    "full": ("model=tiny_falcon", "tuning=full", "tuning.schedule=linear", "epochs=2", *SMALL),
}
QUIZ = ("benchmark_data=benchmarks", "model=tiny_llama")
UNSEEN = ("suite=heldout", "suite.collection=unseen.parquet")
EVALUATIONS: dict[str, tuple[str, ...]] = {
    "quiz": (
        "dtype=float32",
        *QUIZ,
        "suite.tasks=[mmlu_anatomy,bbh_zeroshot_navigate]",
        "limit=3",
        "max_length=1024",
    ),
    "limited": (
        "dtype=float32",
        *QUIZ,
        "suite.tasks=[mmlu_anatomy]",
        "suite.shots=2",
        "limit=5",
        "batch_size=3",
    ),
    "unseen": ("dtype=float32", *UNSEEN, "model=tiny_mistral", "suite.limit=4", "max_length=512"),
}
GRID = (
    *("table=budget", "select.collection=files", "select.collection.path=small.parquet", "seeds=[1,2]"),
    *("select.strategy=equal,examples_proportional", "select.budget=60", "train.model=tiny_llama"),
    *("train.tuning.lora_r=4", "train.batch_size=8", "train.max_steps=8", "evaluate.suite=heldout"),
    *("evaluate.suite.collection=unseen.parquet", "evaluate.dtype=float32", "tracker=none"),
)


@pytest.fixture(scope="module")
def pins() -> Iterator[Callable[[str, str, dict[str, Any]], None]]:
    """pins(stage, run, found) compares with what is stored, or with UPDATE_PINS=1 stores it."""
    stored = json.loads(FILE.read_text()) if FILE.exists() else {}
    update = bool(os.environ.get("UPDATE_PINS"))

    def compare(stage: str, run: str, found: dict[str, Any]) -> None:
        pinned = stored.setdefault(stage, {"version": VERSIONS[stage], "runs": {}})
        if update:
            pinned["version"] = VERSIONS[stage]
            pinned["runs"][run] = found
            return
        assert pinned["version"] == VERSIONS[stage], f"{stage}: pin the results of the new VERSION"
        assert found == _near(pinned["runs"][run]), f"{stage} {run}: raise VERSION where the change is meant"

    yield compare
    if update:
        FILE.write_text(json.dumps(stored, indent=1) + "\n")


def _near(pinned: Any) -> Any:
    if isinstance(pinned, float):
        return pytest.approx(pinned, rel=TOLERANCE, abs=TOLERANCE)
    if isinstance(pinned, list):
        return [_near(one) for one in pinned]
    return {key: _near(one) for key, one in pinned.items()} if isinstance(pinned, dict) else pinned


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Path:
    """The inputs, in the folder where the commands run; capfd, since their log handlers keep the stream they see."""
    write_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny matrices are slower on several threads, and sums differ in their last digits with the number of them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def manifest_in(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return content


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", SELECTIONS)
def test_mixtures(folder: Path, pins: Callable[..., None], name: str) -> None:
    options = ("collection=files", "collection.path=small.parquet", "tracker=none")
    assert run_script("select", *options, *SELECTIONS[name]) == 0
    (made,) = (path for path in (folder / "outputs/mixtures").iterdir() if path.is_dir())
    files = sorted(path for path in made.iterdir() if path.suffix in (".parquet", ".csv"))
    # Arrow writes its version into Parquet files, so their bytes are pinned for one version.
    files = [path for path in files if path.suffix == ".csv" or pyarrow.__version__.startswith("26.")]
    found = {"name": made.name, "key": manifest_in(made)["key"]}
    pins("select", name, found | {path.name: digest(path) for path in files})


def test_the_default_encoder_is_in_the_key(folder: Path, pins: Callable[..., None]) -> None:
    options = ("collection=files", "collection.path=small.parquet", "tracker=none", "budget=100")
    assert run_script("select", *options, "output=mine") == 0
    manifest = manifest_in(folder / "mine")
    pins("select", "wordllama", {"key": manifest["key"], "inputs": manifest["inputs"]})


@pytest.mark.parametrize("name", TRAININGS)
def test_losses(folder: Path, pins: Callable[..., None], name: str) -> None:
    assert run_script("train", "mixture=mixture", "tracker=none", *TRAININGS[name]) == 0
    (made,) = (path for path in (folder / "outputs/adapters").iterdir() if path.is_dir())
    history = [json.loads(line) for line in (made / "history.jsonl").read_text().splitlines()]
    losses = {
        key: [entry[key] for entry in history if key in entry] for key in ("loss", "grad_norm", "eval_loss")
    }
    manifest = manifest_in(made)
    pins("train", name, {"name": made.name, "key": manifest["key"], "counts": manifest["counts"], **losses})


@pytest.mark.parametrize("name", EVALUATIONS)
def test_scores(folder: Path, pins: Callable[..., None], name: str) -> None:
    assert run_script("evaluate", "tracker=none", *EVALUATIONS[name]) == 0
    (made,) = (path for path in (folder / "outputs/scores").iterdir() if path.is_dir())
    manifest, results = manifest_in(made), json.loads((made / "results.json").read_text())
    assert manifest["key"] == make_key(manifest["config"], manifest["inputs"], EVALUATE)
    # Installed versions are in the key; without them it is the same everywhere.
    key = make_key(manifest["config"] | {"versions": {}}, manifest["inputs"], EVALUATE)
    pins("evaluate", name, {"key": key, "scores": results["scores"], "hashes": results["task_hashes"]})


def test_tables(folder: Path, pins: Callable[..., None], capfd: pytest.CaptureFixture[str]) -> None:
    """Names of a grid's runs, and the table of fixed scores."""
    assert run_script("reproduce", *GRID, "plan=true") == 0
    runs = planned_runs(capfd.readouterr().out)
    above: dict[str, str | None] = {"select": None, "train": None}
    for place, (stage, name) in enumerate(runs.values()):
        source = {"select": None, "train": above["select"], "evaluate": above["train"]}[stage]
        if stage == "evaluate" and "seed" not in name:
            source = None
        rate = 0.8 if "equal" in name else 0.4
        write_finished_run(folder / "outputs", stage, name, source, rate, seed=place)
        above[stage] = name
    assert run_script("reproduce", *GRID, "output=table") == 0
    made = folder / "table"
    with (made / "table.csv").open(newline="") as file:
        lines = [[_number(cell) for cell in line] for line in csv.reader(file)]
    found = {"runs": {run: name for run, (_, name) in runs.items()}, "key": manifest_in(made)["key"]}
    pins(
        "reproduce",
        "table",
        found | {"csv": lines, "md": digest(made / "table.md"), "tex": digest(made / "table.tex")},
    )


def _number(cell: str) -> str | float:
    """Numbers are compared as numbers: their last bits may differ between processors."""
    try:
        return float(cell)
    except ValueError:
        return cell
