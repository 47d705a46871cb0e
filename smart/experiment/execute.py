"""Running what is missing: each stage in a process of its own, by its command."""

from __future__ import annotations

import logging
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from smart.experiment.run_graph import FOLDERS, Run, Study
from smart.experiment.status import Ledger, State, is_done, is_stale
from smart.runtime.locks import locked

PROGRAMS: dict[str, list[str]] = {
    stage: [sys.executable, "-c", f"from smart.cli.{stage} import main; main()"] for stage in FOLDERS
}
"""Each stage's command, wherever its script lies."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Runner:
    """Runs stages one at a time, and remembers which failed."""

    ledger: Ledger
    common: Sequence[str]
    """Arguments of every stage: where artifacts go, how runs are tracked."""
    programs: Mapping[str, Sequence[str]]

    def run(self, run: Run) -> State:
        """Run one stage unless it is done; returns what became of it. Its output goes to its log."""
        self.ledger.logs.mkdir(parents=True, exist_ok=True)
        with locked(self.ledger.logs / f".{run.id}.lock"):  # another driver may be at it
            if is_done(run):
                return State.DONE
            self.ledger.forget(run)
            started = time.monotonic()
            code = self._start(run)
            if is_done(run):
                return State.DONE
            return self.ledger.note_failure(run, code, time.monotonic() - started)

    def _start(self, run: Run) -> int:
        arguments = [*run.arguments(self.common), *(["overwrite=true"] if is_stale(run) else [])]
        with self.ledger.log(run).open("a", encoding="utf-8") as file:
            file.write(f"\n$ {run.stage} {shlex.join(arguments)}\n")
            file.flush()
            process = subprocess.Popen(
                [*self.programs[run.stage], *arguments],
                stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            )  # fmt: skip
            try:
                return process.wait()
            except KeyboardInterrupt:
                process.wait()  # it was interrupted too, and writes what it has
                raise


def run_missing(
    study: Study, ledger: Ledger, start: Callable[[Sequence[Run]], None], tell: Callable[[str], None]
) -> None:
    """Run what is not done, stage after stage; what failed before is tried again, what cannot be is not.

    Args:
        start: runs some runs of one stage, in whatever order or place; returns when all have ended.
        tell: says a line to the user.
    """
    for stage in FOLDERS:
        runs = [run for run in study.runs if run.stage == stage]
        states = {run.id: ledger.state(run) for run in runs}
        missing = [run for run in runs if states[run.id] in (State.WAITING, State.FAILED)]
        missing = [run for run in missing if run.source is None or is_done(run.source)]
        done = sum(state is State.DONE for state in states.values())
        tell(f"{stage}: {len(runs)} runs, {done} done, {len(missing)} to do")
        if missing:
            start(missing)


def one_after_the_other(runner: Runner, tell: Callable[[str], None]) -> Callable[[Sequence[Run]], None]:
    """The simplest `start`."""

    def start(runs: Sequence[Run]) -> None:
        for number, run in enumerate(runs, 1):
            began = time.monotonic()
            state = runner.run(run)
            tell(f"  {number}/{len(runs)} {state:<10} {time.monotonic() - began:6.1f} s  {run.name}")
            if state is not State.DONE:
                tell(_indented(runner.ledger, run))

    return start


def _indented(ledger: Ledger, run: Run) -> str:
    tail = "\n".join(f"      | {line}" for line in ledger.tail(run).splitlines()[-3:])
    return f"{tail}\n      all of it: {ledger.log(run)}"
