"""Zero vectors: they have a constant gain and change no other, so the kernels never see them."""

from collections.abc import Callable

import numpy as np

from smart.submodular.arithmetic import tie_width
from smart.submodular.similarity import Cosine

Greedy = Callable[[Cosine, int], tuple[np.ndarray, np.ndarray]]


def without_zeros(
    kernel: Cosine, budget: int, zero_gain: float, greedy: Greedy
) -> tuple[np.ndarray, np.ndarray]:
    """Greedy over the vectors that are not zero, merged with the zero ones, whose gain is always `zero_gain`.

    The merge is greedy itself: at each step the next of either kind with the larger gain, at ties the lower row.
    """
    zeros = kernel.zeros
    if not zeros.size:
        return greedy(kernel, budget)
    rows = np.flatnonzero(kernel.scale > 0)
    order, gains = rows[:0], np.empty(0)
    if rows.size:
        order, gains = greedy(kernel.take(rows), min(budget, rows.size))
        order = rows[order]
    merged = np.empty(budget, dtype=np.int64)
    merged_gains = np.empty(budget)
    a = z = 0
    for step in range(budget):
        gain = gains[a] if a < rows.size else -np.inf
        best = max(gain, zero_gain) if z < zeros.size else gain
        tied = best - tie_width(best)
        take_zero = z < zeros.size and zero_gain >= tied and (gain < tied or zeros[z] < order[a])
        if take_zero:
            merged[step], merged_gains[step], z = zeros[z], zero_gain, z + 1
        else:
            merged[step], merged_gains[step], a = order[a], gain, a + 1
    return merged, merged_gains
