"""Which examples make up each optimiser step, and how a step is cut into micro-batches: arithmetic on row numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Order:
    """The examples of a run, in the order in which they are learnt.

    A step is a uniform draw, as without sorting; within a step, examples of like length share a micro-batch.
    So the number of processes and of accumulation steps changes neither which examples a step holds nor its
    gradient.
    """

    stream: np.ndarray
    """int64 (examples,): row numbers, one permutation of all rows per epoch, one after the other."""
    lengths: np.ndarray
    """int64 (rows,): tokens of each row."""
    batch_size: int
    micro_batch_size: int
    world_size: int

    @property
    def steps(self) -> int:
        return math.ceil(len(self.stream) / self.batch_size)

    def micro_batches(self, rank: int) -> list[list[int]]:
        """Row numbers of every micro-batch of one process, step after step."""
        return [rows[rank].tolist() for step in range(self.steps) for rows in self.step(step)]

    def step(self, step: int) -> list[list[np.ndarray]]:
        """Row numbers of a step by accumulation step and process, the longest first.

        Only the last step may be short: it has as few accumulation steps as it can, all processes the same
        number, and a process that is left without an example gets an empty micro-batch.
        """
        rows = self.stream[step * self.batch_size : (step + 1) * self.batch_size]
        rows = rows[np.lexsort((rows, -self.lengths[rows]))]
        rounds = math.ceil(len(rows) / (self.micro_batch_size * self.world_size))
        parts = np.array_split(rows, rounds * self.world_size)
        return [parts[first : first + self.world_size] for first in range(0, len(parts), self.world_size)]


def make_stream(rows: int, examples: int, seed: int) -> np.ndarray:
    """Row numbers for so many examples: whole permutations of all rows, the last one cut off; int64 (examples,)."""
    epochs = math.ceil(examples / rows)
    permutations = [np.random.default_rng([seed, epoch]).permutation(rows) for epoch in range(epochs)]
    return np.concatenate(permutations)[:examples]
