"""What has become of each run, from what lies on the disk."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from smart.config import Infeasible, UserError
from smart.experiment.run_graph import Cell, StageRun
from smart.runtime.files import write_atomic
from smart.runtime.manifest import INTERRUPTED, read_manifest
from smart.training.fit import RUN_FILE

TAIL = 12


class Status(StrEnum):
    DONE = "done"
    WAITING = "waiting"
    FAILED = "failed"
    INFEASIBLE = "infeasible"
    STOPPED = "stopped"
    """Something that it reads failed, or is infeasible."""


@dataclass(frozen=True)
class RunLog:
    """Where the runs of a study leave their logs, and notes of those that failed."""

    logs: Path

    def log(self, run: StageRun) -> Path:
        return self.logs / f"{run.id}.log"

    def tail(self, run: StageRun) -> str:
        """The last lines of a run's log."""
        try:
            lines = self.log(run).read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return ""
        return "\n".join([line.rstrip() for line in lines if line.strip()][-TAIL:])

    def note_failure(self, run: StageRun, code: int, seconds: float) -> Status:
        """Note how a run ended that left no result; `code` is its exit code."""
        state = Status.INFEASIBLE if code == Infeasible.exit_code else Status.FAILED
        note = {"state": state, "code": code, "seconds": round(seconds, 1)}
        write_atomic(self._note(run), json.dumps(note) + "\n")
        return state

    def forget(self, run: StageRun) -> None:
        self._note(run).unlink(missing_ok=True)

    def status(self, run: StageRun) -> Status:
        """Done if its manifest is there and was made from what the run before it left."""
        if is_done(run):
            return Status.DONE
        if run.source and self.status(run.source) not in (Status.DONE, Status.WAITING):
            return Status.STOPPED
        try:
            return Status(json.loads(self._note(run).read_text())["state"])
        except (
            FileNotFoundError,
            ValueError,
            KeyError,
            TypeError,
        ):  # none, or a damaged one: the run is tried again
            return Status.WAITING

    def _note(self, run: StageRun) -> Path:
        return self.logs / f"{run.id}.json"


def manifest_of(run: StageRun) -> dict[str, Any]:
    """What a run left; nothing where that is damaged: its own command says so, and costs its own cells alone."""
    try:
        return read_manifest(run.folder) or {}
    except UserError:
        return {}


def is_done(run: StageRun) -> bool:
    manifest = manifest_of(run)
    if not manifest or manifest.get("status") == INTERRUPTED:
        return False
    if (run.folder / RUN_FILE).exists():  # a training that has not removed yet what it no longer needs
        return False
    if run.source is None:
        return True
    read = manifest.get({"train": "mixture", "evaluate": "adapter"}[run.stage]) or {}
    return is_done(run.source) and read.get("key") == manifest_of(run.source).get("key")


def is_stale(run: StageRun) -> bool:
    """Whether something finished lies there, made from what is no longer there."""
    manifest = manifest_of(run)
    return bool(manifest) and manifest.get("status") != INTERRUPTED and not is_done(run)


def cell_status(cell: Cell, run_log: RunLog) -> Status:
    """A cell is as far as its stages: the first that failed says so."""
    states = [run_log.status(run) for run in cell.runs]
    for state in (Status.FAILED, Status.INFEASIBLE):
        if state in states:
            return state
    return states[-1]
