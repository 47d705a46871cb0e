"""Sweeps (-m): each job notes its end in its folder, and a table of all jobs comes last."""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hydra.experimental.callback import Callback

from smart.cli.errors import explain
from smart.config import UserError, counted
from smart.runtime.files import write_atomic

if TYPE_CHECKING:
    from omegaconf import DictConfig

RESULT = "result.json"
log = logging.getLogger(__name__)


class SweepFolder(Callback):
    """Remembers where the jobs of this sweep leave their results (conf/base.yaml names it to Hydra)."""

    folder: ClassVar[Path | None] = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Called by Hydra before the first job."""
        SweepFolder.folder = Path(str(config.hydra.sweep.dir))


def run_job(
    name: str, run: Callable[[], Path | None], hydra: Any, text: io.StringIO, config_class: type
) -> None:
    """Run one job; what became of it, and its log, go to its folder.

    Args:
        hydra: Hydra's own configuration of the job.
        text: the job's log.
    """
    started = time.monotonic()
    folder: Path | None = None
    failed: str | None = None
    try:
        folder = run()
    except Exception as error:
        failed = explain(error, config_class)
        if failed is None:
            log.exception("Internal error")
            failed = repr(error)
        else:
            log.error("%s", failed)
    note = {
        "folder": None if folder is None else str(folder),
        "failed": failed,
        "seconds": round(time.monotonic() - started, 2),
        "overrides": list(hydra.overrides.task),
    }
    output = Path(hydra.runtime.output_dir)
    write_atomic(output / f"{name}.log", text.getvalue())
    write_atomic(output / RESULT, json.dumps(note, indent=2))


def report() -> bool:
    """Print what became of each job of the sweep, if this was one; True when any failed."""
    folder = SweepFolder.folder
    jobs = sorted((int(job.name), job) for job in folder.glob("[0-9]*")) if folder else []
    if not jobs:
        return False
    failed = 0
    print(f"\nSweep of {counted(len(jobs), 'job')}, logs in {folder}:")
    for number, job in jobs:
        try:
            result = json.loads((job / RESULT).read_text())
        except FileNotFoundError:
            result = {"overrides": [], "failed": "left no result; its process was killed", "seconds": 0}
        failed += result["failed"] is not None
        state = f"FAILED  {result['failed']}" if result["failed"] else f"done    {result['folder']}"
        print(f"  #{number} {' '.join(result['overrides'])}  {result['seconds']:.1f} s\n      {state}")
    print(
        f"{len(jobs) - failed} done, {failed} failed."
        + (" The same command runs only those." if failed else "")
    )
    return failed > 0


def refuse_one_output_for_many(arguments: Sequence[str]) -> None:
    """Refuse a fixed `output` in a sweep.

    Raises:
        UserError: with what to write instead.
    """
    wanted = {"-m", "--multirun", "hydra.mode=MULTIRUN"} & set(arguments)
    fixed = [
        a for a in arguments if a.startswith("output=") and not any(mark in a for mark in (",", "(", "${"))
    ]
    if wanted and fixed:
        raise UserError(
            f"{fixed[0]}: the jobs of a sweep cannot share one folder; leave it out (each gets a folder of its own "
            "under output_root), or let it vary: output='outputs/${fn._target_}'"
        )
