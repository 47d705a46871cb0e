"""What a training run is asked to do; conf/train.yaml fills it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from smart.config import Problems
from smart.model.tokens import Overlength


@dataclass(frozen=True)
class TrainingOptions:
    """One run over a mixture."""

    batch_size: int = 64
    """Examples per optimiser step, over all processes and accumulation steps."""
    micro_batch_size: int = 8
    """Examples that one process takes through the model at once."""
    epochs: float = 1.0
    max_steps: int | None = None
    """Optimiser steps; None: as many as `epochs` need."""
    learning_rate: float = 2e-4
    max_length: int | None = None
    """Tokens of a row at most; None: what the model was trained on, but no more than 4,096."""
    separator: str = " "
    """Between prompt and response; lm-eval's target delimiter."""
    overlength: Overlength = "truncate_prompt"
    """What to do with longer rows: truncate_prompt, drop or error."""
    packing: bool = False
    """Examples of a micro-batch one after another in one sequence, without padding, each blind to the others."""
    save_steps: int = 100
    """Optimiser steps between checkpoints."""
    eval_steps: int | None = None
    """Optimiser steps between evaluations on the mixture's validation rows; None: at the start and the end."""
    keep_checkpoints: int = 2
    merge: bool = False
    """Write the merged model too, into the folder `merged`."""
    seed: int = 23

    def validate(self, world_size: int, problems: Problems) -> None:
        for key in ("batch_size", "micro_batch_size", "save_steps", "keep_checkpoints"):
            if getattr(self, key) < 1:
                problems.add(key, getattr(self, key), "must be at least 1")
        for key in ("max_steps", "eval_steps"):
            value = getattr(self, key)
            if value is not None and value < 1:
                problems.add(key, value, "must be at least 1", "leave it null for the default")
        if self.max_length is not None and self.max_length < 3:
            problems.add("max_length", self.max_length, "leaves no room for a prompt, a response and its end")
        if self.seed < 0:
            problems.add("seed", self.seed, "must be at least 0")
        for key in ("epochs", "learning_rate"):
            if not getattr(self, key) > 0:
                problems.add(key, getattr(self, key), "must be above 0")
        if self.overlength not in get_args(Overlength):
            problems.add("overlength", self.overlength, f"must be one of {', '.join(get_args(Overlength))}")
        at_once = self.micro_batch_size * world_size
        if self.batch_size >= 1 and at_once >= 1 and self.batch_size % at_once:
            fitting = [n for n in range(1, self.batch_size + 1) if self.batch_size % (n * world_size) == 0]
            way_out = (
                f"micro_batch_size can be {', '.join(map(str, fitting))}" if fitting else "change batch_size"
            )
            problems.add(
                "batch_size",
                self.batch_size,
                f"cannot be made of micro-batches of {self.micro_batch_size} on {world_size} process(es)",
                way_out,
            )
