"""Configurations of the stages of a grid, as their own commands would compose them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from smart.config import compose
from smart.evaluation import EvaluateConfig
from smart.runtime.common_config import CommonConfig
from smart.selection import SelectConfig
from smart.selection.keys import needs_vectors, ordering_request_key, pool_key, vectors_key
from smart.training import TrainConfig

CONFIGS: dict[str, type[CommonConfig]] = {
    "select": SelectConfig,
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
}
"""Stage → its options."""


@dataclass(frozen=True)
class StageConfig:
    """A stage's configuration, and what can be told from it alone."""

    config: dict[str, Any]
    """Key → value, as composed, before interpolations are resolved."""
    choices: dict[str, str]
    drawn: bool = False
    """Whether the stage draws its rows at random, so that its seed matters."""
    pool: str | None = None
    """Key of the pool that a selection reads."""
    vectors: str | None = None
    """Key of the vectors that a selection reads; None where it needs none."""
    orderings: str | None = None
    """Key of the orderings that a selection reads; None where it needs none."""


ComposeStage = Callable[[str, tuple[str, ...]], StageConfig]


@cache
def compose_stage(stage: str, overrides: tuple[str, ...]) -> StageConfig:
    """What the stage's own command would compose.

    Raises:
        UserError, or Hydra's errors: for keys and choices that do not exist.
    """
    composed = compose(stage, overrides)
    if stage != "select":
        return StageConfig(dict(composed.raw), dict(composed.choices))
    values = composed.values
    drawn = not all(needs_vectors(values[axis]) for axis in ("fn", "instance_fn"))
    return StageConfig(
        dict(composed.raw),
        dict(composed.choices),
        drawn=drawn or values.get("optimizer") == "partition",
        pool=pool_key(composed),
        vectors=vectors_key(composed),
        orderings=ordering_request_key(composed),
    )
