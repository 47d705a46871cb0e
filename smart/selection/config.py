"""What a selection was asked for: the composed configuration, read and checked before any work."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from omegaconf import DictConfig, OmegaConf

from smart.collection import Source
from smart.config import Count, Problems, nearest, parse_count
from smart.embedding import Encoder, Precomputed
from smart.mixture import Weighting
from smart.runtime.tracking import Tracker
from smart.selection.decontamination import MODES

GROUPS = ("collection", "encoder", "fn", "weighting", "instance_fn", "strategy")


@dataclass(frozen=True)
class Axis:
    """A set function that decides tasks (fn) or rows (instance_fn), still without its vectors."""

    name: str
    config: dict[str, Any]
    make: Callable[..., Any]

    @property
    def needs_vectors(self) -> bool:
        return self._says("needs_vectors", True)

    @property
    def single_threaded(self) -> bool:
        return self._says("single_threaded", False)

    def _says(self, name: str, otherwise: bool) -> bool:
        return getattr(getattr(self.make, "func", self.make), name, otherwise)


@dataclass(frozen=True)
class Request:
    config: dict[str, Any]
    """All of it, resolved, for the manifest."""
    choices: dict[str, str]
    """Which file of each group was chosen."""
    collection: Source
    encoder: Encoder | Precomputed
    fn: Axis
    weighting: Weighting
    instance_fn: Axis
    tracker: Tracker
    budget: Count
    num_tasks: int | None
    validation_rows: int
    threads: int
    output: Path | None
    benchmark_data: Path | None
    heldout_data: Path | None

    def __getattr__(self, key: str) -> Any:
        """A plain value of the configuration: request.seed."""
        try:
            return self.config[key]
        except KeyError:
            raise AttributeError(key) from None

    @property
    def root(self) -> Path:
        return Path(str(self.config["output_root"]))

    @property
    def strategy(self) -> str:
        return self.choices["strategy"]

    @property
    def needs_vectors(self) -> bool:
        return self.fn.needs_vectors or self.instance_fn.needs_vectors

    def deciding(self) -> dict[str, Any]:
        """The part of the configuration that decides the mixture, beside its pool, vectors and number of rows."""
        keys = ["fn", "weighting", "instance_fn", "num_tasks", "seed", "optimizer"]
        keys += ["tokenizer", "max_length"] if self.tokenizer else []
        keys += ["decontaminate"] if self.decontaminate else []
        return {**{key: self.config[key] for key in keys}, "validation_rows": self.validation_rows}


def read_request(config: DictConfig, choices: dict[str, str]) -> Request:
    """Instantiate and check every option.

    Args:
        choices: which file of each group was chosen, for names.

    Raises:
        ConfigError: every wrong value, together.
    """
    from hydra.utils import instantiate

    plain = cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True))
    problems = Problems()
    collection, encoder, weighting = (
        instantiate(config[name]) for name in ("collection", "encoder", "weighting")
    )
    tracker = Tracker(**plain["tracker"])
    parts = {"collection": collection, "encoder": encoder, "weighting": weighting, "tracker": tracker}
    for name, part in parts.items():
        before = len(problems.found)
        problems.check_types(part, f"{name}.")
        if len(problems.found) == before:  # a comparison of wrong types would be a traceback
            part.validate(problems)
    fn, instance_fn = (_axis(config[name], choices[name], name, problems) for name in ("fn", "instance_fn"))
    budget = problems.attempt(parse_count, plain["budget"], "budget")
    validation_rows = plain["validation_rows"]
    if validation_rows != 0:
        count = problems.attempt(parse_count, validation_rows, "validation_rows")
        validation_rows = count.number if count else None
        if count and count.number is None:
            problems.add(
                "validation_rows", count.text, "must be a number of rows", "such as 2000, or 0 for none"
            )
    _check_values(plain, problems)
    problems.raise_if_any()
    assert budget is not None
    assert isinstance(validation_rows, int)
    return Request(
        config=plain,
        choices={key: str(choices[key]) for key in GROUPS},
        collection=collection,
        encoder=encoder,
        fn=fn,
        weighting=weighting,
        instance_fn=instance_fn,
        tracker=tracker,
        budget=budget,
        num_tasks=plain["num_tasks"],
        validation_rows=validation_rows,
        threads=plain["threads"] or len(os.sched_getaffinity(0)),
        output=Path(str(plain["output"])) if plain["output"] else None,
        benchmark_data=Path(str(plain["benchmark_data"])) if plain["benchmark_data"] else None,
        heldout_data=Path(str(plain["heldout_data"])) if plain["heldout_data"] else None,
    )


def _axis(config: DictConfig, name: str, key: str, problems: Problems) -> Axis:
    from hydra.utils import instantiate

    axis = Axis(
        name, cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True)), instantiate(config)
    )
    try:  # its parameters are checked where it is made, so make one of two rows
        axis.make(np.eye(2, dtype=np.float32)) if axis.needs_vectors else axis.make(n=2, seed=0)
    except (ValueError, TypeError) as error:
        problems.found.append(f"{key}: {error}")
    return axis


def _check_values(plain: dict[str, Any], problems: Problems) -> None:
    from smart.submodular.resources import parse_memory

    whole = {"num_tasks": "leave it null for all tasks", "threads": "leave it null for all cores"}
    for key, way_out in whole.items():
        value = plain[key]
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            problems.add(key, value, "must be a whole number, at least 1", way_out)
    if isinstance(plain["seed"], bool) or not isinstance(plain["seed"], int) or plain["seed"] < 0:
        problems.add("seed", plain["seed"], "must be a whole number, at least 0")
    if plain["optimizer"] not in (known := ("exact", "partition")):
        problems.add(
            "optimizer", plain["optimizer"], f"no such optimizer. {nearest(plain['optimizer'], known)}"
        )
    if plain["decontaminate"] not in (None, *MODES):
        problems.add(
            "decontaminate", plain["decontaminate"], f"no such mode. {nearest(plain['decontaminate'], MODES)}"
        )
    if plain["heldout_data"] and not plain["decontaminate"]:
        problems.add(
            "heldout_data", plain["heldout_data"], "is looked for only with decontaminate=report or drop"
        )
    if plain["tokenizer"] and (not isinstance(plain["max_length"], int) or plain["max_length"] < 2):
        problems.add("max_length", plain["max_length"], "must be a whole number of tokens, at least 2")
    try:
        parse_memory(plain["memory_limit"])
    except ValueError as error:
        problems.found.append(str(error))
