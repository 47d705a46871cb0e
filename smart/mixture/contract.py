"""check_weighting: whether a weighting keeps the contract of `Weighting`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from smart.config import UserError
from smart.mixture.weighting import TaskTable, Weighting
from smart.runtime.contracts import ContractError, require, require_members, require_valid, run_checks

SUM_TOLERANCE = 1e-9


def check_weighting(weighting: Weighting, *, submixtures: Sequence[str] = ("one", "two")) -> None:
    """Run the checks of the `Weighting` contract, and stop at the first that fails.

    Args:
        weighting: an instance with valid options.
        submixtures: names for the submixtures of the tables, for a weighting that knows only some.

    Raises:
        ContractError: names the check and the table, what was expected, what came, and a hint.

    >>> from smart.mixture import Temperature
    >>> check_weighting(Temperature(temperature=3))
    """
    if not submixtures:
        raise ValueError("check_weighting needs at least one submixture")
    trial = _Trial(weighting, example_tables(submixtures), example_tables(submixtures))
    run_checks("check_weighting", weighting, CHECKS, trial)


def example_tables(submixtures: Sequence[str]) -> dict[str, TaskTable]:
    """Tables of 1, 2 and 50 tasks, named by what is special about them."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 3000, (50, 4))
    sparse = sizes * (rng.random((50, 4)) < 0.5)
    sparse[np.arange(50), rng.integers(4, size=50)] += 1  # every task has a row
    falling = np.sort(rng.gamma(1, 3, 50))[::-1]
    tables = {
        "one task": (np.array([2.5]), sizes[:1]),
        "two tasks": (np.array([2.0, 0.5]), sizes[:2]),
        "50 tasks, positive gains": (falling, sizes),
        "50 tasks, all gains zero": (np.zeros(50), sizes),
        "50 tasks, some gains negative": (np.linspace(3, -0.9, 50), sizes),
        "50 tasks, huge gains": (falling * 1e8, sizes),
        "50 tasks, some template types without rows": (falling, sparse),
        "50 tasks, all alike": (np.ones(50), np.full((50, 4), 10)),
        "50 tasks, sizes from one row to millions": (falling, _uneven(50)),
        "50 tasks of one template type": (falling, sizes[:, :1]),
    }
    return {name: _table(gains, rows, submixtures) for name, (gains, rows) in tables.items()}


def _uneven(tasks: int) -> np.ndarray:
    """int64 (tasks, 4): totals grow from 1 to 10 million, all rows in one template type."""
    sizes = np.zeros((tasks, 4), np.int64)
    sizes[np.arange(tasks), np.arange(tasks) % 4] = np.geomspace(1, 1e7, tasks).astype(np.int64)
    return sizes


def _table(gains: np.ndarray, sizes: np.ndarray, submixtures: Sequence[str]) -> TaskTable:
    names = tuple(f"task{number}" for number in range(len(gains)))
    of_task = tuple(submixtures[number % len(submixtures)] for number in range(len(gains)))
    return TaskTable(of_task, names, np.array(gains, np.float64), np.array(sizes, np.int64))


@dataclass
class _Trial:
    """A weighting under test, and the weights that it gave."""

    weighting: Weighting
    tables: dict[str, TaskTable]
    """The tables that the weighting gets."""
    untouched: dict[str, TaskTable]
    """The same, never given away."""
    weights: dict[str, np.ndarray] = field(default_factory=dict)


def _members(trial: _Trial) -> None:
    require_members(trial.weighting, Weighting, (), ("__call__", "validate"))


def _validate(trial: _Trial) -> None:
    require_valid(trial.weighting)


def _call(trial: _Trial) -> None:
    for name, table in trial.tables.items():
        try:
            trial.weights[name] = trial.weighting(table)
        except UserError as error:
            known = ", ".join(dict.fromkeys(table.submixtures))
            hint = f"the tables' submixtures are {known}; name others with submixtures=[…] where these are refused"
            raise ContractError(f"weights of {name}", f"UserError: {error}", hint) from error


def _float_array(trial: _Trial) -> None:
    hint = "return an array with one weight for each task, such as scores / scores.sum()"
    for name, weights in trial.weights.items():
        require(isinstance(weights, np.ndarray), f"a numpy array for {name}", type(weights).__name__, hint)
        wanted = (len(trial.tables[name].names),)
        fits = weights.dtype.kind == "f" and weights.shape == wanted
        require(fits, f"floats of shape {wanted} for {name}", f"{weights.dtype} {weights.shape}", hint)


def _finite(trial: _Trial) -> None:
    hint = "look for a division by zero or an overflow; subtract the largest gain before exp()"
    for name, weights in trial.weights.items():
        bad = int((~np.isfinite(weights)).sum())
        require(not bad, f"finite weights for {name}", f"{bad} of {len(weights)} that are not", hint)


def _not_negative(trial: _Trial) -> None:
    hint = "gains may be zero or negative: map them to positive numbers first, as a softmax does"
    for name, weights in trial.weights.items():
        require(bool((weights >= 0).all()), f"no negative weight for {name}", f"{weights.min():g}", hint)


def _sum(trial: _Trial) -> None:
    for name, weights in trial.weights.items():
        total = float(weights.sum())
        require(
            abs(total - 1) <= SUM_TOLERANCE,
            f"a sum of 1 (within {SUM_TOLERANCE:g}) for {name}",
            f"{total!r}",
            "divide by the sum, in float64",
        )


def _same_weights(trial: _Trial) -> None:
    hint = "seed what is drawn, or draw nothing; keep no state between calls"
    for name, table in trial.tables.items():
        again = trial.weighting(table)
        same = np.array_equal(again, trial.weights[name])
        require(same, f"the same weights of {name} when called again", "others", hint)


def _table_unchanged(trial: _Trial) -> None:
    hint = "work on a copy: gains and sizes are written to tasks.csv afterwards"
    for name, table in trial.tables.items():
        for column in ("gains", "sizes"):
            same = np.array_equal(getattr(table, column), getattr(trial.untouched[name], column))
            require(same, f"{column} of {name} as they were", "changed ones", hint)


CHECKS = (
    _members,
    _validate,
    _call,
    _table_unchanged,
    _float_array,
    _finite,
    _not_negative,
    _sum,
    _same_weights,
)
