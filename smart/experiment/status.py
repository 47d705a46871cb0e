"""What has become of each run, from what lies on the disk."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from smart.experiment.run_graph import Cell, Run, Study
from smart.runtime.files import write_atomic
from smart.runtime.manifest import read_manifest

_TOO_FEW = re.compile(r"selected tasks hold \d+ rows|the pool holds [\d,]+ rows|the pool has \d+ tasks")
"""What the selection says where the tasks hold fewer rows than the budget."""
TAIL = 12


class State(StrEnum):
    DONE = "done"
    WAITING = "waiting"
    FAILED = "failed"
    INFEASIBLE = "infeasible"
    STOPPED = "stopped"
    """Something that it reads failed, or is infeasible."""


@dataclass(frozen=True)
class Ledger:
    """Where the runs of a study leave their logs, and notes of those that failed."""

    logs: Path

    def log(self, run: Run) -> Path:
        return self.logs / f"{run.id}.log"

    def tail(self, run: Run) -> str:
        """The last lines of a run's log."""
        try:
            lines = self.log(run).read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return ""
        return "\n".join([line.rstrip() for line in lines if line.strip()][-TAIL:])

    def note_failure(self, run: Run, code: int, seconds: float) -> State:
        state = State.INFEASIBLE if _TOO_FEW.search(self.tail(run)) else State.FAILED
        note = {"state": state, "code": code, "seconds": round(seconds, 1)}
        write_atomic(self._note(run), json.dumps(note) + "\n")
        return state

    def forget(self, run: Run) -> None:
        self._note(run).unlink(missing_ok=True)

    def state(self, run: Run) -> State:
        """Done if its manifest is there and was made from what the run before it left."""
        if is_done(run):
            return State.DONE
        if run.source and self.state(run.source) not in (State.DONE, State.WAITING):
            return State.STOPPED
        try:
            return State(json.loads(self._note(run).read_text())["state"])
        except FileNotFoundError:
            return State.WAITING

    def _note(self, run: Run) -> Path:
        return self.logs / f"{run.id}.json"


def manifest_of(run: Run) -> dict[str, Any]:
    return read_manifest(run.folder) or {}


def is_done(run: Run) -> bool:
    manifest = manifest_of(run)
    if not manifest or manifest.get("status", "finished") != "finished":
        return False
    if run.source is None:
        return True
    read = manifest.get({"train": "mixture", "evaluate": "adapter"}[run.stage]) or {}
    return is_done(run.source) and read.get("key") == manifest_of(run.source).get("key")


def is_stale(run: Run) -> bool:
    """Whether something finished lies there, made from what is no longer there."""
    manifest = manifest_of(run)
    return bool(manifest) and manifest.get("status", "finished") == "finished" and not is_done(run)


def cell_state(cell: Cell, ledger: Ledger) -> State:
    """A cell is as far as its stages: the first that failed says so."""
    states = [ledger.state(run) for run in cell.runs]
    for state in (State.FAILED, State.INFEASIBLE):
        if state in states:
            return state
    return states[-1]


def states_of(study: Study, ledger: Ledger) -> dict[str, State]:
    """Of each run, by its id."""
    return {run.id: ledger.state(run) for run in study.runs}
