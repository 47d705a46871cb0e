"""Tracking: nothing secret, nothing outside its folder, and no error of it is a run's."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smart.runtime.tracking import Tracker, flatten, is_unlogged, mark_unlogged, track

PLACES = ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR")
STAGE: dict[str, Any] = {"job_type": "select", "key": "k"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder, and no wish of the user's where W&B writes."""
    for name in PLACES:
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    return home


def files(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file()]


def test_all_that_is_written_lies_in_its_folder_and_holds_no_secret(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", "a-very-secret-token")
    artifact = tmp_path / ("a b=ü" + "x" * 140)
    artifact.mkdir()
    (artifact / "a.txt").write_text("rows")
    where = tmp_path / "outputs/wandb"
    with track(Tracker("offline"), name="n" * 200, config={"select.fn": "a"}, folder=where, **STAGE) as run:
        run.summary({"rows": 3})
        run.table("tasks", ["name", "rows"], [["a", 1]])
        run.artifact(artifact, "mixture", {})
        assert is_unlogged(Tracker("offline"), folder=where, **STAGE)
    assert not run.failed
    assert not is_unlogged(Tracker("offline"), folder=where, **STAGE)
    assert files(home) == []
    assert any(file.suffix == ".wandb" for file in files(where))
    assert any(file.read_bytes() == b"rows" for file in files(where / "data")), "a copy of output_root has it"
    assert not any(b"a-very-secret-token" in file.read_bytes() for file in files(where))
    assert not set(PLACES) & set(os.environ)


def test_a_users_own_folders_and_settings_are_kept(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, str] = {}
    monkeypatch.setattr("wandb.init", lambda **_: seen.update(os.environ) or 1 / 0)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "mine"))
    (home / ".config/wandb").mkdir(parents=True)
    (home / ".config/wandb/settings").touch()
    with track(Tracker("online"), name="x", config={}, folder=tmp_path / "w", **STAGE):
        pass
    assert seen["WANDB_DIR"] == str(tmp_path / "mine")
    assert seen["WANDB_CACHE_DIR"] == str(tmp_path / "w/cache")
    assert "WANDB_CONFIG_DIR" not in seen


def raising(*_: object, **__: object) -> None:
    raise OSError("the server is away\nwith details")


class Broken:
    """A run whose every method fails."""

    dir = "/nowhere/files"

    def __getattr__(self, name: str) -> Callable[..., None]:
        return raising


@pytest.mark.parametrize("init", [raising, lambda **_: Broken()], ids=["at the start", "later"])
def test_what_fails_is_one_line_and_is_caught_up_with(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, init: Any
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("wandb.init", init)
    with track(Tracker("online"), name="x", config={}, folder=tmp_path / "w", **STAGE) as run:
        run.metrics({"loss": 1.0}, 1)
        run.summary({"rows": 3})
        run.artifact(tmp_path, "mixture", {})
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith("Weights & Biases: the server is away (the result")
    assert is_unlogged(Tracker("online"), folder=tmp_path / "w", **STAGE)
    assert not is_unlogged(Tracker("disabled"), folder=tmp_path / "w", **STAGE)


def test_what_goes_wrong_in_reading_what_is_logged_is_a_warning(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wandb.init", lambda **_: Broken())
    with (
        track(Tracker("online"), name="x", config={}, folder=tmp_path / "w", **STAGE) as run,
        run.only_warns(),
    ):
        (tmp_path / "tasks.csv").read_text()
    assert run.failed


def test_an_error_of_the_stage_stays_one(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []

    class Run(Broken):
        def finish(self, exit_code: int) -> None:
            ended.append(exit_code)

    monkeypatch.setattr("wandb.init", lambda **_: Run())
    with (
        pytest.raises(KeyboardInterrupt),
        track(Tracker("online"), name="x", config={}, folder=tmp_path / "w", **STAGE),
    ):
        raise KeyboardInterrupt
    assert ended == [1]


def test_a_note_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "w").touch()
    mark_unlogged(Tracker("offline"), folder=tmp_path / "w", **STAGE)
    assert not is_unlogged(Tracker("offline"), folder=tmp_path / "w", **STAGE)


def test_without_a_key_tracking_is_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Tracker().resolved_mode() == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert Tracker().resolved_mode() == "online"


def test_disabled_tracking_does_nothing(tmp_path: Path) -> None:
    with track(Tracker("disabled"), name="x", config={}, folder=tmp_path / "w", **STAGE) as run:
        run.summary({"rows": 3})
    assert not (tmp_path / "w").exists()


def test_a_configuration_is_flat_and_choices_go_by_name() -> None:
    config = {
        "fn": {"_target_": "a.GraphCut", "_partial_": True, "tradeoff": 0.4},
        "budget": "25k",
        "tags": ["x"],
    }
    assert flatten("select", config, {"fn": "graphcut"}) == {
        "select.fn": "graphcut",
        "select.fn.tradeoff": 0.4,
        "select.budget": "25k",
        "select.tags": ["x"],
    }
