"""A result that W&B did not take is whole, and is logged when the same command is run again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import Command


class Recorder:
    """Stands for a run of W&B, and counts what it was given."""

    def __init__(self) -> None:
        self.summary: dict[str, object] = {}
        self.logged: list[str] = []
        self.artifacts: list[str] = []
        self.dir = "/somewhere/files"

    def log(self, values: dict[str, object], step: int | None = None) -> None:
        self.logged += values

    def log_artifact(self, artifact: object) -> None:
        self.artifacts.append(artifact.name)  # type: ignore[attr-defined]

    def finish(self, exit_code: int = 0) -> None:
        pass


def test_the_tracker_cannot_fail_a_selection(
    select: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline = "tracker.mode=offline", "strategy=equal", f"output={tmp_path / 'my mixture'}"

    def refuse(**_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("wandb.init", refuse)
    done = select("tracker=wandb", *offline)
    assert done.code == 0, done.said
    assert done.err.count("Weights & Biases: no space left") == 1
    assert (tmp_path / "my mixture/manifest.json").is_file()

    runs: list[Recorder] = []
    monkeypatch.setattr("wandb.init", lambda **_: runs.append(Recorder()) or runs[-1])
    for _ in range(2):
        again = select("tracker=wandb", *offline)
        assert again.code == 0, again.said
        assert "Made before" in again.out
    (run,) = runs
    assert run.summary["rows"] == 100
    assert run.logged == ["tasks", "figures/budgets"]
    assert [name.rpartition("-")[0] for name in run.artifacts] == ["my_mixture"]
