"""The largest micro-batch, tried before the first step: a run that doesn't fit ends at once, with what would.

Out of memory would otherwise come at a random step, when the longest rows meet.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from smart.config import UserError, counted
from smart.runtime.memory import peak_memory
from smart.training.fitting import Demand, Setup, advice, gigabytes
from smart.training.memory import MicroBatch, activation_bytes
from smart.training.order import Order

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rehearsal:
    """A trial of a run's largest micro-batch, and what to say where it doesn't fit."""

    order: Order
    demand: Demand
    setup: Setup

    @cached_property
    def rows(self) -> np.ndarray:
        """Row numbers of the micro-batch that takes most by the count, of all steps and processes; int64 (rows,)."""
        tuning = replace(self.demand.tuning, checkpoint_activations=self.setup.recompute)
        batches: dict[MicroBatch, np.ndarray] = {}
        for step in range(self.order.steps):
            for parts in self.order.step(step):
                batches |= {self.demand.batch(rows): rows for rows in parts if len(rows)}
        return batches[max(batches, key=lambda batch: activation_bytes(self.demand.shape, tuning, batch))]

    def run(self, trainer: Any) -> None:
        """Take the micro-batch forward and backward, beside the moments that will be there from the second step on.

        Leaves weights, gradients and generators as they were. All processes do the same.

        Raises:
            UserError: where memory is short.
        """
        learning = [weight for weight in trainer.model.parameters() if weight.requires_grad]
        with self.explained(trainer.args.device), generators_kept(trainer.args.device):
            moments = None if trainer.optimizer.state else self._moments(learning)
            for weight in learning:
                weight.grad = torch.zeros_like(weight)  # of the micro-batches before it in a step
            try:
                trainer.rehearse(self.rows)
            finally:
                for weight in learning:
                    weight.grad = None
                del moments

    def _moments(self, learning: list[torch.nn.Parameter]) -> list[torch.Tensor]:
        memory = self.demand.memory(self.setup)
        share = memory.optimizer / max(1.0, self.demand.shape.learning(self.demand.tuning))
        share *= self.setup.gpus if self.setup.sharded else 1
        local = (getattr(weight, "to_local", lambda weight=weight: weight)() for weight in learning)
        return [weight.new_empty(int(share * weight.numel()), dtype=torch.uint8) for weight in local]

    @contextmanager
    def explained(self, device: torch.device) -> Iterator[None]:
        """Make one line of what is raised inside where memory is short.

        Raises:
            UserError: with what would fit.
        """
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise UserError(self.message(memory_of(device))) from error

    def message(self, limit: float) -> str:
        """What to say where the largest micro-batch doesn't fit into so many bytes."""
        batch = self.demand.batch(self.rows)
        counted_memory = self.demand.memory(self.setup, batch)
        # Where the count says that it fits, activations take at least so many times what it says.
        scale = max(1.0, counted_memory.activations_within(1.02 * limit) / counted_memory.activations)
        return (
            f"out of memory: the GPU has {gigabytes(limit)}, and the largest micro-batch, {batch.rows:,} x"
            f" {counted(batch.length, 'token')}, needs about {gigabytes(counted_memory.total)} by the count; what would"
            f" fit: {advice(self.demand, self.setup, limit, scale=scale)}"
        )


class RehearsalCallback(TrainerCallback):
    """Rehearses before the first step of a session."""

    def __init__(self, rehearsal: Rehearsal, trainer: Any) -> None:
        self._rehearsal, self._trainer = rehearsal, trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        if is_rehearsed(args.device):
            self._rehearsal.run(self._trainer)
            log.info("Rehearsed the largest micro-batch: it takes %s at most.", gigabytes(peak_memory()))


def is_rehearsed(device: torch.device) -> bool:
    """On a CPU memory is not short all at once, and the step that it costs is long."""
    return device.type == "cuda"


def memory_of(device: torch.device) -> float:
    """Bytes of a GPU, used or not."""
    return float(torch.cuda.mem_get_info(device)[1])


@contextmanager
def generators_kept(device: torch.device) -> Iterator[None]:
    """Give the generators of random numbers back the states that they came with."""
    before, numpys = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(before)
        np.random.set_state(numpys)
