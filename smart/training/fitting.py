"""What fits on a GPU: whether a training has to recompute, and which micro-batches and how many GPUs it could take."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from smart.config import counted
from smart.model import TuningOptions
from smart.training.job import TrainingJob
from smart.training.memory import Memory, MicroBatch, Shape, step_memory
from smart.training.tokens import TokenStore

GPUS = (1, 2, 4, 8)
"""Numbers of GPUs that are tried."""
TOKENS = (65_536, 32_768, 16_384, 12_288, 8_192, 6_144, 4_096, 3_072, 2_048, 1_024, 512)
"""Values of tokens_per_micro_batch that are tried."""
RECOMPUTATION = 4 / 3
"""Time of a step with recomputation, to one without: a second forward pass beside a forward and a backward of twice its
work (arXiv 1604.06174)."""
MICRO_BATCH_COST = 1024
"""What a micro-batch costs beside its tokens, in tokens: reading the weights, or dequantising them. An estimate, which
only ranks what fits."""


@dataclass(frozen=True)
class Setup:
    """How a training uses GPUs."""

    recompute: bool
    gpus: int = 1
    sharded: bool = False
    micro_batch_size: int = 8
    tokens_per_micro_batch: int | None = None

    @property
    def overrides(self) -> tuple[str, ...]:
        """What to paste behind the command."""
        launch = (f"launch={'fsdp' if self.sharded else 'ddp'}", f"num_processes={self.gpus}")
        size = (
            f"micro_batch_size={self.micro_batch_size}"
            if self.tokens_per_micro_batch is None
            else f"tokens_per_micro_batch={self.tokens_per_micro_batch}"
        )
        recompute = f"tuning.checkpoint_activations={str(self.recompute).lower()}"
        return (size, recompute, *(launch if self.gpus > 1 else ()))


@dataclass(frozen=True)
class Demand:
    """What a training asks of each GPU, under any setup."""

    shape: Shape
    tuning: TuningOptions
    lengths: np.ndarray
    """int64 (rows,): tokens of each row."""
    supervised: np.ndarray
    """int64 (rows,): of which the loss is on."""
    batch_size: int
    packing: bool = False

    @classmethod
    def of(cls, job: TrainingJob, train: TokenStore) -> Demand:
        shape = Shape.of(job.base, adapted=job.config.tuning.method != "full")
        lengths, supervised = np.asarray(train.lengths), np.asarray(train.supervised)
        return cls(shape, job.config.tuning, lengths, supervised, job.config.batch_size, job.config.packing)

    @cached_property
    def _longest(self) -> np.ndarray:
        """int64 (rows,): tokens of so many of the longest rows, summed."""
        return np.cumsum(np.sort(self.lengths)[::-1])

    @cached_property
    def _densest(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and supervised positions of so many of the rows with the largest share of those, summed."""
        rows = np.argsort(-self.supervised / self.lengths, kind="stable")
        return np.cumsum(self.lengths[rows]), np.cumsum(self.supervised[rows])

    def largest(self, setup: Setup) -> MicroBatch:
        """A micro-batch that no other of the run exceeds, in tokens or in supervised positions.

        Either bound can be met; both at once seldom are.
        """
        longest = int(self.lengths.max())
        rows = min(self.batch_size, len(self.lengths))
        if setup.tokens_per_micro_batch is None:
            rows = min(rows, setup.micro_batch_size)
        whole = int(self._longest[rows - 1]) if self.packing else rows * longest
        limit = setup.tokens_per_micro_batch
        tokens = whole if limit is None else min(whole, max(limit, longest))
        summed, supervised = self._densest
        full = int(np.searchsorted(summed, tokens, "right"))
        dense = int(supervised[min(full, len(supervised) - 1)])
        most = int(np.sort(self.supervised)[::-1][:rows].sum())
        if self.packing or limit is not None:
            return MicroBatch(1, tokens, min(tokens, dense, most))
        return MicroBatch(rows, longest, min(tokens, dense, most))

    def batch(self, rows: np.ndarray) -> MicroBatch:
        """The micro-batch of these rows, by their numbers."""
        lengths, supervised = self.lengths[rows], int(self.supervised[rows].sum())
        if self.packing:
            return MicroBatch(1, int(lengths.sum()), supervised)
        return MicroBatch(len(rows), int(lengths.max()), supervised)

    def memory(self, setup: Setup, batch: MicroBatch | None = None, *, scale: float = 1.0) -> Memory:
        """Bytes on each GPU.

        Args:
            batch: None: the largest.
            scale: by which activations turned out to be larger than counted.
        """
        tuning = replace(self.tuning, checkpoint_activations=setup.recompute)
        batch = batch or self.largest(setup)
        memory = step_memory(self.shape, tuning, batch, processes=setup.gpus, sharded=setup.sharded)
        return replace(memory, activations=scale * memory.activations)


def asked(job: TrainingJob, demand: Demand) -> Setup:
    """The setup of a job; with checkpoint_activations=auto it recomputes where gpu_memory doesn't suffice otherwise.

    The answer depends on the configuration, the rows and the processes, never on the machine.
    """
    config = job.config
    setup = Setup(
        bool(config.tuning.checkpoint_activations),
        job.world.size,
        job.world.sharded,
        config.micro_batch_size,
        config.tokens_per_micro_batch,
    )
    if config.tuning.checkpoint_activations == "auto" and config.gpu_memory is not None:
        keeps_all = replace(setup, recompute=False)
        return keeps_all if demand.memory(keeps_all).total <= config.gpu_memory else setup
    return setup


def recommended(demand: Demand, like: Setup, limit: float, *, scale: float = 1.0) -> Setup | None:
    """The quickest setup by estimate that fits, on as few GPUs as can be; None where nothing does.

    Args:
        like: the setup that was asked for; it has at least as many GPUs.
        limit: bytes of a GPU.
        scale: by which activations turned out to be larger than counted.
    """
    for gpus in sorted({like.gpus, *(number for number in GPUS if number > like.gpus)}):
        fitting = [
            setup for setup in _setups(demand, like, gpus) if demand.memory(setup, scale=scale).total <= limit
        ]
        if fitting:
            return min(fitting, key=lambda setup: _time(demand, setup))
    return None


def _setups(demand: Demand, like: Setup, gpus: int) -> Iterator[Setup]:
    """Setups on so many GPUs. More of them help only when they share the weights."""
    sharded = like.sharded or gpus > like.gpus
    longest = int(demand.lengths.max())  # which is a micro-batch of its own where the limit is lower
    sizes = [*(tokens for tokens in TOKENS if longest < tokens < 2 * longest * demand.batch_size), longest]
    for recompute, tokens in itertools.product((False, True), sizes):
        yield Setup(recompute, gpus, sharded, tokens_per_micro_batch=tokens)


def _time(demand: Demand, setup: Setup) -> float:
    """Relative time of a token."""
    tokens = min(setup.tokens_per_micro_batch or 0, demand.largest(setup).tokens)
    return (RECOMPUTATION if setup.recompute else 1.0) * (1 + MICRO_BATCH_COST / max(1, tokens))


def most_rows(demand: Demand, setup: Setup, limit: float, *, scale: float = 1.0) -> int | None:
    """The largest micro_batch_size that fits and divides the step; None where one row doesn't fit."""
    for rows in range(demand.batch_size // setup.gpus, 0, -1):
        by_rows = replace(setup, micro_batch_size=rows, tokens_per_micro_batch=None)
        if (
            demand.batch_size % (rows * setup.gpus) == 0
            and demand.memory(by_rows, scale=scale).total <= limit
        ):
            return rows
    return None


def advice(demand: Demand, like: Setup, limit: float, *, scale: float = 1.0) -> str:
    """What would fit, to paste; or what is in the way."""
    setup = recommended(demand, like, limit, scale=scale)
    if setup is None:
        longest = int(demand.lengths.max())
        least = replace(
            like, recompute=True, gpus=max(*GPUS, like.gpus), sharded=True, tokens_per_micro_batch=1
        )
        needs = demand.memory(least, scale=scale).total
        smaller = "" if demand.tuning.method == "qlora" else " or take tuning=qlora"
        return (
            f"nothing fits on {gigabytes(limit)}: a row of {counted(longest, 'token')} alone needs"
            f" {gigabytes(needs)} on each of {least.gpus} GPUs (launch=fsdp), recomputed; lower max_length{smaller}"
        )
    text = f"{' '.join(setup.overrides)} ({gigabytes(demand.memory(setup, scale=scale).total)})"
    rows = most_rows(demand, setup, limit, scale=scale)
    return text if rows is None else f"{text}; or micro_batch_size={rows} in place of the tokens"


def parts(memory: Memory) -> str:
    """What the memory is for."""
    named = {
        "weights": memory.weights + memory.adapters,
        "gradients": memory.gradients,
        "optimiser": memory.optimizer,
        "gathered": memory.gathered,
        "activations": memory.activations,
        "CUDA": memory.context,
        "reserve": memory.reserve,
    }
    return ", ".join(f"{name} {gigabytes(number)}" for name, number in named.items() if number)


def gigabytes(number: float) -> str:
    """Bytes as people write them, in powers of 1000: three digits and a unit."""
    for unit in ("B", "KB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} GB"
