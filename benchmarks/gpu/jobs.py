"""Trainings as train.py makes them, on models of the kit; and a look into them while they run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from smart.config import compose, read_config
from smart.training import TrainConfig
from smart.training.job import TrainingJob
from smart.training.run import prepare_job


def training_job(
    model: Path, shape: str, mixture: Path, root: Path, overrides: Sequence[str], seed: int = 0
) -> TrainingJob:
    """The job of a command line.

    Args:
        model: the folder that takes the place of the hub's model.
        shape: file of conf/model.
        overrides: as on the command line; the last one wins.

    Raises:
        UserError: for options that this version does not know, or that do not go together.
    """
    words = [f"mixture={mixture}", f"model={shape}", f"model.name={model}", "model.gguf_package=null"]
    words += ["model.context=null", f"seed={seed}", f"output_root={root}", "save_steps=1000000"]
    return prepare_job(read_config(TrainConfig, compose("train", [*words, *overrides])))


@contextlib.contextmanager
def before_training(act: Callable[[Any], None]) -> Iterator[None]:
    """Inside, call `act` with each of transformers' Trainers just before it trains."""
    from transformers import Trainer

    plain = Trainer.train

    def train(self: Any, *arguments: Any, **options: Any) -> Any:
        act(self)
        return plain(self, *arguments, **options)

    with patch.object(Trainer, "train", train):
        yield


@contextlib.contextmanager
def around_steps(wrap: Callable[[Callable[[], Any], dict[str, Any]], Any]) -> Iterator[None]:
    """Inside, every micro-batch goes through `wrap`, which gets the call and its batch, and returns its result."""
    from transformers import Trainer

    plain = Trainer.training_step

    def training_step(self: Any, model: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
        return wrap(lambda: plain(self, model, inputs, *arguments, **options), inputs)

    with patch.object(Trainer, "training_step", training_step):
        yield
