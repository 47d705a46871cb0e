"""Greedy maximisation: arrays in, order and gains out."""

import operator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from smart.submodular.arithmetic import argmax_lowest
from smart.submodular.functions import SetFunction
from smart.submodular.partition import partition_and_merge
from smart.submodular.resources import Resources, default_threads, parse_memory, single_threaded_blas

Optimizer = Literal["exact", "naive", "partition"]
PARTS = 8


@dataclass(frozen=True)
class Chosen:
    """Rows in the order chosen."""

    order: np.ndarray
    """Row numbers, (k,) int64."""
    gains: np.ndarray
    """Marginal gain of each pick, (k,) float64."""
    optimizer: str = "exact"
    """How the rows were found."""
    approximate: bool = False
    """True where the order may differ from exact greedy's."""


def maximize(
    f: SetFunction,
    budget: int,
    optimizer: Optimizer = "exact",
    *,
    seed: int = 0,
    threads: int | None = None,
    memory_limit: int | str | None = None,
    parts: int | None = None,
) -> Chosen:
    """The greedy order of `budget` rows: each has the largest gain given those before it, ties go to the lowest row.

    Greedy never stops early, also where gains are negative. Its orders are nested: a budget's rows are the first rows
    of any larger budget.

    Args:
        f: the function, such as GraphCut(X).
        budget: rows to choose, 1 … n.
        optimizer: "exact" (the function's own quick greedy), "naive" (all gains at every step; slow, the same order),
            or "partition" (partition and merge; approximate).
        seed: of the random parts of "partition".
        threads: threads to use; None takes every processor the process may run on. The order doesn't depend on it.
        memory_limit: bytes, or a size such as "4GB", that may be used above the vectors; None is 80 % of free memory.
        parts: of "partition"; None is 8, or n where there are fewer rows.

    Raises:
        ValueError: a budget or an option that is no whole number or out of range.
        MemoryLimitError: no exact way fits the memory limit.
    """
    budget = _whole("budget", budget)
    if not 1 <= budget <= f.n:
        raise ValueError(f"budget={budget}: choose from 1 to {f.n} of {f.n} rows")
    threads = default_threads() if threads is None else _whole("threads", threads, least=1)
    parts = min(PARTS, f.n) if parts is None else _whole("parts", parts)
    seed = _whole("seed", seed, least=0)
    with single_threaded_blas(), Resources(threads, parse_memory(memory_limit)) as resources:
        if optimizer == "exact":
            order, gains = exact_greedy(f, budget, resources)
        elif optimizer == "naive":
            resources.need(getattr(f, "naive_memory", 0), f"the naive optimizer over {f.n} rows")
            order, gains = naive_greedy(f, budget)
        elif optimizer == "partition":
            order, gains = partition_and_merge(f, budget, resources, parts, seed, exact_greedy)
        else:
            raise ValueError(f"optimizer={optimizer!r}: known are exact, naive, partition")
    return Chosen(order.astype(np.int64, copy=False), gains, optimizer, approximate=optimizer == "partition")


def _whole(name: str, value: Any, least: int | None = None) -> int:
    """An integer of Python or NumPy as an int; nothing is rounded, and True is no number."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name}={value!r}: must be a whole number") from None
    if isinstance(value, bool) or (least is not None and number < least):
        raise ValueError(f"{name}={value!r}: must be a whole number, at least {least or 0}")
    return number


def exact_greedy(f: Any, budget: int, resources: Resources) -> tuple[np.ndarray, np.ndarray]:
    """The function's own exact greedy, or the naive one where it has none."""
    exact = getattr(f, "exact", None)
    return exact(budget, resources) if exact else naive_greedy(f, budget)


def naive_greedy(f: SetFunction, budget: int) -> tuple[np.ndarray, np.ndarray]:
    """All gains at every step."""
    state = f.begin()
    alive = np.ones(f.n, dtype=np.bool_)
    order = np.empty(budget, dtype=np.int64)
    chosen_gains = np.empty(budget)
    for step in range(budget):
        gains = state.gains()
        order[step] = pick = argmax_lowest(gains, alive)
        chosen_gains[step] = gains[pick]
        alive[pick] = False
        state.add(pick)
    return order, chosen_gains
