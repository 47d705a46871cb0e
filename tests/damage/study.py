"""A small study made once in this process: select, train, evaluate, reproduce; and its commands again in a fork."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from smart.config import compose, read_config
from smart.experiment import ReproduceConfig
from smart.experiment.grid import gather_overrides
from smart.experiment.run import prepare
from tests.pins.examples import run_script, write_inputs

GRID = (
    *("table=budget", "select.collection=files", "select.collection.path=small.parquet", "seeds=[1]"),
    *("select.strategy=smart", "select.budget=60", "select.collection.validation=10%", "threads=1"),
    *("select.decontaminate=report", "select.benchmark_data=benchmarks", "select.encoder=wordllama"),
    *("train.model=tiny_llama", "train.tuning=lora", "train.tuning.lora_r=4", "train.tuning.dtype=float32"),
    *("train.batch_size=8", "train.micro_batch_size=4", "train.max_steps=2", "train.save_steps=1"),
    *("evaluate.suite=heldout", "evaluate.suite.collection=unseen.parquet", "evaluate.dtype=float32"),
    *("evaluate.suite.tasks=[[mmlu_anatomy,heldout_loss,heldout_options]]", "evaluate.limit=3"),
    *("evaluate.benchmark_data=benchmarks", "base_model=false", "tracker=none", "train.learning_rate=0.01"),
)
LIMIT = 300
"""Seconds after which a command hangs."""

Words = tuple[str, tuple[str, ...]]
"""A command and its arguments."""


@dataclass(frozen=True)
class Study:
    """A finished study, and the folder where it is tried again."""

    whole: Path
    """Its folder `outputs`, as it was made; nothing is changed here."""
    place: Path
    """The working folder of all commands, since caches hold absolute paths."""
    commands: dict[str, Words]
    """Stage → the command that made it."""

    @property
    def outputs(self) -> Path:
        return self.place / "outputs"

    def restore(self) -> None:
        """Put everything back as it was made."""
        shutil.rmtree(self.outputs, ignore_errors=True)
        shutil.copytree(self.whole, self.outputs, symlinks=True)

    def artifact(self, stage: str) -> Path:
        folders = {"select": "mixtures", "train": "adapters", "evaluate": "scores", "reproduce": "tables"}
        (found,) = (path for path in (self.outputs / folders[stage]).iterdir() if path.is_dir())
        return found

    def run(self, stages: Sequence[str]) -> tuple[list[int], str]:
        """Exit codes of commands, one after the other until one fails, and what they said."""
        return forked([self.commands[stage] for stage in stages], self.place)


def make(place: Path) -> Study:
    """Make the study in an empty folder."""
    write_inputs(place)
    (place / "unseen.parquet").unlink()
    _write_unseen(place / "unseen.parquet")
    before = Path.cwd()
    os.chdir(place)
    try:
        made = prepare(read_config(ReproduceConfig, compose("reproduce", gather_overrides(GRID))))
        runs = {run.stage: (run.stage, (*run.arguments(made.common),)) for run in made.study.runs}
        commands: dict[str, Words] = {**runs, "reproduce": ("reproduce", GRID)}
        for stage, words in commands.values():
            assert run_script(stage, *words) == 0, stage
    finally:
        os.chdir(before)
    shutil.move(place / "outputs", place / "whole")
    study = Study(place / "whole", place, commands)
    study.restore()
    return study


def _write_unseen(file: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {
            "task_name": f"unseen{n % 2}",
            "inputs": f"Say {n}",
            "targets": "ab"[n % 3 % 2],
            "options": ["a", "b"],
        }
        for n in range(8)
    ]
    pq.write_table(pa.Table.from_pylist(rows), file)


def forked(commands: Sequence[Words], place: Path) -> tuple[list[int], str]:
    """Run commands in a copy of this process, which has imported everything; a crash of it harms nobody."""
    said, ends = place / "said.txt", place / "ends.json"
    ends.unlink(missing_ok=True)
    child = os.fork()
    if not child:
        _in_the_child(commands, place, said, ends)
    deadline = time.monotonic() + LIMIT
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            return [-9], said.read_text(errors="replace") + "\nhangs"
        time.sleep(0.01)
    codes = json.loads(ends.read_text()) if ends.exists() else [-1]
    return codes, said.read_text(errors="replace")


def _in_the_child(commands: Sequence[Words], place: Path, said: Path, ends: Path) -> None:
    try:
        output = os.open(said, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1, closefd=False)
        os.chdir(place)
        codes: list[int] = []
        for stage, words in commands:
            codes.append(_code_of(lambda stage=stage, words=words: run_script(stage, *words)))  # type: ignore[misc]
            if codes[-1]:
                break
        ends.write_text(json.dumps(codes))
    finally:
        os._exit(0)


def _code_of(run: Callable[[], int]) -> int:
    try:
        return run()
    except BaseException:
        traceback.print_exc()
        return 1
