"""Only what is missing is run; failures stay their own; kill -9 loses nothing that was finished."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from smart.experiment.dry_run import describe_plan
from smart.experiment.execute import Runner, one_after_the_other, run_missing
from smart.experiment.run_graph import Study
from smart.experiment.status import RunLog, Status, cell_status, is_stale
from tests.experiment.examples import fakes, make_study

ROOT = Path(__file__).resolve().parents[2]
DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.experiment.test_execute import drive
drive(Path(sys.argv[1]))
"""


def drive(root: Path, common: tuple[str, ...] = ()) -> tuple[Study, RunLog, list[str]]:
    study, run_log, said = make_study(root), RunLog(root / "logs"), []
    runner = Runner(run_log, common, fakes(root))
    run_missing(study, run_log, one_after_the_other(runner, said.append), said.append)
    return study, run_log, said


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """The stages that were started since the last call."""
    monkeypatch.setenv("TRAPS", str(tmp_path))

    def read() -> list[str]:
        path = tmp_path / "calls"
        found = path.read_text().splitlines() if path.exists() else []
        path.write_text("")
        return found

    return read


def test_a_damaged_note_of_a_failed_run_is_no_note(tmp_path: Path) -> None:
    study, run_log = make_study(tmp_path), RunLog(tmp_path / "logs")
    run = study.runs[0]
    assert run_log.note_failure(run, 1, 2.0) is run_log.status(run) is Status.FAILED
    (note,) = (tmp_path / "logs").glob("*.json")
    for harmed in ("", "{", "[]", '{"state": "fialed"}', '{"stote": "failed"}'):
        note.write_text(harmed)
        assert run_log.status(run) is Status.WAITING


def test_everything_once_and_then_nothing(tmp_path: Path, calls: Callable[[], list[str]]) -> None:
    study, run_log, _ = drive(tmp_path)
    assert len(calls()) == len(study.runs) == 23
    assert {run_log.status(run) for run in study.runs} == {Status.DONE}
    drive(tmp_path)
    assert calls() == []


def test_a_failure_stops_what_reads_it_and_is_tried_again(
    tmp_path: Path, calls: Callable[[], list[str]]
) -> None:
    (tmp_path / "fail").write_text("tiny_llama-seed2-")
    study, run_log, said = drive(tmp_path)
    states = [cell_status(cell, run_log) for cell in study.cells]
    assert states.count(Status.FAILED) == 4
    assert states.count(Status.DONE) == 5
    assert any("cannot do it" in line for line in said), "the log's end is shown"
    failed = next(cell for cell in study.cells if cell_status(cell, run_log) is Status.FAILED)
    assert run_log.status(failed.runs[1]) is Status.FAILED
    assert run_log.status(failed.last) is Status.STOPPED
    assert "[!] train" in describe_plan(study, run_log, {})
    calls()
    (tmp_path / "fail").unlink()
    study, run_log, _ = drive(tmp_path)
    assert len(calls()) == 8
    assert {cell_status(cell, run_log) for cell in study.cells} == {Status.DONE}


def test_a_budget_beyond_the_tasks_is_infeasible_and_not_tried_again(
    tmp_path: Path, calls: Callable[[], list[str]]
) -> None:
    study = make_study(tmp_path)
    target = study.cells[0].runs[0]
    (tmp_path / "fail").write_text(target.name)
    script = fakes(tmp_path)
    (tmp_path / "said").write_text("budget=20: the 3 selected tasks can give 7 rows")
    run_log = RunLog(tmp_path / "logs")
    start = one_after_the_other(Runner(run_log, (), script), lambda line: None)
    run_missing(study, run_log, start, lambda line: None)
    assert run_log.status(target) is Status.INFEASIBLE
    assert cell_status(study.cells[0], run_log) is Status.INFEASIBLE
    assert any(call.startswith("evaluate") for call in calls()), "the others went on"
    run_missing(study, run_log, start, lambda line: None)
    assert calls() == []


def test_what_was_made_from_something_else_is_made_again(
    tmp_path: Path, calls: Callable[[], list[str]]
) -> None:
    study, run_log, _ = drive(tmp_path)
    calls()
    mixture = study.cells[0].runs[0]
    manifest = mixture.folder / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "key": "another"}))
    assert is_stale(study.cells[0].runs[1])
    drive(tmp_path)
    assert sorted(call.split()[0] for call in calls()) == ["evaluate", "evaluate", "train", "train"]
    assert {run_log.status(run) for run in study.runs} == {Status.DONE}


def wait_for(path: Path) -> int:
    for _ in range(400):
        if path.exists() and path.read_text():
            return int(path.read_text())
        time.sleep(0.05)
    raise AssertionError(f"{path} did not come")


@pytest.mark.parametrize("whom", ["stage", "driver"])
def test_kill_9_loses_no_finished_stage(tmp_path: Path, calls: Callable[[], list[str]], whom: str) -> None:
    (tmp_path / "slow").write_text("train")
    command = [sys.executable, "-c", DRIVER, str(tmp_path), str(ROOT)]
    driver = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)})
    stage = wait_for(tmp_path / "pid")
    (tmp_path / "slow").unlink()
    if whom == "driver":
        driver.kill()
    os.kill(stage, signal.SIGKILL)
    driver.wait(timeout=60)
    before = [call for call in calls() if call.startswith("select")]
    study, run_log, _ = drive(tmp_path)
    again = calls()
    assert len(before) == 6
    assert not any(call.startswith("select") for call in again)
    assert len(again) == (2 if whom == "stage" else 8 + 9)
    assert {run_log.status(run) for run in study.runs} == {Status.DONE}


def test_a_plan_tells_states_and_costs_from_what_is_done(
    tmp_path: Path, calls: Callable[[], list[str]]
) -> None:
    study, run_log = make_study(tmp_path), RunLog(tmp_path / "logs")
    text = describe_plan(study, run_log, {study.cells[0].runs[0].id: "the pool holds 3 rows"})
    assert "9 cells (7 waiting, 2 infeasible)" in text
    assert "the pool holds 3 rows" in text
    assert text.count("[-] evaluate") == 2
    assert not (tmp_path / "logs").exists(), "a plan writes nothing"
    drive(tmp_path)
    assert "9 cells (9 done)" in describe_plan(study, run_log, {})
