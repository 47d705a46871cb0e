"""plan=true: the graph of stages, what is shared, how far each is, and what the rest would cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from smart.config import counted
from smart.experiment.estimate import TOKENS, Estimate, Texts, estimate
from smart.experiment.grid import heading, shown
from smart.experiment.run_graph import FOLDERS, Cell, StageRun, Study
from smart.experiment.status import RunLog, Status, is_done, manifest_of
from smart.runtime.speed import A100, Speed

_MARK = {
    Status.DONE: "x",
    Status.WAITING: " ",
    Status.FAILED: "!",
    Status.INFEASIBLE: "-",
    Status.STOPPED: "-",
}


@dataclass(frozen=True)
class Basis:
    """What estimates rest on."""

    texts: Mapping[str, Texts] = field(default_factory=dict)
    """Id of a run → the rows that it reads, where they are known."""
    speed: Speed = A100
    gpu: bool = False
    """Whether `speed` is that of a GPU here."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """Id of a selection → why nothing is known of its pool."""

    def sentence(self) -> str:
        where = "as on this GPU" if self.gpu else "on one A100"
        lengths = "real lengths of rows where they are known" if self.texts else "no rows are known yet"
        return (
            f"One run after the other. Estimates, good for a factor of two or so: time by {self.speed.name};"
            f" GPU-hours {where}; {lengths}, else {TOKENS} tokens a row."
        )


def describe_plan(
    study: Study, run_log: RunLog, infeasible: Mapping[str, str], basis: Basis | None = None
) -> str:
    """A page of text.

    Args:
        infeasible: id of a selection → why its tasks cannot give its budget.
        basis: of estimates; None: one A100, and no rows known.
    """
    basis = basis or Basis()
    states = known_statuses(study, run_log, infeasible)
    cells = [_cell_state(cell, states) for cell in study.cells]
    counts = ", ".join(f"{cells.count(state)} {state}" for state in Status if state in cells)
    lines = [
        f"Plan: table {study.grid.name}, {counted(len(study.cells), 'cell')} ({counts}),"
        f" {counted(len(study.runs), 'run')} of stages",
        "",
    ]
    lines += _shared(study)
    for run in study.runs:
        if run.source is None:
            lines += _branch(study, run, states, infeasible, 0)
    lines += ["", "x done, ! failed, - infeasible, or after one that is", "", *_costs(study, states, basis)]
    lines += [f"  {run.id}: {why}" for run in study.runs if (why := infeasible.get(run.id))]
    return "\n".join(lines)


def known_statuses(study: Study, run_log: RunLog, infeasible: Mapping[str, str]) -> dict[str, Status]:
    """Id of each run → its status, with what is known before it is tried."""
    states: dict[str, Status] = {}
    for run in study.runs:
        state = run_log.status(run)
        if state is not Status.DONE and run.id in infeasible:
            state = Status.INFEASIBLE
        if run.source and states[run.source.id] in (Status.FAILED, Status.INFEASIBLE, Status.STOPPED):
            state = Status.STOPPED
        states[run.id] = state
    return states


def _cell_state(cell: Cell, states: Mapping[str, Status]) -> Status:
    found = [states[run.id] for run in cell.runs]
    return next((state for state in (Status.FAILED, Status.INFEASIBLE) if state in found), found[-1])


def _shared(study: Study) -> list[str]:
    """What selections share through the cache, beneath the runs themselves."""
    selections = [run for run in study.runs if run.stage == "select"]
    if not selections:
        return []
    configs = [study.configs[run.id] for run in selections]
    vectors = {config.vectors for config in configs if config.vectors}
    orders = {config.orderings for config in configs if config.orderings}
    return [
        f"  shared by {counted(len(selections), 'selection')}: embeddings of {counted(len(vectors), 'pool')},"
        f" {counted(len(orders), 'set')} of orderings (made once, whatever the budget)",
    ]


def _branch(
    study: Study, run: StageRun, states: Mapping[str, Status], infeasible: Mapping[str, str], depth: int
) -> list[str]:
    users = study.users(run)
    shared = f"  for {counted(users, 'cell')}" if users > 1 else ""
    lead = f"  {'│  ' * max(0, depth - 1)}{'└─ ' if depth else ''}[{_MARK[states[run.id]]}]"
    line = f"{lead} {run.stage:<8} {run.name}  {run.id}{shared}"
    readers = [reader for reader in study.runs if reader.source and reader.source.id == run.id]
    return [
        line,
        *(text for reader in readers for text in _branch(study, reader, states, infeasible, depth + 1)),
    ]


@dataclass(frozen=True)
class Cost:
    """What is left of one stage."""

    left: int
    seconds: float | None
    """Time for all that is left, here; None where it cannot be told."""
    gpu_seconds: float | None
    bytes: float | None
    measured: bool
    """From the runs of this study that are done; otherwise by estimate()."""


def costs(study: Study, states: Mapping[str, Status], basis: Basis) -> dict[str, Cost]:
    """Stage → what is left of it."""
    found = {}
    for stage in FOLDERS:
        runs = [run for run in study.runs if run.stage == stage]
        done = [run for run in runs if states[run.id] is Status.DONE]
        left = [run for run in runs if states[run.id] in (Status.WAITING, Status.FAILED)]
        here, there = ([_guess(study, run, basis, speed) for run in left] for speed in (basis.speed, A100))
        seconds, size = _total([guess.seconds for guess in here]), _total([guess.bytes for guess in here])
        if done:
            seconds = float(np.mean([_seconds(run) for run in done])) * len(left)
            size = float(np.mean([_size(run.folder) for run in done])) * len(left)
        gpu_seconds = seconds if basis.gpu else _total([guess.seconds for guess in there])
        found[stage] = Cost(
            len(left), seconds, 0.0 if stage == "select" else gpu_seconds, size, measured=bool(done)
        )
    return found


def _guess(study: Study, run: StageRun, basis: Basis, speed: Speed) -> Estimate:
    source = study.config(run.source) if run.source else None
    return estimate(run.stage, study.config(run), source, speed, basis.texts.get(run.id))


def _total(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _seconds(run: StageRun) -> float:
    seconds = manifest_of(run).get("seconds", 0)
    if isinstance(seconds, Mapping):
        return float(seconds.get("all", sum(seconds.values())))
    return float(seconds)


def spent(study: Study) -> list[list[str]]:
    """What the runs that are done took, by their manifests: stage, runs, hours one after the other, most memory."""
    lines = []
    for stage in FOLDERS:
        done = [run for run in study.runs if run.stage == stage and is_done(run)]
        peaks = [manifest_of(run).get("peak_memory") for run in done]
        most = max((peak for peak in peaks if peak), default=None)
        if done:
            hours = f"{sum(map(_seconds, done)) / 3600:.2f}"
            lines.append([stage, str(len(done)), hours, "" if most is None else f"{most / 1e9:.2f} GB"])
    return lines


def _costs(study: Study, states: Mapping[str, Status], basis: Basis) -> list[str]:
    lines = [f"  {'stage':<10}{'left':>6}{'time':>12}{'GPU-hours':>11}{'disk':>12}"]
    for stage, cost in costs(study, states, basis).items():
        time = "?" if cost.seconds is None else _time(cost.seconds)
        hours = "?" if cost.gpu_seconds is None else f"{cost.gpu_seconds / 3600:.2f}"
        disk = "?" if cost.bytes is None else f"{cost.bytes / 1e6:,.1f} MB"
        known = "as measured here" if cost.measured else "estimate"
        lines.append(
            f"  {stage:<10}{cost.left:>6}{time:>12}{hours:>11}{disk:>12}  {known if cost.left else ''}"
        )
    unread = [
        f"  Not known: the pool of {counted(count, 'selection')}, and whether its rows are enough: {why}"
        for why, count in Counter(basis.unread.values()).items()
    ]
    return [*lines, f"  {basis.sentence()}", *unread]


def _time(seconds: float) -> str:
    return (
        f"{seconds:,.0f} s"
        if seconds < 120
        else f"{seconds / 60:,.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:,.1f} h"
    )


def describe(cell: Cell, study: Study) -> str:
    """A cell in one line: budget=25k, strategy=smart, seed=1."""
    said = [f"{heading(key)}={shown(key, value)}" for key, value in cell.values.items()]
    return ", ".join([*said, "untuned" if cell.seed is None else f"seed={cell.seed}"])
