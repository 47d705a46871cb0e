"""The frame around every command: Hydra, one clear message for each end, and the table of a sweep."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from hydra.experimental.callback import Callback

from smart.config import UserError, conf_dir, nearest
from smart.runtime.files import write_atomic

RESULT = "result.json"
FULL_ERROR = "HYDRA_FULL_ERROR"
MULTIRUN = ("-m", "--multirun")
log = logging.getLogger(__name__)


def run_command(name: str, task: Callable[[Any], Path | None]) -> None:
    """Run `task` on conf/NAME.yaml and the command line, once or as a sweep, and exit.

    Exit codes: 0 done; 1 refused or failed, one of a sweep's jobs included; 130 interrupted.
    A traceback is printed for a defect of ours, or for everything when HYDRA_FULL_ERROR=1 is set.
    """
    import hydra

    asked = os.environ.get(FULL_ERROR)
    job = _Job(name, task, asked)
    # argparse takes flags before the overrides only; people type -m wherever it comes to mind.
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda argument: not _is_flag(argument))
    try:
        _refuse_one_output_for_many(sys.argv[1:])
        try:
            with _full_error("1"):  # Hydra then hands every error up to us instead of printing it
                hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=name)(job)()
        finally:
            failed = _report_sweep()
        if job.failure is not None:
            raise job.failure
    except KeyboardInterrupt:
        _stop(f"{name}: interrupted. What was finished is kept; the same command goes on from there.", 130)
    except Exception as error:
        message = explain(error)
        if asked == "1" or message is None:
            raise
        _stop(f"{name}: {message}", 1)
    if failed:
        sys.exit(1)


@contextmanager
def _full_error(value: str | None) -> Iterator[None]:
    """HYDRA_FULL_ERROR is `value` inside (None: unset), and as it was afterwards."""
    before = os.environ.get(FULL_ERROR)
    try:
        _set_full_error(value)
        yield
    finally:
        _set_full_error(before)


def _set_full_error(value: str | None) -> None:
    if value is None:
        os.environ.pop(FULL_ERROR, None)
    else:
        os.environ[FULL_ERROR] = value


@contextmanager
def _every_interrupt_counts() -> Iterator[None]:
    """Raise KeyboardInterrupt at the end, if one was raised inside and swallowed on its way.

    Python drops what is raised in a destructor or in the callback of a weak reference, and a signal may come in
    the middle of one (drawing with matplotlib runs thousands): without this a Ctrl-C there would end in a 0.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield  # ignored, another's, or not ours to set
        return
    interrupted = False

    def interrupt(number: int, frame: Any) -> None:
        nonlocal interrupted
        interrupted = True
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupted:
        raise KeyboardInterrupt


def _is_flag(argument: str) -> bool:
    return argument in MULTIRUN or (argument.startswith("--") and "=" in argument)


@dataclass
class _Job:
    """One run of a command; in a sweep its end is noted in its folder, and never stops the others."""

    name: str
    task: Callable[[Any], Path | None]
    full_error: str | None
    """HYDRA_FULL_ERROR as the user had it: what a job starts in turn must not take ours for it."""
    failure: Exception | None = None

    def __post_init__(self) -> None:
        self.__module__ = self.task.__module__  # Hydra names the job by it

    def __call__(self, config: Any) -> None:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        with captured_log() as text, _full_error(self.full_error), _every_interrupt_counts():
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                note = self._run_in_sweep(config)
                note["overrides"] = list(HydraConfig.get().overrides.task)
                output = Path(HydraConfig.get().runtime.output_dir)
                write_atomic(output / f"{self.name}.log", text.getvalue())
                write_atomic(output / RESULT, json.dumps(note, indent=2))
            else:
                try:
                    self.task(config)
                except Exception as error:
                    self.failure = error

    def _run_in_sweep(self, config: Any) -> dict[str, Any]:
        started = time.monotonic()
        folder: Path | None = None
        failed: str | None = None
        try:
            folder = self.task(config)
        except Exception as error:
            failed = explain(error)
            if failed is None:
                log.exception("A defect of ours")
                failed = repr(error)
            else:
                log.error("%s", failed)
        seconds = round(time.monotonic() - started, 2)
        return {"folder": None if folder is None else str(folder), "failed": failed, "seconds": seconds}


_captured: io.StringIO | None = None


@contextmanager
def captured_log() -> Iterator[io.StringIO]:
    """Keep what is logged inside, so that it can be written beside the result."""
    global _captured
    _captured = io.StringIO()
    handler = logging.StreamHandler(_captured)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield _captured
    finally:
        logging.getLogger().removeHandler(handler)
        _captured = None


def log_so_far() -> str:
    """What this command has logged until now."""
    return _captured.getvalue() if _captured else ""


class SweepFolder(Callback):
    """Remembers where the jobs of this sweep leave their results (conf/base.yaml names it to Hydra)."""

    folder: ClassVar[Path | None] = None

    def on_multirun_start(self, config: Any, **_: Any) -> None:
        SweepFolder.folder = Path(str(config.hydra.sweep.dir))


def _report_sweep() -> bool:
    """Print what became of each job of the sweep, if this was one; True when any failed."""
    folder = SweepFolder.folder
    jobs = sorted((int(job.name), job) for job in folder.glob("[0-9]*")) if folder else []
    if not jobs:
        return False
    failed = 0
    print(f"\nSweep of {len(jobs)} jobs, logs in {folder}:")
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


def explain(error: BaseException) -> str | None:
    """One clear message for what a user can mend; None for a defect of ours."""
    from hydra.errors import CompactHydraException, MissingConfigException
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MissingConfigException) and error.options:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={choice}: no such {group}. {nearest(choice, error.options)}"
    if isinstance(error, CompactHydraException):
        return _explain_composition(error)
    if isinstance(error, OmegaConfBaseException):
        return f"configuration: {str(error).splitlines()[0]}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left on the disk{_at(error)}; free some, or choose another with output_root=FOLDER"
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
        return f"cannot write or read{_at(error)}: {error.strerror}; choose a folder with output_root=FOLDER"
    return None


_NOT_KEYS = ("hydra", "_target_", "_partial_", "_convert_")


def _explain_composition(error: Exception) -> str:
    from omegaconf import DictConfig

    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    unknown = re.match(r"Could not override '([^']+)'", lines[0]) if lines else None
    if not unknown:
        return " ".join(lines) + (f" ({error.__cause__})" if error.__cause__ else "")
    key = unknown[1]
    parent, _, last = key.rpartition(".")
    node = getattr(error.__cause__, "parent_node", None)
    known = [str(name) for name in node if name not in _NOT_KEYS] if isinstance(node, DictConfig) else []
    return f"{key}: no such key{f' in {parent}' if parent else ''}. {nearest(last, known)}"


def _at(error: OSError) -> str:
    return f" at {error.filename}" if error.filename else ""


def _refuse_one_output_for_many(arguments: list[str]) -> None:
    sweep = {*MULTIRUN, "hydra.mode=MULTIRUN"} & set(arguments)
    fixed = [
        a for a in arguments if a.startswith("output=") and not any(mark in a for mark in (",", "(", "${"))
    ]
    if sweep and fixed:
        raise UserError(
            f"{fixed[0]}: the jobs of a sweep cannot share one folder; leave it out (each gets a folder of its own "
            "under output_root), or let it vary: output='outputs/${fn._target_}'"
        )


def _stop(message: str, code: int) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(code)
