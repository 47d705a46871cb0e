"""What the configurations of all commands share."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from smart.config import Composition, option
from smart.config.options import INTERNAL
from smart.config.types import Folder, Positive, Seed
from smart.runtime.tracking import Tracker


@dataclass(frozen=True, kw_only=True)
class CommonConfig:
    """Where a command's results go, and how it runs. conf/base.yaml has the defaults."""

    composed: Composition = field(
        default_factory=Composition, repr=False, compare=False, metadata={INTERNAL: True}
    )
    """What it was read from, with the names of the chosen files; no option. `read_config` sets it."""
    output: Folder | None = option(None, role="free")
    """The artifact's own folder; None: a name made from the configuration, under output_root."""
    output_root: Folder = option(Path("outputs"), role="free")
    """Caches, mixtures, adapters, scores, tables and logs lie here."""
    seed: Seed = 23
    """Decides every random choice."""
    threads: Positive | None = option(None, role="free", hint="leave it null for all cores")
    """None: all cores."""
    plan: bool = option(False, role="free")
    """Say what the run would do and cost; write nothing."""
    fetch_only: bool = option(False, role="free")
    """Download what the run needs, then stop."""
    overwrite: bool = option(False, role="free")
    """Replace what lies in the artifact's folder."""
    tracker: Tracker = option(default_factory=Tracker, role="free")

    def cores(self) -> int:
        """Threads to use."""
        return self.threads or available_cores()


def available_cores() -> int:
    """Processors on which this process may run."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1
