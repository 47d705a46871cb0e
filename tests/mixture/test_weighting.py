from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from smart.config import ConfigError, Problems, UserError
from smart.mixture import (
    Proportional,
    Softmax,
    TaskTable,
    TaylorSoftmax,
    Temperature,
    Uniform,
    check_weighting,
    softmax,
    taylor_softmax,
)

CONF = Path(__file__).resolve().parents[2] / "conf"


def table(sizes: list[list[int]], submixtures: list[str] | None = None, gains: Any = None) -> TaskTable:
    names = tuple(f"task{number}" for number in range(len(sizes)))
    given = np.zeros(len(sizes)) if gains is None else np.array(gains, float)
    return TaskTable(tuple(submixtures or ["s"] * len(sizes)), names, given, np.array(sizes))


def of_totals(*totals: int) -> TaskTable:
    return table([[total, 0, 0, 0] for total in totals])


def load(*overrides: str) -> Any:
    with initialize_config_dir(str(CONF / "weighting"), version_base="1.3"):
        name, *rest = overrides
        return instantiate(compose(name, overrides=rest))


def test_taylor_softmax_by_hand() -> None:
    # 1 + 2 + 2 = 5, 1, 1 - 1 + 1/2 = 1/2
    np.testing.assert_allclose(taylor_softmax(np.array([2, 0, -1])), np.array([5, 1, 0.5]) / 6.5, rtol=1e-15)


def test_taylor_softmax_warns_where_it_rises_again(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        weights = taylor_softmax(np.array([0.0, -1.0]))
    assert not caplog.records
    assert weights[0] > weights[1]
    with caplog.at_level(logging.WARNING):
        weights = taylor_softmax(np.array([0.0, -3.0, -5.0]))
    assert "Below -1 are 2 of 3 gains (least: -5)" in caplog.text
    assert weights[2] > weights[1] > weights[0]


def test_softmax_by_hand_and_with_gains_that_would_overflow() -> None:
    np.testing.assert_allclose(softmax(np.log([1, 2, 5]), 1), [1 / 8, 2 / 8, 5 / 8])
    np.testing.assert_allclose(softmax(np.log([1, 4, 16]) * 3, 3), np.array([1, 4, 16]) / 21)
    np.testing.assert_allclose(softmax(np.array([1e6, 1e6, -1e6]), 1), [0.5, 0.5, 0])


@pytest.mark.parametrize("gains", [[1, np.nan], [np.inf, 1]])
def test_gains_that_are_not_finite(gains: list[float]) -> None:
    with pytest.raises(ValueError, match="not finite: 1 of 2 gains"):
        taylor_softmax(np.array(gains))
    with pytest.raises(ValueError, match="not finite: 1 of 2 gains"):
        softmax(np.array(gains), 1)


def test_no_gains_are_equal_weights() -> None:
    tasks = of_totals(5, 1, 9, 2)
    for weighting in (TaylorSoftmax(), Softmax(temperature=3), Uniform()):
        np.testing.assert_array_equal(weighting(tasks), [0.25] * 4)


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [
        (Proportional(), [10, 30, 60]),
        (Proportional(cap=30), [10, 30, 30]),
        (Proportional(cap=1), [1, 1, 1]),
        (Temperature(temperature=1), [10, 30, 60]),
        (Temperature(temperature=2), np.sqrt([10, 30, 60])),
        (Temperature(temperature=2, cap=30), np.sqrt([10, 30, 30])),  # first the cap, then the temperature
        (Temperature(temperature=1e-3), [0, 0, 1]),  # 60^1000 would overflow
        (Temperature(temperature=1e9), [1, 1, 1]),
    ],
)
def test_by_size(weighting: Any, expected: Any) -> None:
    np.testing.assert_allclose(
        weighting(of_totals(10, 30, 60)), np.array(expected) / np.sum(expected), rtol=1e-7, atol=1e-12
    )


def test_flan_caps_count_each_template_type_then_mix_the_submixtures() -> None:
    tasks = table(
        [[50_000, 10_000, 0, 0], [10_000, 0, 0, 0], [25_000, 25_000, 0, 0], [8_000, 0, 1_000, 0]],
        submixtures=["flan2021", "flan2021", "t0", "niv2"],
    )
    # flan2021: 30,000 + 10,000 against 10,000, at rate 4; t0 at 3; niv2 at 1.
    np.testing.assert_allclose(load("flan_caps")(tasks), np.array([4 * 0.8, 4 * 0.2, 3, 1]) / 8)


def test_flan_caps_as_a_whole() -> None:
    names = ["flan2021", "t0", "cot", "niv2", "dialog"]
    sizes = [[10**6, 0, 0, 0], [1, 0, 0, 0]]
    tasks = table(sizes * 5, submixtures=[name for name in names for _ in sizes])
    weights = load("flan_caps")(tasks).reshape(5, 2)
    np.testing.assert_allclose(weights.sum(axis=1), [0.4, 0.3, 0.1, 0.1, 0.1])
    np.testing.assert_allclose(weights[:, 0] / weights[:, 1], [30_000, 20_000, 100_000, 5_000, 200_000])


def test_flan_caps_name_what_they_know() -> None:
    tasks = table([[1, 1, 1, 1]] * 2, submixtures=["t0", "flan2022"])
    with pytest.raises(
        UserError, match=r"submixture flan2022: .*Did you mean flan2021\? Known: cot, dialog,"
    ):
        load("flan_caps")(tasks)
    added = load("flan_caps", "+submixtures.flan2022={cap: null, rate: 3}")
    np.testing.assert_allclose(added(tasks), [0.5, 0.5])


@pytest.mark.parametrize("path", sorted((CONF / "weighting").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_yaml_gives_a_weighting(path: Path) -> None:
    weighting = load(path.stem)
    problems = Problems()
    weighting.validate(problems)
    assert problems.found == []
    weights = weighting(table([[5, 0, 2, 1], [7, 7, 0, 0]], ["cot", "niv2"], gains=[3, 1]))
    assert weights.dtype == np.float64
    assert (weights > 0).all()
    assert weights.sum() == pytest.approx(1, abs=1e-14)
    check_weighting(weighting, submixtures=["flan2021", "t0", "cot", "niv2", "dialog"])


@pytest.mark.parametrize(
    "weighting",
    [
        *(
            TaylorSoftmax(),
            Uniform(),
            Proportional(),
            Proportional(cap=30),
            Temperature(),
            Temperature(1e-3, 9),
        ),
        *(Softmax(), Softmax(1e-3), Softmax(1e6)),
    ],
    ids=repr,
)
def test_each_keeps_the_contract_of_a_weighting(weighting: Any) -> None:
    check_weighting(weighting)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["softmax", "temperature=0"], "weighting.temperature=0:"),
        (["temperature", "temperature=nan"], "weighting.temperature=nan:"),
        (["temperature", "temperature=hot"], "weighting.temperature=hot:"),
        (["temperature", "cap=0"], "weighting.cap=0:"),
        (["proportional", "cap=30k"], "weighting.cap=30k:"),
        (["proportional", "cap=true"], "weighting.cap=true:"),
        (["flan_caps", "submixtures.t0.rate=-1"], "weighting.submixtures.t0.rate=-1:"),
        (["flan_caps", "submixtures.t0.cap=0.5"], "weighting.submixtures.t0.cap=0.5:"),
        (["flan_caps", "~submixtures.t0.cap"], "weighting.submixtures.t0="),
        (["flan_caps", "+submixtures.t0.rates=1"], "weighting.submixtures.t0="),
    ],
)
def test_bad_options_are_named(overrides: list[str], key: str) -> None:
    problems = Problems()
    load(*overrides).validate(problems)
    with pytest.raises(ConfigError) as error:
        problems.raise_if_any()
    assert str(error.value).startswith(key)


def test_all_bad_options_come_together() -> None:
    problems = Problems()
    load("temperature", "temperature=-1", "cap=-2").validate(problems)
    assert len(problems.found) == 2
