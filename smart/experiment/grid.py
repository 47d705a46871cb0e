"""A grid: which keys of which stages vary, and the rows of the table that follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from smart.config import Problems, nearest
from smart.config.command_line import spell

STAGES = ("select", "train", "evaluate")

AMOUNTS = ("select.budget", "select.num_tasks")

Values = dict[str, Any]
"""Key with its stage before it → value: {"select.budget": "25k", "train.model": "mistral_7b"}."""


@dataclass(frozen=True)
class Grid:
    """Every combination of what varies, each once per seed."""

    name: str
    axes: dict[str, list[Any]]
    """What varies: key → its values; the table has a row for each combination."""
    fixed: Values
    seeds: tuple[int, ...]
    baseline: Values
    """The values that make a row the one with which the others of its block are compared; empty: none."""
    base_model: bool
    """Score each model without tuning, too."""

    @classmethod
    def of(
        cls,
        name: str,
        settings: Mapping[str, Any],
        *,
        seeds: Sequence[int] = (23,),
        baseline: Mapping[str, Any] | None = None,
        base_model: bool = False,
    ) -> Grid:
        """Read what the YAML and the command line say: a list is swept; a list in a list is one value.

        Raises:
            ConfigError: for keys of no stage, empty lists, no seeds, or a baseline that is not in the grid.

        >>> Grid.of("mine", {"select.budget": ["25k", "50k"], "train.model": "tiny_llama"}).axes
        {'select.budget': ['25k', '50k']}
        """
        problems = Problems()
        for key, value in settings.items():
            stage, _, rest = key.partition(".")
            if stage not in STAGES or not rest:
                problems.add(key, value, f"needs the stage before the key. {nearest(stage, STAGES)}")
            if value == []:
                problems.add(key, value, "is swept over no value")
        if not seeds or any(isinstance(seed, bool) or not isinstance(seed, int) for seed in seeds):
            problems.add("seeds", list(seeds), "must be whole numbers", "such as seeds=[1,2,3]")
        # A value named twice is one value: its runs would stand for seeds that they are not.
        swept = {key: _distinct(value) for key, value in settings.items() if isinstance(value, list)}
        axes = {key: value for key, value in swept.items() if len(value) > 1}
        fixed = {key: swept.get(key, value) for key, value in settings.items() if key not in axes}
        fixed = {
            key: value[0] if isinstance(value, list) and value else value for key, value in fixed.items()
        }
        for key, value in (baseline or {}).items():
            if key in axes and value not in axes[key]:
                problems.add(f"baseline.{key}", value, "is not in the grid", f"it has {axes[key]}")
        problems.raise_if_any()
        # A baseline in what does not vary here says nothing, as when a sweep is narrowed to one value.
        kept = {key: value for key, value in (baseline or {}).items() if key in axes}
        axes = dict(sorted(axes.items(), key=lambda axis: axis[0] in kept))  # what competes stands together
        return cls(name, axes, fixed, tuple(dict.fromkeys(seeds)), kept, base_model)

    def rows(self) -> list[Values]:
        """The combinations, what varies alone."""
        return [dict(zip(self.axes, values, strict=True)) for values in product(*self.axes.values())]

    def block(self, row: Values) -> tuple[str, ...]:
        """Rows of one block compete: they differ only in what the baseline names.

        Without a baseline, all compete that are scored alike.
        """
        apart = [key for key in self.axes if self.baseline or key.startswith("evaluate.")]
        return tuple(spell(row[key]) for key in apart if key not in self.baseline)

    def scored_by(self, row: Values) -> tuple[str, ...]:
        """Rows with the same are asked the same questions in the same way."""
        return tuple(spell(row[key]) for key in self.axes if key.startswith("evaluate."))

    def contender(self, row: Values) -> str:
        """What a row stands for, apart from how much it is given: its name in figures, where it has one colour."""
        keys = [key for key in self.baseline if key not in AMOUNTS]
        keys = keys or [key for key in self.axes if key.startswith("select.") and key not in AMOUNTS]
        return ", ".join(shown(key, row[key]) for key in keys if key in row) or self.name

    def is_baseline(self, row: Values) -> bool:
        return bool(self.baseline) and all(row[key] == value for key, value in self.baseline.items())


def _distinct(values: Sequence[Any]) -> list[Any]:
    return list({spell(value): value for value in reversed(values)}.values())[::-1]


def overrides_of(stage: str, values: Values) -> tuple[str, ...]:
    """The part of `values` that is for `stage`, as its command line takes it.

    >>> overrides_of("select", {"select.budget": "25k", "select.num_tasks": None, "train.epochs": 2})
    ('budget=25k', 'num_tasks=null')
    """
    mine = ((key.partition(".")[2], value) for key, value in values.items() if key.startswith(f"{stage}."))
    return tuple(f"{key}={spell(value)}" for key, value in mine)


def heading(key: str) -> str:
    """select.num_tasks as the head of a column: num_tasks."""
    return key.partition(".")[2].removesuffix(".name")


def shown(key: str, value: Any) -> str:
    """A value as a table shows it."""
    if value is None:
        return "all" if key == "select.num_tasks" else "null"
    return value if isinstance(value, str) else spell(value)


def gather_overrides(arguments: Sequence[str]) -> list[str]:
    """Keys with a stage before them, of which Hydra knows nothing here, become one list that it knows.

    >>> gather_overrides(["table=main", "select.budget=5k,10k"])
    ['table=main', "overrides=['select.budget=5k,10k']"]
    """
    prefixes = tuple(f"{stage}." for stage in STAGES)
    mine = [argument for argument in arguments if argument.lstrip("+").startswith(prefixes)]
    rest = [argument for argument in arguments if argument not in mine]
    return [*rest, f"overrides={spell([argument.lstrip('+') for argument in mine])}"] if mine else rest
