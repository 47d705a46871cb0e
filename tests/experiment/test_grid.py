"""Grids: rows, what a baseline is, what is refused, and values as Hydra's command line reads them."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from smart.config import ConfigError
from smart.experiment.grid import Grid, overrides_of, shown, spell


def test_rows_are_all_combinations_and_what_competes_stands_together() -> None:
    settings = {"select.strategy": ["smart", "equal"], "select.budget": ["25k", "50k"], "train.model": "m"}
    grid = Grid.of("mine", settings, baseline={"select.strategy": "equal"})
    assert grid.fixed == {"train.model": "m"}
    assert [tuple(row.values()) for row in grid.rows()] == [
        ("25k", "smart"), ("25k", "equal"), ("50k", "smart"), ("50k", "equal"),
    ]  # fmt: skip
    blocks = [grid.block(row) for row in grid.rows()]
    assert blocks == [("25k",), ("25k",), ("50k",), ("50k",)]
    assert [grid.is_baseline(row) for row in grid.rows()] == [False, True, False, True]


def test_a_list_in_a_list_is_one_value_and_one_value_does_not_vary() -> None:
    grid = Grid.of("mine", {"evaluate.suite.tasks": [["a", "b"]], "select.budget": ["25k"]})
    assert grid.axes == {}
    assert grid.fixed == {"evaluate.suite.tasks": ["a", "b"], "select.budget": "25k"}
    assert grid.rows() == [{}]


def test_a_baseline_in_a_key_that_was_narrowed_is_left_out() -> None:
    grid = Grid.of("mine", {"select.strategy": "smart"}, baseline={"select.strategy": "equal"})
    assert grid.baseline == {}


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as told:
        Grid.of(
            "mine",
            {"budget": "25k", "selct.fn": "logdet", "train.epochs": [], "select.fn": ["logdet", "random"]},
            seeds=[True],
            baseline={"select.fn": "graphcut"},
        )
    for said in (
        "5 values",
        "budget=25k",
        "Did you mean select?",
        "train.epochs",
        "seeds",
        "baseline.select.fn",
    ):
        assert said in str(told.value)


@pytest.mark.parametrize(
    "value",
    [
        *(
            "25k",
            "5%",
            "it's",
            "a b",
            "a,b",
            "x=y",
            "/data/a b/rows.parquet",
            "{x}",
            "back\\slash",
            "end\\'s",
        ),
        *(3, 0.5, True, False, None, ["a", "b c"], {"inputs": "question"}),
    ],
)
def test_a_value_is_spelt_so_that_hydra_reads_it_back(value: object) -> None:
    def plain(read: object) -> object:
        if isinstance(read, list):
            return [plain(item) for item in read]
        if isinstance(read, dict):
            return {str(key): plain(item) for key, item in read.items()}
        return read.text if hasattr(read, "text") else read

    override = OverridesParser.create().parse_override(f"key={spell(value)}")
    assert plain(override._value) == value


def test_overrides_are_those_of_the_stage_alone() -> None:
    values = {"select.fn.tradeoff": 0.3, "select.num_tasks": None, "train.seed": 1}
    assert overrides_of("select", values) == ("fn.tradeoff=0.3", "num_tasks=null")
    assert overrides_of("train", values) == ("seed=1",)


def test_all_tasks_are_called_all() -> None:
    assert shown("select.num_tasks", None) == "all"
    assert shown("train.max_steps", None) == "null"
