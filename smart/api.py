"""The commands as functions: the same options, keys and folders as on the command line, without Hydra's."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from smart import evaluation, experiment, selection, training
from smart.config import UserError, compose, read_config
from smart.experiment.grid import spell
from smart.runtime.common_config import CommonConfig

Config = TypeVar("Config", bound=CommonConfig)
_OF_COMMANDS = ("plan", "fetch_only", "compare", "run")


def select(*overrides: str, **options: object) -> selection.SelectedMixture:
    """Make a mixture, or find it made; as `python select.py`.

    Args:
        overrides: words as on the command line, for keys with a dot: "collection.path=rows.parquet".
        options: keys and choices of groups: budget="5k", fn="graphcut".

    Returns:
        path, rows, tasks and manifest of the mixture.

    Raises:
        ConfigError: with every wrong value.
        Infeasible: where the pool or the selected tasks hold fewer rows than the budget.
    """
    return selection.select(_read("select", selection.SelectConfig, overrides, options))


def train(*overrides: str, **options: object) -> training.TrainedAdapter:
    """Fine-tune on a mixture, or find it done; as `python train.py`. Arguments as `select` takes them."""
    return training.train(_read("train", training.TrainConfig, overrides, options))


def evaluate(*overrides: str, **options: object) -> evaluation.EvaluationScores:
    """Score an adapter or a model, or find it scored; as `python evaluate.py`. Arguments as `select` takes them."""
    return evaluation.evaluate(_read("evaluate", evaluation.EvaluateConfig, overrides, options))


def reproduce(*overrides: str, **options: object) -> Path:
    """Run what is missing of a grid, and write its tables; as `python reproduce.py`. Returns their folder.

    Keys of stages go through `overrides`: "select.budget=5k,10k".
    """
    prefixes = tuple(f"{stage}." for stage in ("select", "train", "evaluate"))
    of_stages = [word for word in overrides if word.startswith(prefixes)]
    own = [word for word in overrides if word not in of_stages]
    config = _read("reproduce", experiment.ReproduceConfig, own, {**options, "overrides": of_stages})
    return experiment.reproduce(config)


def _read(
    command: str, cls: type[Config], overrides: tuple[str, ...] | list[str], options: dict[str, object]
) -> Config:
    for name in _OF_COMMANDS:
        if options.get(name):
            raise UserError(f"{name}={options[name]}: is for the command line", f"use python {command}.py")
    words = [
        f"{key}={spell(str(value) if isinstance(value, Path) else value)}" for key, value in options.items()
    ]
    return read_config(cls, compose(command, [*overrides, *words]))
