"""`accelerate launch train.py mixture=DIR model=mistral_7b`: a mixture becomes an adapter."""

from __future__ import annotations

import sys
from pathlib import Path

from smart import training
from smart.cli.app import run_command, say
from smart.config import UserError
from smart.config.command_line import shell_line
from smart.training import TrainConfig
from smart.training.launch import refuse_sweep


def main() -> None:
    """The command; `--help` lists its keys."""
    try:
        refuse_sweep(sys.argv[1:])
    except UserError as error:
        print(f"train: {error}", file=sys.stderr)
        sys.exit(1)
    run_command("train", TrainConfig, train)


def train(config: TrainConfig) -> Path | None:
    """Print what was trained and where it lies; returns the adapter's folder, None for a plan or a download."""
    if config.fetch_only:
        training.fetch(config)
        say("Everything that this run needs from the hub is there.")
        return None
    if config.plan:
        say(training.plan(config))
        return None
    adapter = training.train(config)
    if adapter.launched:
        return adapter.path
    if adapter.found:
        say("Trained before, from the same configuration and rows.")
    more = shell_line("python evaluate.py", adapter=adapter.path, suite="paper")
    say(f"Adapter: {adapter.path}\nNext:    {more}")
    return adapter.path


if __name__ == "__main__":
    main()
