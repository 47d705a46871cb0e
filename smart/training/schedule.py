"""Schedules of the learning rate, on whose first step something is learnt."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler


def make_schedule(name: str, optimizer: Optimizer, warmup: int, steps: int) -> LambdaLR:
    """transformers' schedule, one step ahead.

    Over w steps of warm-up theirs rises 0, 1/w, …, so a first step learns nothing; ours 1/(w + 1), …, w/(w + 1).
    After the warm-up the two are the same.

    Args:
        name: one of smart.model.options.SCHEDULES.
        warmup: steps in which the rate rises; the last step has risen.
        steps: of the whole run.
    """
    warmup = min(warmup, steps - 1)
    # Its decay is measured in steps of warm-up, of which theirs is given one more.
    options: dict[str, Any] | None = {"timescale": warmup or 10_000} if name == "inverse_sqrt" else None
    theirs: Any = get_scheduler(name, optimizer, warmup + 1, steps + 1, options)
    factor = theirs.lr_lambdas[0]
    return LambdaLR(optimizer, lambda step: factor(step + 1))
