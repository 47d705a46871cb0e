"""Running what is missing: each stage in a process of its own, by its command."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from smart.config import counted
from smart.config.command_line import shell_line
from smart.experiment.run_graph import COMMANDS, FOLDERS, StageRun, Study
from smart.experiment.status import RunLog, Status, is_done, is_stale
from smart.runtime.locks import locked

PROGRAMS: dict[str, list[str]] = {
    stage: [sys.executable, "-c", f"from smart.cli.{stage} import main; main()"] for stage in FOLDERS
}
"""Each stage's command, wherever its script lies."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Runner:
    """Runs stages one at a time, and remembers which failed."""

    run_log: RunLog
    common: Sequence[str]
    """Arguments of every stage: where artifacts go, how runs are tracked."""
    programs: Mapping[str, Sequence[str]]

    def run(self, run: StageRun) -> Status:
        """Run one stage unless it is done; returns what became of it. Its output goes to its log."""
        self.run_log.logs.mkdir(parents=True, exist_ok=True)
        with locked(self.run_log.logs / f".{run.id}.lock"):  # another driver may be at it
            if is_done(run):
                return Status.DONE
            self.run_log.forget(run)
            started = time.monotonic()
            code = self._start(run)
            if is_done(run):
                return Status.DONE
            return self.run_log.note_failure(run, code, time.monotonic() - started)

    def _start(self, run: StageRun) -> int:
        arguments = [*run.arguments(self.common), *(["overwrite=true"] if is_stale(run) else [])]
        with self.run_log.log(run).open("a", encoding="utf-8") as file:
            file.write(f"\n$ {shell_line(COMMANDS[run.stage], *arguments)}\n")
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
    study: Study, run_log: RunLog, start: Callable[[Sequence[StageRun]], None], tell: Callable[[str], None]
) -> None:
    """Run what is not done, stage after stage; what failed before is tried again, what cannot be is not.

    Args:
        start: runs some runs of one stage, in whatever order or place; returns when all have ended.
        tell: says a line to the user.
    """
    for stage in FOLDERS:
        runs = [run for run in study.runs if run.stage == stage]
        states = {run.id: run_log.status(run) for run in runs}
        missing = [run for run in runs if states[run.id] in (Status.WAITING, Status.FAILED)]
        missing = [run for run in missing if run.source is None or is_done(run.source)]
        done = sum(state is Status.DONE for state in states.values())
        tell(f"{stage}: {counted(len(runs), 'run')}, {done} done, {len(missing)} to do")
        if missing:
            start(missing)


def one_after_the_other(runner: Runner, tell: Callable[[str], None]) -> Callable[[Sequence[StageRun]], None]:
    """The simplest `start`."""

    def start(runs: Sequence[StageRun]) -> None:
        for number, run in enumerate(runs, 1):
            began = time.monotonic()
            state = runner.run(run)
            tell(f"  {number}/{len(runs)} {state:<10} {time.monotonic() - began:6.1f} s  {run.name}")
            if state is not Status.DONE:
                tell(_indented(runner.run_log, run))

    return start


def _indented(run_log: RunLog, run: StageRun) -> str:
    tail = "\n".join(f"      | {line}" for line in run_log.tail(run).splitlines()[-3:])
    return f"{tail}\n      all of it: {run_log.log(run)}"
