"""From weights to whole rows: one allocator for every weighting."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np

from smart.config import Infeasible, counted

# Weights whose sum is nearer to 1 than this are used as they are: dividing by it could move a product across
# a whole number. The floors of such weights cannot overshoot any budget under 1e12.
_SUM_TOLERANCE = 1e-12


def allocate(weights: np.ndarray, sizes: np.ndarray, budget: int) -> np.ndarray:
    """Divide `budget` rows over the tasks by weight, none above its size.

    Each task gets floor(budget x weight); the remainder goes out one row each by position. A task above its
    size is cut to it, and what it can't hold goes out one row at a time, in rounds by position, to the tasks
    with room. Position alone decides these two steps, so a task of weight zero may get rows in them: leave it
    out of the arguments if it must not.

    Args:
        weights: float64 (tasks,), in greedy order; finite and not negative. Normalised unless they sum to 1.
        sizes: int64 (tasks,), the rows that each task holds.
        budget: rows in all.

    Returns:
        int64 (tasks,), rows of each task; they sum to `budget`.

    Raises:
        Infeasible: when the tasks hold fewer rows than `budget`.
        ValueError: for weights that are negative, not finite or all zero, and for a negative budget.

    >>> allocate(np.array([0.7, 0.2, 0.1]), np.array([4, 9, 9]), 12)
    array([4, 5, 3])
    """
    weights, sizes = np.asarray(weights, np.float64), np.asarray(sizes, np.int64)
    if weights.ndim != 1 or weights.shape != sizes.shape or budget < 0 or (sizes < 0).any():
        raise ValueError(
            f"cannot divide {counted(budget, 'row')}: weights {weights.shape}, sizes {sizes.shape}"
        )
    held = int(sizes.sum())
    if budget > held:
        raise Infeasible(
            f"budget={budget}: the {counted(len(sizes), 'selected task')} can give {counted(held, 'row')}; "
            f"ask for at most {held}, or select more tasks"
        )
    total = weights.sum()
    if not (np.isfinite(total) and total > 0 and (weights >= 0).all()):
        raise ValueError(f"weights must be finite, not negative and not all zero; they sum to {total}")
    if abs(total - 1) > _SUM_TOLERANCE:
        weights = weights / total
    shares = np.floor(budget * weights).astype(np.int64)
    shares[: budget - shares.sum()] += 1
    fitted = np.minimum(shares, sizes)
    return fitted + _rounds(sizes - fitted, budget - int(fitted.sum()))


def _rounds(room: np.ndarray, rows: int) -> np.ndarray:
    """Give out `rows` one at a time, round after round by position, to whoever has room; in closed form.

    t whole rounds give out sum_j min(room_j, t). The largest t for which that is at most `rows` is found by
    bisection; the rest is one more row each for the first tasks that still have room.
    """
    whole = (
        bisect_right(range(int(room.max(initial=0)) + 1), rows, key=lambda t: np.minimum(room, t).sum()) - 1
    )
    given = np.minimum(room, whole)
    given[np.flatnonzero(room > whole)[: rows - given.sum()]] += 1
    return given


def split_templates(budget: np.ndarray | int, template_sizes: np.ndarray) -> np.ndarray:
    """Divide each task's rows over its template types by their counts.

    First zero-shot against few-shot (floors, the remainder to zero-shot), then with against without options
    inside each (floors, the remainder to with-options). In whole numbers floor(rows x part / whole) is exact,
    so no group gives more than it holds, and a task that is wanted whole gives every group whole.

    A task of one template type, as with rows with turns, gives all its rows of that.

    Args:
        budget: int64 (...), rows of each task, at most what it holds.
        template_sizes: int64 (..., 4), rows of each group, in the order of TEMPLATES; or (..., 1).

    Returns:
        int64, in the shape of `template_sizes`; each task's row sums to its budget.

    Raises:
        ValueError: when a task's budget is negative or above what it holds.

    >>> split_templates(10, np.array([6, 5, 4, 3]))
    array([4, 3, 2, 1])
    """
    budget, sizes = np.asarray(budget, np.int64), np.asarray(template_sizes, np.int64)
    if (budget < 0).any() or (budget > sizes.sum(axis=-1)).any():
        raise ValueError("a task's budget must be between 0 and the rows that it holds")
    if sizes.shape[-1] == 1:
        return budget[..., np.newaxis]
    zero_size, few_size = sizes[..., :2].sum(axis=-1), sizes[..., 2:].sum(axis=-1)
    zero, few = _two_ways(budget, zero_size, few_size)
    parts = (*_two_ways(zero, sizes[..., 0], sizes[..., 1]), *_two_ways(few, sizes[..., 2], sizes[..., 3]))
    return np.stack(parts, axis=-1)


def _two_ways(rows: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    to_second = rows * second // np.maximum(first + second, 1)
    return rows - to_second, to_second
