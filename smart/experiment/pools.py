"""Pools of a grid's selections: each is read once, however many cells choose from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from smart.config import Infeasible, UserError, compose, counted, read_config
from smart.config.command_line import literal
from smart.experiment.report import TaskMap
from smart.experiment.run_graph import StageRun, Study
from smart.experiment.status import is_done
from smart.mixture.figures import project
from smart.runtime.names import joined
from smart.selection import SelectConfig
from smart.selection.keys import pool_key
from smart.selection.pool import Pool, read_pool
from smart.selection.tasks import resolve_sizes
from smart.selection.vectors import make_vectors


@dataclass
class Pools:
    """Reads the pools of selections, and keeps them."""

    root: Path
    """The folder of artifacts."""
    unread: dict[str, str] = field(default_factory=dict)
    """Id of a selection → why `of_study` could not read its pool."""
    _known: dict[str, Pool] = field(default_factory=dict)

    def read(self, run: StageRun) -> tuple[SelectConfig, Pool]:
        """A selection's options and its pool.

        Raises:
            UserError: where the pool cannot be read here.
        """
        overrides = [*run.overrides, f"output_root={literal(self.root)}"]
        # A plan writes nothing, but a collection that is kept already may be read.
        overrides += [] if (self.root / "cache/collections").exists() else ["plan=true"]
        composed = compose("select", overrides)
        if composed.values.get("deduplicate"):  # looking for duplicates takes too long for a plan, and writes
            composed = compose("select", [*overrides, "plan=true"])
        config, key = read_config(SelectConfig, composed), pool_key(composed)
        if key not in self._known:
            self._known[key] = read_pool(config)
        return config, self._known[key]

    def of_study(self, study: Study) -> dict[str, tuple[SelectConfig, Pool]]:
        """Id of each selection that is still to be made → its options and pool, where it can be read here."""
        found, unread = {}, {}
        for run in study.runs:
            if run.stage != "select" or is_done(run):
                continue
            pool = study.configs[run.id].pool or run.id
            if pool not in unread:
                try:
                    found[run.id] = self.read(run)
                    continue
                except (UserError, OSError) as error:
                    unread[pool] = str(error).splitlines()[0]
            self.unread[run.id] = unread[pool]
        return found


def infeasible(pools: dict[str, tuple[SelectConfig, Pool]]) -> dict[str, str]:
    """Id of each selection that cannot be made → why, as far as its pool's sizes tell."""
    found: dict[str, str] = {}
    for run, (config, pool) in pools.items():
        try:
            num_tasks, budget = resolve_sizes(config, pool)
        except Infeasible as error:
            found[run] = str(error)
            continue
        held = int(np.sort(pool.groups.sizes.sum(axis=1))[-num_tasks:].sum())
        if budget > held:
            found[run] = (
                f"budget={config.budget.text}: any {counted(num_tasks, 'task')} of the pool can give"
                f" at most {counted(held, 'row')}"
            )
    return found


def task_map(study: Study, pools: Pools) -> TaskMap | None:
    """Where the tasks of the first finished selection with vectors lie; None where there is none."""
    for run in study.runs:
        if run.stage == "select" and is_done(run):
            config, pool = pools.read(run)
            made = make_vectors(config, pool)
            if made is not None and len(pool.groups.tasks) > 1:
                return TaskMap([joined(*task) for task in pool.groups.tasks], *project(made[1].task_means))
    return None
