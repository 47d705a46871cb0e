"""The small commands that are disturbed: one of each stage, and each over an older artifact of another kind."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.faults.harness import Command
from tests.pins.examples import write_inputs

COMMON = ("tracker=none", "threads=1")
TINY = ("tuning.lora_r=4", "tuning.dtype=float32", "tuning.checkpoint_activations=false", "batch_size=8")


def small_commands(scratch: Path) -> dict[str, Command]:
    """Name → command; `scratch` gets the inputs, and what the older artifacts are made of."""
    inputs = scratch / "inputs"
    inputs.mkdir(parents=True)
    write_inputs(inputs)
    pool = ("collection=files", f"collection.path={inputs / 'small.parquet'}", *COMMON, "output=mine")
    select = Command(
        "select", (*pool, "num_tasks=4", "budget=40", "collection.validation=10%", "validation_rows=8")
    )
    train = Command(
        "train",
        (
            *(
                f"mixture={inputs / 'mixture'}",
                "model=tiny_llama",
                "tuning=lora",
                *TINY,
                *COMMON,
                "output=mine",
            ),
            *("micro_batch_size=8", "max_steps=2", "save_steps=1", "merge=true"),
        ),
    )
    quiz = (
        f"benchmark_data={inputs / 'benchmarks'}",
        "suite.tasks=[mmlu_anatomy]",
        "limit=2",
        "max_length=1024",
    )
    evaluate = Command("evaluate", ("model=tiny_llama", "dtype=float32", *quiz, *COMMON, "output=mine"))
    stages = [
        *(f"train.{option}" for option in TINY),
        "train.model=tiny_llama",
        "train.tuning=lora",
        "train.max_steps=3",
    ]
    reproduce = Command(
        "reproduce",
        (
            *("table=budget", "seeds=[1]", "baseline=null", "base_model=false", *COMMON, *stages),
            *(
                "select.collection=files",
                f"select.collection.path={inputs / 'small.parquet'}",
                "select.budget=40",
            ),
            *(
                "select.strategy=equal",
                "train.learning_rate=0.01",
                "evaluate.dtype=float32",
                "evaluate.suite.limit=2",
            ),
            *("evaluate.suite=heldout", f"evaluate.suite.collection={inputs / 'unseen.parquet'}"),
        ),
    )
    return {"select": select, "train": train, "evaluate": evaluate, "reproduce": reproduce}


def over_an_older_one(command: Command, scratch: Path) -> Command:
    """The same with overwrite=true, where an artifact of another configuration lies."""
    older = Command(command.stage, (*command.arguments, "seed=7"))
    folder = scratch / f"older-{command.stage}"
    older.prepare(folder)
    done, _ = older.run(folder)
    assert done.code == 0, done.said
    shutil.rmtree(folder.with_name(f"{folder.name}-traces"))
    return Command(command.stage, (*command.arguments, "overwrite=true"), before=folder)
