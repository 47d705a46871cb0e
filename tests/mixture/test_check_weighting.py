"""check_weighting, tried as an author does: a module outside the repository, right once and wrong in each way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from smart.mixture import ContractError, Proportional, check_weighting, distribute
from tests.mixture.outside import import_from, replaced

RIGHT = '''
from dataclasses import dataclass

import numpy as np

from smart.mixture import Weighting


@dataclass(frozen=True)
class Roots(Weighting):
    """By the root of a task's rows, and by its gain."""

    floor: float = 1.0

    def __call__(self, tasks):
        gains = np.maximum(tasks.gains - tasks.gains.min(), 0) + self.floor
        weights = gains * np.sqrt(tasks.sizes.sum(axis=1))
        return weights / weights.sum()

    def validate(self, problems):
        if self.floor <= 0:
            problems.add("weighting.floor", self.floor, "must be above 0")
'''

NOT_INHERITED = replaced(replaced(RIGHT, "(Weighting)", ""), "from smart.mixture import Weighting", "")


@pytest.mark.parametrize("source", [RIGHT, NOT_INHERITED], ids=["inherits", "has the methods"])
def test_a_right_weighting_passes_and_divides_a_budget(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weighting = import_from(tmp_path, source, monkeypatch).Roots(floor=0.5)
    check_weighting(weighting)
    tasks = [("mine", name) for name in "abcd"]
    sizes = np.array([[9, 0, 0, 0], [4, 4, 4, 4], [16, 0, 9, 0], [1, 1, 1, 1]])
    table = distribute(tasks, sizes, np.array([2, 0, 1]), np.array([2.0, 1.5, 0.5]), weighting, 20)
    roots = np.array([2.0, 1.5, 0.5]) * [5, 3, 4]
    np.testing.assert_allclose(table.weights[[2, 0, 1]], roots / roots.sum())
    assert table.budgets.sum() == 20
    assert table.budgets[3].sum() == 0


@pytest.mark.parametrize(
    ("old", "new", "check", "said"),
    [
        ("return weights / weights.sum()", "return weights", "sum", "divide by the sum"),
        (
            "return weights / weights.sum()",
            "return (weights / weights.sum()).tolist()",
            "float_array",
            "list",
        ),
        ("return weights / weights.sum()", "return weights[:1] / weights[0]", "float_array", r"shape \(2,\)"),
        ("np.maximum(tasks.gains - tasks.gains.min(), 0) + self.floor", "tasks.gains", "finite", "zero"),
        (
            "tasks.gains.min(), 0) + self.floor",
            "tasks.gains.min(), 0) - 1",
            "not_negative",
            "negative weight",
        ),
        ("return weights", "tasks.sizes[:] += 1; return weights", "table_unchanged", "sizes of one task"),
        ("return weights", "tasks.gains[:] = 0; return weights", "table_unchanged", "gains of one task"),
        ("gains * np.sqrt", "np.random.rand(len(gains)) * np.sqrt", "same_weights", "called again"),
        (
            "return weights",
            "known = {'flan': 1}[tasks.submixtures[0]]; return weights",
            "call",
            "KeyError: 'one'",
        ),
        ("if self.floor <= 0", "if self.floor <= 9", "validate", "must be above 0"),
        ("floor: float = 1.0", "floor: float = 'one'", "validate", "must be a number"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_wrong_weighting_is_told_what_is_wrong(
    old: str, new: str, check: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weighting = import_from(tmp_path, replaced(RIGHT, old, new), monkeypatch).Roots()
    with pytest.raises(ContractError, match=said) as caught:
        check_weighting(weighting)
    assert caught.value.check == check
    assert str(caught.value).startswith(f"check_weighting(Roots): {check}: expected ")
    assert all((caught.value.expected, caught.value.found, caught.value.hint))


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renamed = replaced(NOT_INHERITED, "def validate", "def check")
    module = import_from(tmp_path, renamed, monkeypatch)
    with pytest.raises(ContractError, match=r"no validate\(\); inherit from Weighting"):
        check_weighting(module.Roots())
    with pytest.raises(ContractError, match="an instance of a Weighting, but found a class"):
        check_weighting(module.Roots)


def test_a_weighting_for_some_submixtures_is_checked_with_those() -> None:
    weighting = Proportional(submixtures={"cot": {"cap": None, "rate": 2}, "t0": {"cap": 20, "rate": 1}})
    check_weighting(weighting, submixtures=["t0", "cot"])
    check_weighting(weighting, submixtures=["cot"])
    with pytest.raises(ContractError, match=r"submixture one: .*name others with submixtures="):
        check_weighting(weighting)
    with pytest.raises(ValueError, match="at least one submixture"):
        check_weighting(weighting, submixtures=[])
