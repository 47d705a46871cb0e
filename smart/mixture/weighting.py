"""How many rows each task should get, as weights that sum to 1: one small class for each way."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from smart.config import Problems, UserError, counted, nearest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskTable:
    """What a weighting may look at: the selected tasks, at least one, in greedy order."""

    submixtures: tuple[str, ...]
    """(tasks,) the submixture of each."""
    names: tuple[str, ...]
    """(tasks,) a task is known by its submixture and its name together."""
    gains: np.ndarray
    """float64 (tasks,), the marginal gain of each pick; zeros where the function gives none."""
    sizes: np.ndarray
    """int64 (tasks, 4), rows by template type, in the order of TEMPLATES, or (tasks, 1) in a pool of rows with turns; a
    type may have none, a task has some."""


class Weighting(ABC):
    """How many rows each task should get. A frozen dataclass whose fields are the options of its YAML file.

    The calls come in this order, in one process:

    1. `validate`, once, before anything is read; the options have the types that they are annotated with.
    2. The weighting itself, once the tasks are selected: with plan=true, too. Its weights are then divided into
       whole rows by `allocate`, which gives no task more rows than it holds.

    The weights decide the mixture, so the same table gives the same weights in any process. A UserError is shown
    to the user as one line; other exceptions are shown with their traceback. `check_weighting` tells an author
    which part of this contract a weighting breaks.

    A class that has these two methods without inheriting works too.
    """

    @abstractmethod
    def __call__(self, tasks: TaskTable) -> np.ndarray:
        """Weigh the tasks, and leave the table as it is.

        Returns:
            float64 (tasks,), in the order of the table: finite, not negative, summing to 1. A task of weight 0
            may still get rows that remain when the others' shares are rounded down or exceed their sizes.

        Raises:
            UserError: for tasks that the options say nothing about.
        """

    def validate(self, problems: Problems) -> None:  # noqa: B027
        """Add every wrong option with `problems.add("weighting.NAME", value, what, hint)`; raise nothing."""


def taylor_softmax(gains: np.ndarray) -> np.ndarray:
    """Second-order Taylor softmax: p_j = (1 + g_j + g_j^2/2) / sum_k (1 + g_k + g_k^2/2), at temperature 1.

    Every term is at least 1/2, so no weight is zero. Below g = -1 a term rises again as g falls, so that a
    worse task would weigh more: a warning says so. Source: Renduchintala et al. 2024, arXiv 2403.08370.

    Args:
        gains: float64 (tasks,).

    Returns:
        float64 (tasks,), summing to 1.

    Raises:
        ValueError: when a gain is not finite.

    >>> taylor_softmax(np.array([2.0, 0.0]))
    array([0.83333333, 0.16666667])
    """
    gains = _finite(gains)
    below = int((gains < -1).sum())
    if below:
        log.warning(
            "Below -1 are %s of %s (least: %.4g), where the Taylor softmax rises again and worse tasks "
            "weigh more; weighting=softmax has no such turn.",
            f"{below:,}",
            counted(len(gains), "gain"),
            gains.min(),
        )
    return _normalised(1 + gains + gains**2 / 2)


def softmax(gains: np.ndarray, temperature: float) -> np.ndarray:
    """p_j = exp(g_j / T) / sum_k exp(g_k / T), float64 (tasks,); ValueError when a gain is not finite."""
    gains = _finite(gains)
    return _normalised(np.exp((gains - gains.max(initial=-np.inf)) / temperature))


@dataclass(frozen=True)
class TaylorSoftmax(Weighting):
    """The published weighting: `taylor_softmax` of the raw gains."""

    def __call__(self, tasks: TaskTable) -> np.ndarray:
        return taylor_softmax(tasks.gains)


@dataclass(frozen=True)
class Softmax(Weighting):
    """Softmax of the gains."""

    temperature: float = 1.0
    """Above 0; higher is more even. Graph-cut gains grow with the number of tasks, and so should this."""

    def __call__(self, tasks: TaskTable) -> np.ndarray:
        return softmax(tasks.gains, self.temperature)

    def validate(self, problems: Problems) -> None:
        _check_positive(problems, "weighting.temperature", self.temperature)


@dataclass(frozen=True)
class Uniform(Weighting):
    """The same weight for every task."""

    def __call__(self, tasks: TaskTable) -> np.ndarray:
        return np.full(len(tasks.names), 1 / len(tasks.names))


@dataclass(frozen=True)
class Proportional(Weighting):
    """Examples-proportional mixing: a task weighs as much as it holds, up to a cap.

    With `submixtures`, FLAN 2022's own mixing: every (task, template type) data set counts up to its
    submixture's cap, and the submixtures that are present are mixed at their rates. Source:
    google-research/FLAN, flan/v2/mixtures.py; template types are mixed at rates of their own there, and count
    by their rows here.
    """

    cap: int | None = None
    """Rows of a task that count at most; null for no cap."""
    submixtures: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """For each submixture `cap` (rows of a task and template type that count at most) and `rate`."""

    def __call__(self, tasks: TaskTable) -> np.ndarray:
        if not self.submixtures:
            return _normalised(_capped(tasks.sizes.sum(axis=1), self.cap))
        present, of_task = np.unique(tasks.submixtures, return_inverse=True)
        options = [self._options(str(name)) for name in present]
        caps = np.array([each["cap"] or np.inf for each in options])[of_task]
        rates = np.array([each["rate"] for each in options])[of_task]
        counted = _capped(np.minimum(tasks.sizes, caps[:, None]).sum(axis=1), self.cap)
        return _normalised(rates * counted / np.bincount(of_task, counted)[of_task])

    def _options(self, submixture: str) -> Mapping[str, Any]:
        if submixture in self.submixtures:
            return self.submixtures[submixture]
        raise UserError(
            f"submixture {submixture}: this weighting has no cap and rate for it. "
            f"{nearest(submixture, self.submixtures)} "
            f"Give it some with '+weighting.submixtures.{submixture}={{cap: 30000, rate: 1}}', "
            "or take another weighting, such as proportional."
        )

    def validate(self, problems: Problems) -> None:
        _check_cap(problems, "weighting.cap", self.cap)
        for name, options in self.submixtures.items():
            key = f"weighting.submixtures.{name}"
            if set(options) != {"cap", "rate"}:
                problems.add(key, dict(options), "must have a cap and a rate, and nothing else")
                continue
            _check_cap(problems, f"{key}.cap", options["cap"])
            _check_positive(
                problems, f"{key}.rate", options["rate"], "leave the submixture's tasks out instead of 0"
            )


@dataclass(frozen=True)
class Temperature(Weighting):
    """Temperature-scaled mixing, as in seqio: p_j proportional to min(size_j, cap)^(1/T)."""

    temperature: float = 2.0
    """Above 0; 1 is proportional, higher is more even."""
    cap: int | None = None
    """Rows of a task that count at most; null for no cap."""

    def __call__(self, tasks: TaskTable) -> np.ndarray:
        counted = _capped(tasks.sizes.sum(axis=1), self.cap)
        return _normalised((counted / counted.max(initial=1)) ** (1 / self.temperature))

    def validate(self, problems: Problems) -> None:
        _check_positive(problems, "weighting.temperature", self.temperature)
        _check_cap(problems, "weighting.cap", self.cap)


def _finite(gains: np.ndarray) -> np.ndarray:
    gains = np.asarray(gains, np.float64)
    if not np.isfinite(gains).all():
        raise ValueError(f"not finite: {(~np.isfinite(gains)).sum():,} of {counted(len(gains), 'gain')}")
    return gains


def _normalised(terms: np.ndarray) -> np.ndarray:
    return terms / terms.sum()


def _capped(sizes: np.ndarray, cap: int | None) -> np.ndarray:
    return np.minimum(sizes, np.inf if cap is None else cap)


def _check_cap(problems: Problems, key: str, value: object) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        problems.add(key, value, "must be a whole number of rows, at least 1", "write null for no cap")


def _check_positive(problems: Problems, key: str, value: object, hint: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < np.inf:
        problems.add(key, value, "must be a number above 0", hint)
