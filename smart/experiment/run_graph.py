"""The runs of stages behind a grid: each of them once, however many cells share it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smart.config import Problems, asked
from smart.config.command_line import literal, spell
from smart.experiment.grid import Grid, Values, overrides_of
from smart.experiment.stage_configs import CONFIGS, ComposeStage, StageConfig
from smart.runtime.content import ContentHashes
from smart.runtime.manifest import make_key
from smart.runtime.names import file_stem

FOLDERS = {"select": "mixtures", "train": "adapters", "evaluate": "scores"}
INPUTS = {"train": "mixture", "evaluate": "adapter"}
COMMANDS = {stage: f"python {stage}.py" for stage in FOLDERS}

_EQUAL = ("max_length", "batch_size", "epochs", "max_steps", "tuning.schedule", "tuning.warmup")


@dataclass(frozen=True)
class StageRun:
    """One run of one stage."""

    stage: str
    overrides: tuple[str, ...]
    """What the grid says of it, as on the command line."""
    source: StageRun | None
    """The run whose folder it reads."""
    folder: Path
    key: str
    """Hash of all that was asked for; the artifact's own key is in its manifest."""

    @property
    def id(self) -> str:
        return f"{self.stage}-{self.key[:8]}"

    @property
    def name(self) -> str:
        return self.folder.name

    def arguments(self, common: Sequence[str] = ()) -> list[str]:
        """What follows the command's name."""
        source = [f"{INPUTS[self.stage]}={literal(self.source.folder)}"] if self.source else []
        return [*source, *self.overrides, f"output={literal(self.folder)}", *common]


@dataclass(frozen=True)
class Cell:
    """A row of the table under one seed."""

    values: Values
    """The values that vary, without the fixed ones."""
    seed: int | None
    """None: a model that was not tuned."""
    runs: tuple[StageRun, ...]
    """Selection, training, evaluation; evaluation alone for a model that was not tuned."""

    @property
    def last(self) -> StageRun:
        return self.runs[-1]


@dataclass(frozen=True)
class Study:
    """A grid and its cells; `runs` has each run once, what is read before what reads it."""

    grid: Grid
    cells: tuple[Cell, ...]
    drawn: dict[str, bool]
    """Id of each selection → whether the seed varies it."""
    configs: dict[str, StageConfig]
    """Id of each run → its stage's configuration."""

    def config(self, run: StageRun) -> dict[str, Any]:
        """The configuration of a run, as composed."""
        return self.configs[run.id].config

    @property
    def runs(self) -> list[StageRun]:
        found = {run.id: run for cell in self.cells for run in cell.runs}
        return sorted(found.values(), key=lambda run: list(FOLDERS).index(run.stage))

    def users(self, run: StageRun) -> int:
        """How many cells need it."""
        return sum(run in cell.runs for cell in self.cells)


def build(
    grid: Grid,
    compose: ComposeStage,
    root: Path,
    versions: Mapping[str, int],
    content: ContentHashes | None = None,
) -> Study:
    """Compose every stage of every cell, and find what is shared.

    Args:
        root: the folder of artifacts.
        versions: of each stage, raised when its outputs change.
        content: hashes what the configurations name on this machine.

    Raises:
        ConfigError: where cells are not trained alike, so that their scores could not be compared.
    """
    maker = _Maker(compose, root, versions, content or ContentHashes())
    cells: list[Cell] = []
    drawn: dict[str, bool] = {}
    trained: dict[str, StageConfig] = {}
    for row in grid.rows():
        values = {**grid.fixed, **row}
        for seed in grid.seeds:
            selected, is_drawn = maker.select(values, seed)
            seeded = values if "train.seed" in values else {**values, "train.seed": seed}
            fitted = maker.make("train", overrides_of("train", seeded), selected)
            scored = maker.make("evaluate", overrides_of("evaluate", values), fitted)
            cells.append(Cell(row, seed, (selected, fitted, scored)))
            drawn[selected.id] = is_drawn
            trained[fitted.id] = compose("train", overrides_of("train", values))
    _check_equal(list(trained.values()))
    if grid.base_model:
        cells += _untuned(grid, maker)
    return Study(grid, tuple(cells), drawn, maker.configs)


def _untuned(grid: Grid, maker: _Maker) -> list[Cell]:
    found: dict[str, Cell] = {}
    for row in grid.rows():
        values = {**grid.fixed, **row}
        model = {key: value for key, value in values.items() if re.match(r"train\.model(\.|$)", key)}
        model = model or {"train.model": maker.compose("train", ()).choices["model"]}
        overrides = overrides_of("train", model) + overrides_of("evaluate", values)
        run = maker.make("evaluate", overrides, None)
        kept = {key: value for key, value in row.items() if key in model or key.startswith("evaluate.")}
        found.setdefault(run.id, Cell(kept, None, (run,)))
    return list(found.values())


def _check_equal(trained: Sequence[StageConfig]) -> None:
    """Cells of one table share model context, examples per optimiser step, epochs and schedule.

    Raises:
        ConfigError: with each key that differs.
    """
    problems = Problems()
    for key in _EQUAL:
        found = list(dict.fromkeys(spell(_setting(one, key)) for one in trained))
        if len(found) > 1:
            hint = "set train.max_length for all" if key == "max_length" else "make one table for each"
            problems.add(f"train.{key}", ", ".join(found), "differs between cells of one table", hint)
    problems.raise_if_any()


def _setting(composed: StageConfig, key: str) -> Any:
    value: Any = composed.config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if key == "max_length" and value is None:  # then the model decides
        return (composed.config.get("model") or {}).get("context")
    return value


@dataclass(frozen=True)
class _Maker:
    compose: ComposeStage
    root: Path
    versions: Mapping[str, int]
    content: ContentHashes
    configs: dict[str, StageConfig] = field(default_factory=dict)

    def select(self, values: Values, seed: int) -> tuple[StageRun, bool]:
        overrides = overrides_of("select", values)
        drawn = self.compose("select", overrides).drawn and "select.seed" not in values
        return self.make("select", (*overrides, f"seed={seed}") if drawn else overrides, None), drawn

    def make(self, stage: str, overrides: tuple[str, ...], source: StageRun | None) -> StageRun:
        composed = self.compose(stage, overrides)
        config = asked(CONFIGS[stage], composed.config)
        inputs = [source.key] if source else []
        key = make_key(
            {"stage": stage, **config, "files": named_files(config, self.root, self.content)},
            inputs,
            self.versions.get(stage, 0),
        )
        folder = self.root / FOLDERS[stage] / f"{_stem(stage, composed, source)}-{key[:8]}"
        run = StageRun(stage, overrides, source, folder, key)
        self.configs[run.id] = composed
        return run


def _stem(stage: str, composed: StageConfig, source: StageRun | None) -> str:
    """What a person looks for in a list of folders; the same from every grid that needs the run."""
    config, choices = composed.config, composed.choices
    parts = [source.name.rpartition("-")[0]] if source else []
    if stage == "select":
        preset = choices.get("strategy", "smart")
        how = [choices["fn"], choices["instance_fn"]] if preset == "smart" else [preset]
        tasks = [f"{config['num_tasks']}tasks"] if config["num_tasks"] else []
        parts += [choices["collection"], str(config["budget"]), *tasks, *how]
        parts += [f"seed{config['seed']}"] if composed.drawn else []
    else:
        model = choices.get("model")
        named = config["model"]["name"].rstrip("/").rpartition("/")[2] if model == "auto" else model
        parts += [str(named)] if stage == "train" or source is None else []
        parts += [f"seed{config['seed']}"] if stage == "train" else [choices["suite"]]
    return file_stem(re.sub(r"[^\w.-]+", "_", "-".join(parts).replace("%", "pct")))


def named_files(tree: Any, root: Path, content: ContentHashes) -> list[list[str]]:
    """Content of every local file or folder that the configuration names: another content is another run.

    What lies under `root` is ours, and named by what decides it.
    """
    if isinstance(tree, Mapping):
        return [found for value in tree.values() for found in named_files(value, root, content)]
    if isinstance(tree, list):
        return [found for value in tree for found in named_files(value, root, content)]
    if not isinstance(tree, str) or not tree.strip("./") or not os.path.exists(tree):
        return []
    if Path(tree).resolve().is_relative_to(root.resolve()):
        return []
    return [[tree, content(Path(tree))]]
