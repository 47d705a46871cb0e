"""Weights & Biases: one run a stage, nothing recorded of the environment, nothing lost without a network."""

from __future__ import annotations

import contextlib
import logging
import netrc
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

from smart.config import option
from smart.config.command_line import shell_line
from smart.config.types import Names
from smart.runtime.files import write_atomic
from smart.runtime.names import artifact_name, shortened

log = logging.getLogger(__name__)
_LONGEST = 128
"""Characters of names and groups."""
Mode = Literal["auto", "online", "offline", "disabled"]


@dataclass(frozen=True)
class Tracker:
    """How runs are logged to Weights & Biases. No result depends on it."""

    mode: Mode = option("auto", role="free")
    """auto: online where a key is set up, else offline."""
    project: str = option("smart", role="free")
    entity: str | None = option(None, role="free")
    group: str | None = option(None, role="free")
    """Runs shown together; None: the caller's own, such as the grid's or mixture's name."""
    tags: Names = option((), role="free")

    def resolved_mode(self) -> str:
        if self.mode != "auto":
            return self.mode
        return os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")


class TrackedRun:
    """A stage's run. Every method does nothing when tracking is disabled, and none fails: the first error is warned of
    in one line, and ends the logging of this run."""

    def __init__(self, start: Callable[[], Any] | None = None) -> None:
        self._run: Any = None
        self.failed = False
        with self.only_warns():
            self._run = start() if start else None

    @contextlib.contextmanager
    def only_warns(self) -> Iterator[None]:
        """What goes wrong inside, such as in reading what is to be logged, is a warning."""
        try:
            yield
        except Exception as error:
            said = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
            if not self.failed:
                log.warning(
                    "Weights & Biases: %s (the result is not touched; the same command logs it again)", said
                )
            self.failed = True

    def _do(self, work: Callable[[Any], object]) -> None:
        if self._run is not None and not self.failed:
            with self.only_warns():
                work(self._run)

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        self._do(lambda run: run.log(dict(values), step=step))

    def summary(self, values: Mapping[str, Any]) -> None:
        self._do(lambda run: run.summary.update(dict(values)))

    def table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        def log_table(run: Any) -> None:
            import wandb

            run.log({name: wandb.Table(columns=list(columns), data=[list(row) for row in rows])})

        self._do(log_table)

    def figures(self, folder: Path) -> None:
        def log_figures(run: Any) -> None:
            import wandb

            files = sorted(folder.glob("*.png"))
            run.log({f"figures/{file.stem}": wandb.Image(str(file)) for file in files})

        self._do(log_figures)

    def artifact(self, folder: Path, kind: str, metadata: Mapping[str, Any]) -> None:
        def log_artifact(run: Any) -> None:
            import wandb

            artifact = wandb.Artifact(artifact_name(folder.name), type=kind, metadata=dict(metadata))
            artifact.add_dir(str(folder))
            run.log_artifact(artifact)

        self._do(log_artifact)

    @property
    def place(self) -> Path:
        """The folder of the run, as `wandb sync` takes it."""
        return Path(self._run.dir).parent

    def finish(self, exit_code: int = 0) -> None:
        """End the run, even one whose logging has failed."""
        if self._run is not None:
            with self.only_warns():
                self._run.finish(exit_code=exit_code)


def flatten(stage: str, config: Mapping[str, Any], choices: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's configuration as W&B shows and groups it: select.fn is the choice's name, its parameters follow.

    >>> flatten("select", {"fn": {"_target_": "a.GraphCut", "tradeoff": 0.4}, "budget": "25k"}, {"fn": "graphcut"})
    {'select.fn': 'graphcut', 'select.fn.tradeoff': 0.4, 'select.budget': '25k'}
    """
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{stage}.{key}"
        if not isinstance(value, Mapping):
            flat[name] = value
            continue
        if key in choices:
            flat[name] = choices[key]
        flat |= flatten(name, {k: v for k, v in value.items() if not k.startswith("_")}, {})
    return flat


@contextlib.contextmanager
def track(
    tracker: Tracker, *, job_type: str, name: str, config: Mapping[str, Any], folder: Path, key: str
) -> Iterator[TrackedRun]:
    """Open the run of one stage, and finish it whatever happens, since one process may run many.

    What W&B says or lacks never fails the stage. Until all is logged, a note in `folder` says so, and the stage logs
    what it finds finished when it is called again (`is_unlogged`).

    Args:
        job_type: the stage: select, train, evaluate.
        name: of the artifact that the run makes.
        config: flat, with the stage before the key: {"select.fn": ..., "train.model": ...}.
        folder: where everything goes that W&B writes, unless the user's environment says otherwise.
        key: of the artifact.
    """
    mode = tracker.resolved_mode()
    if mode == "disabled":
        yield TrackedRun()
        return
    mark_unlogged(tracker, job_type=job_type, folder=folder, key=key)
    with _folders(folder):
        tracked = TrackedRun(lambda: _start(tracker, mode, job_type, name, config))
        try:
            yield tracked
        except BaseException:
            tracked.finish(exit_code=1)
            raise
        tracked.finish()
    if not tracked.failed:
        with contextlib.suppress(OSError):
            _note(folder, job_type, key).unlink(missing_ok=True)
        if mode == "offline":
            log.info(
                "Weights & Biases ran offline; to upload: %s", shell_line("wandb sync", str(tracked.place))
            )


def mark_unlogged(tracker: Tracker, *, job_type: str, folder: Path, key: str) -> None:
    """Note that a result is still to be logged, before it is there: a process may die between the two."""
    if tracker.resolved_mode() != "disabled":
        with contextlib.suppress(OSError):
            write_atomic(_note(folder, job_type, key), "")


def is_unlogged(tracker: Tracker, *, job_type: str, folder: Path, key: str) -> bool:
    """True if a stage was to be logged, but was not, or not to its end."""
    return tracker.resolved_mode() != "disabled" and _note(folder, job_type, key).is_file()


def _note(folder: Path, job_type: str, key: str) -> Path:
    return folder / "unlogged" / f"{job_type}-{key}"


def _start(tracker: Tracker, mode: str, job_type: str, name: str, config: Mapping[str, Any]) -> Any:
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    private: dict[str, Any] = {
        "disable_git": True,
        "x_disable_machine_info": True,
        "x_save_requirements": False,
    }
    return wandb.init(
        project=tracker.project,
        entity=tracker.entity,
        group=shortened(tracker.group or name, _LONGEST),
        tags=list(tracker.tags),
        job_type=job_type,
        name=shortened(name, _LONGEST),
        config=dict(config),
        dir=os.environ["WANDB_DIR"],
        mode=mode,  # type: ignore[arg-type]
        reinit="finish_previous",
        settings=wandb.Settings(console="off", save_code=False, x_disable_meta=True, **private),
    )


@contextlib.contextmanager
def _folders(folder: Path) -> Iterator[None]:
    """W&B writes under `folder`, where it would choose the home folder; a user's own choice stays."""
    ours = {
        "WANDB_DIR": "",
        "WANDB_DATA_DIR": "data",
        "WANDB_CACHE_DIR": "cache",
        "WANDB_CONFIG_DIR": "config",
    }
    if Path("~/.config/wandb/settings").expanduser().is_file():  # by `wandb login`: another host, a team
        del ours["WANDB_CONFIG_DIR"]
    mine = [name for name in ours if not os.environ.get(name)]
    try:
        for name in mine:
            place = folder.absolute() / ours[name]
            with contextlib.suppress(OSError):  # what needs it will say so
                place.mkdir(parents=True, exist_ok=True)
            os.environ[name] = str(place)
        yield
    finally:
        for name in mine:
            os.environ.pop(name, None)


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return host is not None and netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
