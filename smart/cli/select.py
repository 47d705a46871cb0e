"""`python select.py budget=25k fn=graphcut`: a collection becomes a mixture."""

from __future__ import annotations

from pathlib import Path

from smart import selection
from smart.cli.app import run_command
from smart.config.command_line import shell_line
from smart.selection import SelectConfig


def main() -> None:
    """The command; `--help` lists its keys."""
    run_command("select", SelectConfig, select)


def select(config: SelectConfig) -> Path | None:
    """Print what was made and where it lies; returns the mixture's folder, None for a plan or a download."""
    if config.fetch_only:
        selection.fetch(config)
        print("Everything that this selection needs from the hub is there.")
        return None
    if config.plan:
        print(selection.plan(config))
        return None
    mixture = selection.select(config)
    print(
        f"\n{mixture.summary}\n" if mixture.summary else "Made before, from the same configuration and rows."
    )
    # Turns need a model with a chat template.
    model = "qwen3_8b" if "turns" in mixture.manifest["counts"] else "mistral_7b"
    more = shell_line("accelerate launch train.py", mixture=mixture.path, model=model)
    print(f"Mixture: {mixture.path}\nNext:    {more}")
    return mixture.path


if __name__ == "__main__":
    main()
