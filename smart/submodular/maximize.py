"""Greedy maximisation: arrays in, order and gains out."""

import operator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, SupportsIndex, get_args

import numpy as np

from smart.submodular.base import SetFunction
from smart.submodular.greedy import exact_greedy, lazy_greedy, naive_greedy
from smart.submodular.partition import partition_and_merge
from smart.submodular.resources import Resources, default_threads, parse_memory, single_threaded_blas

Optimizer = Literal["exact", "lazy", "naive", "partition"]
OPTIMIZERS: tuple[str, ...] = get_args(Optimizer)
PARTS = 8


@dataclass(frozen=True)
class Chosen:
    """Rows in the order chosen."""

    order: np.ndarray
    """Row numbers, (k,) int64."""
    gains: np.ndarray
    """Marginal gain of each pick, (k,) float64."""
    optimizer: str = "exact"
    """How the rows were found: "naive" where "lazy" was asked of a function that is not submodular."""
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
        f: the function, such as GraphCut(X); what a function must have stands at SetFunction.
        budget: rows to choose, 1 … n.
        optimizer: "exact" (the function's own quick greedy), "lazy" (stale gains as upper bounds, for any submodular
            function; the same order), "naive" (all gains at every step; slow, the same order), or "partition"
            (partition and merge; approximate).
        seed: of the random parts of "partition".
        threads: threads to use; None takes every processor the process may run on. The order doesn't depend on it.
        memory_limit: bytes, or a size such as "4GB", that may be used above the vectors; None is 80 % of free memory.
        parts: of "partition"; None is 8, or n where there are fewer rows.

    Raises:
        ValueError: a budget or an option that is no whole number or out of range.
        ValueError: f's gains have a wrong shape, or are NaN, or rise where "lazy" relies on f.submodular.
        MemoryLimitError: the optimizer would need more than the memory limit.
    """
    budget = _whole("budget", budget)
    if optimizer not in OPTIMIZERS:
        raise ValueError(_unknown(optimizer))
    if not 1 <= budget <= f.n:
        raise ValueError(f"budget={budget}: choose from 1 to {f.n} of {f.n} rows")
    threads = default_threads() if threads is None else _whole("threads", threads, least=1)
    parts = min(PARTS, f.n) if parts is None else _whole("parts", parts)
    seed = _whole("seed", seed, least=0)
    with single_threaded_blas(), Resources(threads, parse_memory(memory_limit)) as resources:
        if optimizer == "lazy" and not getattr(f, "submodular", True):
            optimizer = "naive"
        if optimizer == "partition":
            order, gains = partition_and_merge(f, budget, resources, parts, seed, exact_greedy)
        else:
            greedy = {"exact": exact_greedy, "lazy": lazy_greedy, "naive": naive_greedy}[optimizer]
            order, gains = greedy(f, budget, resources)
    return Chosen(order.astype(np.int64, copy=False), gains, optimizer, approximate=optimizer == "partition")


def _unknown(optimizer: object) -> str:
    near = get_close_matches(str(optimizer), OPTIMIZERS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"optimizer={optimizer!r}: no such optimizer; {hint}known are {', '.join(OPTIMIZERS)}"


def _whole(name: str, value: SupportsIndex, least: int | None = None) -> int:
    """An integer of Python or NumPy as an int; nothing is rounded, and True is no number."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name}={value!r}: must be a whole number") from None
    if isinstance(value, bool) or (least is not None and number < least):
        raise ValueError(f"{name}={value!r}: must be a whole number, at least {least or 0}")
    return number
