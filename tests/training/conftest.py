"""A small mixture of two submixtures, and a run over it in this process."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smart.model import ModelOptions, TuningOptions
from smart.runtime.manifest import write_manifest
from smart.training.config import TrainConfig
from smart.training.job import TrainingJob, World, prepare

ANIMALS = {"cat": "meow", "dog": "woof", "cow": "moo", "duck": "quack", "pig": "oink", "sheep": "baa"}


def make_table(rows: int, seed: int) -> pa.Table:
    """Questions that can be learnt, of uneven length."""
    rng = random.Random(seed)
    made = []
    for number in range(rows):
        animal = rng.choice(sorted(ANIMALS))
        filler = " ".join(
            rng.choice(["far", "old", "green", "in the yard", "by the sea"]) for _ in range(rng.randrange(12))
        )
        made.append(
            {
                "prompt": f"{filler} What does the {animal} say?\nAnswer:",
                "response": " ".join([ANIMALS[animal]] * rng.randrange(1, 4)),
                "submixture": ["niv2", "cot"][number % 2],
                "task_name": animal,
            }
        )
    return pa.Table.from_pylist(made)


@pytest.fixture(scope="session")
def mixture(tmp_path_factory) -> Path:
    """A folder as the select command writes it."""
    folder = tmp_path_factory.mktemp("mixtures") / "animals"
    folder.mkdir()
    pq.write_table(make_table(120, seed=0), folder / "train.parquet")
    pq.write_table(make_table(24, seed=1), folder / "validation.parquet")
    write_manifest(folder, {"kind": "mixture", "key": "a" * 32, "config": {"budget": 120}})
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """The cache of models below an output_root."""
    return tmp_path_factory.mktemp("root") / "cache"


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tiny matrices are slower on several threads, and much slower on busy ones."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass
class Runner:
    """Trains tiny models in this process."""

    mixture: Path
    models: Path
    model: str = "tiny_llama"
    world: World = field(default_factory=World)
    tuning: dict[str, Any] = field(
        default_factory=lambda: {
            "lora_r": 4,
            "dtype": "float32",
            "checkpoint_activations": False,
            "lora_dropout": 0.1,
        }
    )
    options: dict[str, Any] = field(
        default_factory=lambda: {
            "batch_size": 8,
            "micro_batch_size": 4,
            "max_steps": 6,
            "learning_rate": 5e-3,
        }
    )

    def job(self, *, model: str | None = None, tuning: Any = (), **options: Any) -> TrainingJob:
        config = TrainConfig(
            mixture=str(self.mixture),
            model=ModelOptions(model or self.model),
            tuning=TuningOptions(**self.tuning | dict(tuning)),
            output_root=self.models.parent,
            **self.options | options,
        )
        return prepare(config, self.world)

    def train(self, output: Path, *, watch: Any = lambda logs, step: None, **options: Any) -> Any:
        from smart.training.fit import fit

        return fit(self.job(**options), output, watch)


@pytest.fixture
def runner(mixture, models) -> Runner:
    return Runner(mixture, models)
