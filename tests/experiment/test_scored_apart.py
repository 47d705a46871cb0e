"""Grids that vary how models are scored: suites and limits have their own questions, and compete among themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from smart.config import UserError
from smart.experiment.render import Table, as_csv, latex, markdown
from smart.experiment.results import read_table
from smart.experiment.status import RunLog
from smart.runtime.manifest import write_manifest
from tests.experiment.examples import make_study, write_scores


def table_of(
    tmp_path: Path,
    write: Callable[[Path, dict[str, Any]], None],
    metrics: list[str] | None = None,
    **settings: Any,
) -> Table:
    """The table of a grid all of whose runs are done; `write` writes the scores of a cell's values."""
    study = make_study(tmp_path, seeds=(1,), **settings)
    for cell in study.cells:
        write(cell.last.folder, cell.values)
        for run in cell.runs:
            run.folder.mkdir(parents=True, exist_ok=True)
            read = {"train": "mixture", "evaluate": "adapter"}.get(run.stage)
            source = {read: {"key": run.source.key}} if read and run.source else {}
            write_manifest(run.folder, {"kind": run.stage, "key": run.key, **source})
    config: Any = SimpleNamespace(reference=None, metrics=metrics, title=None)
    return read_table(study, RunLog(tmp_path / "logs"), config)


def right(items: int, share: float) -> np.ndarray:
    return (np.arange(items) < round(share * items)).astype(float)


def share_of(values: dict[str, Any]) -> float:
    return {"smart": 0.75, "equal": 0.25}.get(values.get("select.strategy", ""), 0.5)


def test_each_suite_has_its_columns_and_its_own_best(tmp_path: Path) -> None:
    def write(folder: Path, values: dict[str, Any]) -> None:
        items = {"short": 20, "long": 40}[values["evaluate.suite"]]
        losses = np.full(40, 1 - share_of(values)) if items == 40 else None
        write_scores(folder, {"easy": right(items, share_of(values))}, losses)

    table = table_of(
        tmp_path, write, base_model=True, **{"select.budget": "10", "evaluate.suite": ["short", "long"]}
    )
    assert [metric.name for metric in table.metrics] == ["quiz/acc", "heldout_loss/loss"]
    assert len(table.rows) == 6
    for row in table.rows:
        accuracy, loss = row.entries
        assert accuracy is not None
        assert accuracy.mean == share_of(row.values)
        assert (loss is None) == (row.values["evaluate.suite"] == "short")
        smart = row.values.get("select.strategy") == "smart"
        assert accuracy.best == smart
        assert (accuracy.against is not None) == smart
        if accuracy.against:
            assert accuracy.against.interval.value == pytest.approx(0.5)
    for text in (markdown(table), latex(table), as_csv(table)):
        assert "0.7500" in text or "0.75" in text
    assert not [note for note in table.notes if "Not scored alike" in note]
    narrowed = table_of(
        tmp_path, write, ["heldout_loss/loss"], **{"select.budget": "10", "evaluate.suite": ["short", "long"]}
    )
    assert [metric.name for metric in narrowed.metrics] == ["heldout_loss/loss"]


def test_a_swept_limit_blames_no_file(tmp_path: Path) -> None:
    def write(folder: Path, values: dict[str, Any]) -> None:
        write_scores(folder, {"easy": right(values["evaluate.limit"], share_of(values))})

    table = table_of(tmp_path, write, **{"select.budget": "10", "evaluate.limit": [20, 40]})
    assert [row.entries[0].mean for row in table.rows if row.entries[0]] == [0.75, 0.25, 0.75, 0.25, 0.5, 0.5]


def test_other_questions_under_the_same_settings_are_refused(tmp_path: Path) -> None:
    def write(folder: Path, values: dict[str, Any]) -> None:
        write_scores(folder, {"easy": right(20 if values.get("select.strategy") == "smart" else 21, 0.5)})

    with pytest.raises(UserError, match="a data file changed"):
        table_of(tmp_path, write, **{"select.budget": "10"})


def test_settings_that_the_grid_does_not_vary_are_named(tmp_path: Path) -> None:
    def write(folder: Path, values: dict[str, Any]) -> None:
        write_scores(folder, {"easy": right(20, share_of(values))})
        dtype = "float32" if values.get("select.strategy") == "smart" else "bfloat16"
        results = json.loads((folder / "results.json").read_text())
        (folder / "results.json").write_text(json.dumps(results | {"model": {"dtype": dtype}, "limit": None}))

    table = table_of(tmp_path, write, base_model=False, **{"select.budget": "10"})
    assert (
        table.notes[-1]
        == "Not scored alike: dtype is float32 for strategy=smart; bfloat16 for strategy=equal."
    )
    assert sum("Not scored alike" in note for note in table.notes) == 1
