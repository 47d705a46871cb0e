"""What a study is asked for: the options of reproduce.py, typed and checked before any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from smart.config import Problems, option
from smart.config.command_line import shell_line
from smart.config.types import Folder, Names, Seed
from smart.experiment.grid import Grid
from smart.runtime.common_config import CommonConfig
from smart.runtime.names import file_stem


@dataclass(frozen=True, kw_only=True)
class ReproduceConfig(CommonConfig):
    """The options of `python reproduce.py`. conf/reproduce.yaml has the defaults."""

    title: str | None = option(None, role="input", through="grid")
    """Title of the table and the report; None: the name of the table's file."""
    grid: dict[str, Any] = option(default_factory=dict, role="input", through="grid")
    """Key with its stage before it → value, or a list of values to sweep."""
    seeds: list[Any] = option(default_factory=lambda: [1, 2, 3], role="input", through="grid")
    """Each combination runs once per seed."""
    baseline: dict[str, Any] | None = option(default_factory=dict, role="input", through="grid")
    """Values that make a row the one with which the others are compared; None: no row."""
    base_model: bool = option(True, role="input", through="grid")
    """Score each model without tuning, too."""
    metrics: Names | None = option(
        None, added=True, hint="such as metrics=[mmlu/acc]; null for all of the suite"
    )
    """Names such as mmlu/acc; None: all that the suite has."""
    reference: Folder | None = option(None, role="input", through="published values")
    """A CSV of published values with their source; adds a column."""
    heldout: dict[str, Any] | None = option(None, role="input", through="scores")
    """A collection of unseen tasks for evaluate.suite=heldout; None: none."""
    run: str | None = option(None, role="free")
    """One run of the plan, by its id (launchers are given these)."""
    overrides: Names = option((), role="input", through="grid")
    """Keys with a stage, from the command line."""
    seed: Seed = option(23, role="free")
    """Not used: `seeds` are those of the runs."""

    def validate(self, problems: Problems) -> None:
        """Add a collection of unseen tasks that is none."""
        if self.heldout is not None and "_target_" not in self.heldout:
            problems.add(
                "heldout", self.heldout, "must be a mapping with _target_", "see conf/table/quickstart.yaml"
            )

    @property
    def name(self) -> str:
        """Name of the table: the file of conf/table."""
        return file_stem(str(self.composed.choices["table"]))

    def make_grid(self, heldout_file: str | None) -> Grid:
        """The grid of the file, with what the command line says of it.

        Args:
            heldout_file: the file of unseen tasks, where the configuration makes one.
        """
        settings = {**self.grid, **parse_overrides(self.overrides)}
        if heldout_file:
            settings.setdefault("evaluate.suite.collection", heldout_file)
        untuned = self.base_model or self.fetch_only
        return Grid.of(self.name, settings, seeds=self.seeds, baseline=self.baseline, base_model=untuned)

    def command(self, *more: str) -> str:
        """What the user typed, or could have; `more` takes the place of what was said about the same keys."""
        given = [word for word in self.composed.overrides if not word.startswith("overrides=")]
        other = tuple(word.partition("=")[0] + "=" for word in more)
        words = [word for word in (*given, *self.overrides) if not word.startswith(other)]
        return shell_line("python reproduce.py", *self.composed.flags, *words, *more)


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Key → value, or a list where several are swept.

    >>> parse_overrides(["select.budget=5k,10k", "train.epochs=2"])
    {'select.budget': ['5k', '10k'], 'train.epochs': 2}
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import QuotedString

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(item) for item in value]
        return value.text if isinstance(value, QuotedString) else value

    found: dict[str, Any] = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        if override.is_sweep_override():
            found[override.key_or_group] = [plain(value) for value in override.sweep_iterator()]
        else:
            found[override.key_or_group] = plain(override._value)
    return found
