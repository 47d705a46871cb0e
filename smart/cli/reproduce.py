"""`python reproduce.py table=budget`: a grid becomes runs, and runs become tables, figures and a report."""

from __future__ import annotations

import sys
from pathlib import Path

from smart import experiment
from smart.cli.app import run_command
from smart.experiment import ReproduceConfig
from smart.experiment.grid import gather_overrides


def main() -> None:
    """The command; `--help` lists its keys."""
    sys.argv[1:] = gather_overrides(sys.argv[1:])
    run_command("reproduce", ReproduceConfig, reproduce)


def reproduce(config: ReproduceConfig) -> Path | None:
    """Print the table and where it lies; returns its folder, None for a plan or a download."""
    if config.run:
        return experiment.run_one(config)
    if config.plan:
        print(experiment.plan(config))
        return None
    if config.fetch_only:
        experiment.fetch(config)
        return None
    return experiment.reproduce(config)


if __name__ == "__main__":
    main()
