"""The commands as functions: the same options, keys and folders as on the command line, without Hydra's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from smart import evaluation, experiment, selection, training
from smart.config import UserError, compose, conf_dir, read_config
from smart.config.command_line import literal
from smart.experiment.grid import gather_overrides
from smart.runtime.common_config import CommonConfig
from smart.runtime.logs import captured_log

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
    with captured_log():
        return selection.select(_read("select", selection.SelectConfig, overrides, options))


def train(*overrides: str, **options: object) -> training.TrainedAdapter:
    """Fine-tune on a mixture, or find it done; as `python train.py`. Arguments as `select` takes them."""
    with captured_log():
        return training.train(_read("train", training.TrainConfig, overrides, options))


def evaluate(*overrides: str, **options: object) -> evaluation.EvaluationScores:
    """Score an adapter or a model, or find it scored; as `python evaluate.py`. Arguments as `select` takes them."""
    with captured_log():
        return evaluation.evaluate(_read("evaluate", evaluation.EvaluateConfig, overrides, options))


def reproduce(*overrides: str, **options: object) -> Path:
    """Run what is missing of a grid, and write its tables; as `python reproduce.py`. Returns their folder.

    Keys of stages go through `overrides`: "select.budget=5k,10k".
    """
    with captured_log():
        config = _read("reproduce", experiment.ReproduceConfig, gather_overrides(overrides), options)
        return experiment.reproduce(config)


def _read(command: str, cls: type[Config], overrides: Sequence[str], options: Mapping[str, object]) -> Config:
    words = [f"{key}={_spell(value)}" for key, value in options.items() if not _is_unset(key, value)]
    config = read_config(cls, compose(command, [*overrides, *words], cls))
    for name in _OF_COMMANDS:
        if value := getattr(config, name, None):
            raise UserError(f"{name}={value}: is for the command line", f"use python {command}.py")
    return config


def _is_unset(key: str, value: object) -> bool:
    """A group that is None keeps its default."""
    return value is None and _is_group(key)


def _is_group(key: str) -> bool:
    return (conf_dir() / key).is_dir()


def _spell(value: object) -> str:
    """As the command line takes it; text stays text, whatever it looks like."""
    return literal(str(value) if isinstance(value, Path) else value)
