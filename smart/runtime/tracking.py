"""Weights & Biases: one run a stage, nothing recorded of the environment, nothing lost without a network."""

from __future__ import annotations

import contextlib
import logging
import netrc
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

from smart.config import option
from smart.config.types import Names

log = logging.getLogger(__name__)
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
    """A stage's run; every method does nothing when tracking is disabled."""

    def __init__(self, run: Any = None) -> None:
        self._run = run

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        if self._run:
            self._run.log(dict(values), step=step)

    def summary(self, values: Mapping[str, Any]) -> None:
        if self._run:
            self._run.summary.update(dict(values))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        if self._run:
            import wandb

            self._run.log({name: wandb.Table(columns=list(columns), data=[list(row) for row in rows])})

    def figures(self, folder: Path) -> None:
        if self._run:
            import wandb

            self._run.log(
                {f"figures/{file.stem}": wandb.Image(str(file)) for file in sorted(folder.glob("*.png"))}
            )

    def artifact(self, folder: Path, kind: str, metadata: Mapping[str, Any]) -> None:
        if self._run:
            import wandb

            artifact = wandb.Artifact(folder.name, type=kind, metadata=dict(metadata))
            artifact.add_dir(str(folder))
            self._run.log_artifact(artifact)


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
    tracker: Tracker, *, job_type: str, name: str, config: Mapping[str, Any], folder: Path
) -> Iterator[TrackedRun]:
    """Open the run of one stage, and finish it whatever happens, since one process may run many.

    Args:
        job_type: the stage: select, train, evaluate.
        name: of the artifact that the run makes.
        config: flat, with the stage before the key: {"select.fn": ..., "train.model": ...}.
        folder: where wandb/ goes.
    """
    mode = tracker.resolved_mode()
    if mode == "disabled":
        yield TrackedRun()
        return
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    private: dict[str, Any] = {
        "disable_git": True,
        "x_disable_machine_info": True,
        "x_save_requirements": False,
    }
    run = wandb.init(
        project=tracker.project,
        entity=tracker.entity,
        group=tracker.group or name,
        tags=list(tracker.tags),
        job_type=job_type,
        name=name,
        config=dict(config),
        dir=str(folder),
        mode=mode,  # type: ignore[arg-type]
        reinit="finish_previous",
        settings=wandb.Settings(console="off", save_code=False, x_disable_meta=True, **private),
    )
    try:
        yield TrackedRun(run)
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()
    if mode == "offline":
        log.info("Weights & Biases ran offline; to upload: wandb sync %s", Path(run.dir).parent)


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return host is not None and netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
