"""The frame around every command: composing, types, one clear message for each end."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, NoReturn, TypeVar

from smart.cli import sweep
from smart.cli.errors import FULL_ERROR, exit_code, explain, full_error
from smart.cli.interrupts import every_interrupt_counts
from smart.config import Composition, UserError, conf_dir, read_config
from smart.runtime.logs import captured_log
from smart.runtime.processes import rank

if TYPE_CHECKING:
    from omegaconf import DictConfig

Config = TypeVar("Config")
MULTIRUN = ("-m", "--multirun")


def run_command(name: str, config_class: type[Config], task: Callable[[Config], Path | None]) -> None:
    """Compose conf/NAME.yaml with the command line, check every type, run `task` once or as a sweep, and exit.

    Exit codes: 0 done; 1 refused or failed, one of a sweep's jobs included; 3 infeasible; 130 interrupted.
    A traceback is printed for an internal error, or for everything when HYDRA_FULL_ERROR=1 is set.
    """
    import hydra

    wanted = os.environ.get(FULL_ERROR)
    job = _Job(name, config_class, task, wanted)
    _print_anything()
    # argparse takes flags before the overrides only; people type -m wherever it comes to mind.
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda argument: not _is_flag(argument))
    try:
        _refuse_broken_text(sys.argv[1:])
        sweep.refuse_one_output_for_many(sys.argv[1:])
        try:
            with full_error("1"):  # Hydra then hands every error up to us instead of printing it
                hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=name)(job)()
        finally:
            failed = sweep.report()
        if job.failure is not None:
            raise job.failure
    except KeyboardInterrupt:
        _stop(f"{name}: interrupted. What was finished is kept; the same command goes on from there.", 130)
    except Exception as error:
        message = explain(error, config_class)
        if message is None:
            raise
        if wanted == "1":
            traceback.print_exc()
        _stop(f"{name}: {message}", exit_code(error))
    if failed:
        sys.exit(1)


def say(text: str) -> None:
    """Print, on the main one of the processes that a launcher started."""
    if rank() == 0:
        print(text)


def _print_anything() -> None:
    """What the terminal's encoding lacks is printed as an escape: hours of work must not end in its error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _refuse_broken_text(arguments: Sequence[str]) -> None:
    """Bytes that are no text in the system's encoding reach Python as lone surrogates, which no file can hold."""
    for argument in arguments:
        if any("\ud800" <= character <= "\udfff" for character in argument):
            raise UserError(
                f"{argument}: holds bytes that are no text in {sys.getfilesystemencoding()}", "rename it"
            )


def _is_flag(argument: str) -> bool:
    return argument in MULTIRUN or (argument.startswith("--") and "=" in argument)


def _stop(message: str, code: int) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(code)


@dataclass
class _Job(Generic[Config]):
    """One run of a command; in a sweep its end is noted in its folder, and never stops the others."""

    name: str
    config_class: type[Config]
    task: Callable[[Config], Path | None]
    full_error: str | None
    """HYDRA_FULL_ERROR as the user had it: what a job starts in turn must not take ours for it."""
    failure: Exception | None = None

    def __post_init__(self) -> None:
        self.__module__ = self.task.__module__  # Hydra names the job by it

    def __call__(self, config: DictConfig) -> None:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        hydra = HydraConfig.get()
        with captured_log() as text, full_error(self.full_error), every_interrupt_counts():
            if hydra.mode == RunMode.MULTIRUN:
                sweep.run_job(self.name, lambda: self._run(config), hydra, text, self.config_class)
                return
            try:
                self._run(config)
            except Exception as error:
                self.failure = error

    def _run(self, config: DictConfig) -> Path | None:
        from hydra.core.hydra_config import HydraConfig

        return self.task(read_config(self.config_class, Composition.of(self.name, config, HydraConfig.get())))
