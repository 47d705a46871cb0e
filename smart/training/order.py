"""Which examples make up each optimiser step: arithmetic on row numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from smart.training.batching import Batching


@dataclass(frozen=True)
class Order:
    """The examples of a run, in the order in which they are learnt.

    A step is a uniform draw; only within a step do lengths decide which examples share a micro-batch. So the number of
    processes and the size of micro-batches change neither which examples a step holds nor, but for rounding, its
    gradient.
    """

    stream: np.ndarray
    """int64 (examples,): row numbers, one permutation of all rows per epoch, one after the other."""
    lengths: np.ndarray
    """int64 (rows,): tokens of each row."""
    batch_size: int
    """Examples of a step; the last step may have fewer."""
    batching: Batching
    world_size: int

    @property
    def steps(self) -> int:
        return math.ceil(len(self.stream) / self.batch_size)

    def rows(self, step: int) -> np.ndarray:
        """Row numbers of a step, ascending: int64 (examples of the step,)."""
        return np.sort(self.stream[step * self.batch_size : (step + 1) * self.batch_size])

    def step(self, step: int) -> list[list[np.ndarray]]:
        """Row numbers of a step's micro-batches: [round][process] → int64 (rows of that micro-batch,)."""
        rows = self.rows(step)
        return [
            [rows[part] for part in parts] for parts in self.batching.cut(self.lengths[rows], self.world_size)
        ]

    def micro_batches(self, step: int, rank: int) -> list[np.ndarray]:
        """Row numbers of the micro-batches that one process takes in a step; all processes have equally many."""
        return [parts[rank] for parts in self.step(step)]


def make_stream(rows: int, examples: int, seed: int, stages: np.ndarray | None = None) -> np.ndarray:
    """Row numbers for so many examples: whole permutations of all rows, the last one cut off; int64 (examples,).

    Args:
        stages: int64 (rows,); a curriculum: in each epoch, rows of a lower stage come before those of a higher one.
    """
    epochs = math.ceil(examples / rows)
    permutations = [np.random.default_rng([seed, epoch]).permutation(rows) for epoch in range(epochs)]
    if stages is not None:
        permutations = [rows[np.argsort(stages[rows], kind="stable")] for rows in permutations]
    return np.concatenate(permutations)[:examples]


def stages_by_gain(names: Sequence[str], gains: Mapping[str, float]) -> np.ndarray:
    """The stage of each row in a curriculum that begins with the task of the largest gain: int64 (rows,).

    Args:
        names: task of each row.
        gains: of each task; of equal ones the first comes first.
    """
    ranked = sorted(gains, key=lambda name: -gains[name])
    rank = {name: stage for stage, name in enumerate(ranked)}
    return np.array([rank[name] for name in names], np.int64)
