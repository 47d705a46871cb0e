"""What is shared, what has its own run, and which cells may stand in one table."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from smart.config import ConfigError
from tests.experiment.examples import make_study


def test_a_deterministic_selection_is_shared_by_seeds_and_a_drawn_one_is_not(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    by_stage = {
        stage: [run for run in study.runs if run.stage == stage] for stage in ("select", "train", "evaluate")
    }
    assert len(study.cells) == 2 * 2 * 2 + 1
    assert len(by_stage["select"]) == 2 + 2 * 2, "smart once for each budget, equal for each seed too"
    assert len(by_stage["train"]) == 8
    assert len(by_stage["evaluate"]) == 8 + 1, "the model without tuning is scored once"
    assert sorted(study.users(run) for run in by_stage["select"]) == [1, 1, 1, 1, 2, 2]
    assert [run.stage for run in study.runs] == sorted(
        [run.stage for run in study.runs], key=["select", "train", "evaluate"].index
    )


def test_commands_hand_folders_on(tmp_path: Path) -> None:
    select, train, evaluate = make_study(tmp_path, seeds=(7,)).cells[0].runs
    assert select.arguments() == ["budget=10", "strategy=smart", f"output={select.folder}"]
    assert train.arguments()[:3] == [f"mixture={select.folder}", "model=tiny_llama", "seed=7"]
    assert evaluate.arguments(["tracker=none"]) == [
        f"adapter={train.folder}", "suite=smoke", f"output={evaluate.folder}", "tracker=none",
    ]  # fmt: skip
    untuned = make_study(tmp_path, seeds=(7,)).cells[-1]
    assert untuned.last.arguments()[:2] == ["model=tiny_llama", "suite=smoke"]


def test_names_tell_what_a_run_is(tmp_path: Path) -> None:
    names = [run.name.rpartition("-")[0] for run in make_study(tmp_path, seeds=(7,)).cells[1].runs]
    assert names == [
        "files-10-equal-seed7",
        "files-10-equal-seed7-tiny_llama-seed7",
        "files-10-equal-seed7-tiny_llama-seed7-smoke",
    ]


def test_two_grids_share_a_run_and_another_setting_is_another_run(tmp_path: Path) -> None:
    ids = {run.id for run in make_study(tmp_path).runs}
    narrow = {run.id for run in make_study(tmp_path, **{"select.budget": "10"}).runs}
    assert narrow < ids
    slower = {run.id for run in make_study(tmp_path, **{"train.learning_rate": 1}).runs}
    assert {run for run in ids & slower if run.startswith("train")} == set()
    elsewhere = {run.id for run in make_study(tmp_path, **{"select.threads": 3}).runs}
    assert elsewhere == ids, "threads change no result"


def test_another_content_is_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder/inner").mkdir(parents=True)
    for name in ("rows.parquet", "folder/inner/rows.parquet"):
        named = {"select.path": name.partition("/")[0]}
        file = tmp_path / name
        file.write_text("one")
        before = {run.id for run in make_study(tmp_path / "out", **named).runs}
        file.write_text("two")
        after = {run.id for run in make_study(tmp_path / "out", **named).runs}
        untuned = make_study(tmp_path / "out").cells[-1].last.id
        assert before & after == {untuned}, "the untuned model reads no rows"
        file.write_text("one")
        os.utime(file, (1, 1))
        again = {run.id for run in make_study(tmp_path / "out", **named).runs}
        assert again == before, "a copy with another time is the same file"


def test_cells_that_are_not_trained_alike_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train.epochs=1, 2: differs"):
        make_study(tmp_path, **{"train.epochs": ["1", "2"]})
    with pytest.raises(ConfigError, match=r"train.max_length=null, 2048: differs .*set train.max_length"):
        make_study(tmp_path, **{"train.model": ["tiny_llama", "falcon_7b"]})
    study = make_study(tmp_path, **{"train.model": ["tiny_llama", "falcon_7b"], "train.max_length": 512})
    assert len([cell for cell in study.cells if cell.seed is None]) == 2
