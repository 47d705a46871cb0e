"""plan=true: the graph of stages, what is shared, how far each is, and what the rest would cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from smart.experiment.estimate import TOKENS, Estimate, estimate
from smart.experiment.grid import heading, shown
from smart.experiment.stages import FOLDERS, Cell, Run, Study
from smart.experiment.states import Ledger, State, manifest_of

_MARK = {State.DONE: "x", State.WAITING: " ", State.FAILED: "!", State.INFEASIBLE: "-", State.STOPPED: "-"}


def outlook(study: Study, ledger: Ledger, infeasible: Mapping[str, str]) -> str:
    """A page of text.

    Args:
        infeasible: id of a selection → why its tasks cannot give its budget.
    """
    states = known_states(study, ledger, infeasible)
    cells = [_cell_state(cell, states) for cell in study.cells]
    counts = ", ".join(f"{cells.count(state)} {state}" for state in State if state in cells)
    lines = [
        f"Plan: table {study.grid.name}, {len(study.cells)} cells ({counts}), {len(study.runs)} runs of stages",
        "",
    ]
    lines += _shared(study)
    for run in study.runs:
        if run.source is None:
            lines += _branch(study, run, states, infeasible, 0)
    lines += ["", "x done, ! failed, - infeasible, or after one that is", "", *_costs(study, states)]
    lines += [f"  {run.id}: {why}" for run in study.runs if (why := infeasible.get(run.id))]
    return "\n".join(lines)


def known_states(study: Study, ledger: Ledger, infeasible: Mapping[str, str]) -> dict[str, State]:
    """Of each run, with what is known before it is tried."""
    states: dict[str, State] = {}
    for run in study.runs:
        state = ledger.state(run)
        if state is not State.DONE and run.id in infeasible:
            state = State.INFEASIBLE
        if run.source and states[run.source.id] in (State.FAILED, State.INFEASIBLE, State.STOPPED):
            state = State.STOPPED
        states[run.id] = state
    return states


def _cell_state(cell: Cell, states: Mapping[str, State]) -> State:
    found = [states[run.id] for run in cell.runs]
    return next((state for state in (State.FAILED, State.INFEASIBLE) if state in found), found[-1])


def _shared(study: Study) -> list[str]:
    """What selections share through the cache, beneath the runs themselves."""
    selections = [run for run in study.runs if run.stage == "select"]
    if not selections:
        return []
    pools = {pool_of(run) for run in selections}
    orders = {pool_of(run, ("instance_fn",)) for run in selections}
    return [
        f"  shared by {len(selections)} selections: embeddings of {len(pools)} pool(s),"
        f" {len(orders)} set(s) of orderings (made once, whatever the budget)",
    ]


def pool_of(run: Run, more: tuple[str, ...] = ()) -> tuple[str, ...]:
    """What decides the vectors of a selection."""
    keys = ("collection", "encoder", "tokenizer", "max_length", *more)
    return tuple(sorted(o for o in run.overrides if o.partition("=")[0].split(".")[0] in keys))


def _branch(
    study: Study, run: Run, states: Mapping[str, State], infeasible: Mapping[str, str], depth: int
) -> list[str]:
    users = study.users(run)
    shared = f"  for {users} cells" if users > 1 else ""
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
    """Of all that is left; None where it cannot be told."""
    bytes: float | None
    measured: bool
    """From the runs of this study that are done; otherwise by estimate()."""


def costs(study: Study, states: Mapping[str, State]) -> dict[str, Cost]:
    """Of each stage."""
    found = {}
    for stage in FOLDERS:
        runs = [run for run in study.runs if run.stage == stage]
        done = [run for run in runs if states[run.id] is State.DONE]
        left = [run for run in runs if states[run.id] in (State.WAITING, State.FAILED)]
        if done:
            seconds = float(np.mean([_seconds(run) for run in done])) * len(left)
            sizes = float(np.mean([_size(run.folder) for run in done])) * len(left)
            found[stage] = Cost(len(left), seconds, sizes, True)
        else:
            guesses = [_guess(study, run) for run in left]
            times, bytes_ = [g.seconds for g in guesses], [g.bytes for g in guesses]
            found[stage] = Cost(len(left), _total(times), _total(bytes_), False)
    return found


def _guess(study: Study, run: Run) -> Estimate:
    source = study.configs[run.source.id] if run.source else None
    return estimate(run.stage, study.configs[run.id], source)


def _total(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _seconds(run: Run) -> float:
    seconds = manifest_of(run).get("seconds", 0)
    if isinstance(seconds, Mapping):
        return float(seconds.get("all", sum(seconds.values())))
    return float(seconds)


def _costs(study: Study, states: Mapping[str, State]) -> list[str]:
    lines = [f"  {'stage':<10}{'left':>6}{'time':>12}{'GPU-hours':>11}{'disk':>12}"]
    for stage, cost in costs(study, states).items():
        time, hours, disk = "?", "?", "?"
        if cost.seconds is not None:
            time, hours = _time(cost.seconds), f"{cost.seconds / 3600:.2f}"
        if cost.bytes is not None:
            disk = f"{cost.bytes / 1e6:,.0f} MB"
        hours = "0" if stage == "select" else hours
        basis = "as measured here" if cost.measured else "estimate"
        lines.append(
            f"  {stage:<10}{cost.left:>6}{time:>12}{hours:>11}{disk:>12}  {basis if cost.left else ''}"
        )
    return [*lines, f"  One run after the other; estimates are for one A100 and rows of {TOKENS} tokens."]


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
