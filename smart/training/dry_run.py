"""What a run would do and cost, told without loading weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from smart.config import counted
from smart.model.adapters import target_layers
from smart.runtime.hub import NotHere
from smart.training.config import TrainConfig
from smart.training.data import Mixture
from smart.training.job import TrainingJob
from smart.training.order import Order
from smart.training.tokens import TokenStore, count_losses

_DTYPE_BYTES = {"bfloat16": 2, "float32": 4}
_NF4_BYTES = 0.5 + (1 + 4 / 256) / 64
"""Per weight: 4 bits, an 8-bit scale for 64 weights, and a float32 scale for 256 of those."""


@dataclass(frozen=True)
class Size:
    """Numbers of parameters, and bytes."""

    total: int
    trainable: int
    weights: int
    """Bytes of the base model, as loaded."""
    adapters: int
    """Bytes of the adapters; 0 in full tuning."""
    optimizer: int
    gradients: int


def measure(job: TrainingJob) -> Size:
    """Count parameters and bytes from the shapes of the architecture."""
    parameters = sum(weight.numel() for weight in job.base.skeleton().parameters())
    layers, tuning = job.base.linear_layers, job.config.tuning
    if tuning.method == "full":
        weights, trainable, adapters = 4 * parameters, parameters, 0
    else:
        trainable = sum(tuning.lora_r * sum(layers[name]) for name in target_layers(job.base))
        adapters = 4 * trainable
        in_4_bits = sum(a * b for a, b in layers.values()) if tuning.method == "qlora" else 0
        weights = round(in_4_bits * _NF4_BYTES) + (parameters - in_4_bits) * _DTYPE_BYTES[tuning.dtype]
    state = 2 if "8bit" in tuning.optimizer else 8
    total = parameters + (trainable if adapters else 0)
    return Size(total, trainable, weights, adapters, state * trainable, 4 * trainable)


def activation_bytes(job: TrainingJob, longest: int) -> int:
    """Estimate of what one micro-batch of the longest rows keeps for its backward pass.

    About 34 bytes per token, layer and unit of width in half precision (arXiv 2205.05198, without the
    attention matrix, which current kernels do not keep); with recomputation 2 bytes, plus one layer in full.
    """
    text = job.base.config.get_text_config()
    per_layer = (
        longest * job.config.micro_batch_size * text.hidden_size * _DTYPE_BYTES[job.config.tuning.dtype] // 2
    )
    if job.config.tuning.checkpoint_activations:
        return int(per_layer * (2 * text.num_hidden_layers + 34))
    return int(per_layer * 34 * text.num_hidden_layers)


def describe_plan(job: TrainingJob) -> str:
    """What plan=true prints: rows, tokens, steps, parameters, memory."""
    train = job.train_tokens()
    validation = job.validation_tokens()
    order, size = job.order(train), measure(job)
    shards = job.world.size if job.world.sharded else 1
    peak = (size.weights + size.adapters + size.optimizer + size.gradients) / shards
    peak += activation_bytes(job, int(train.lengths.max()))
    lines = {
        **_rows(job, train),
        "tokens": f"{len(train.ids):,}, {train.supervised.sum():,} of them supervised",
        "validation": f"{counted(sum(map(len, validation.values())), 'row')} in"
        f" {counted(len(validation), 'submixture')}",
        "steps": f"{order.steps:,} of {counted(job.config.batch_size, 'example')} ="
        f" {counted(job.world.size, 'process')} x {_micro_batches(job.config, order)};"
        f" {counted(len(order.stream), 'example')} in all",
        "parameters": f"{size.trainable:,} trainable of {size.total:,}",
        "weights": _bytes(size.weights),
        "adapters": _bytes(size.adapters),
        "optimiser": _bytes(size.optimizer),
        "peak memory": f"about {_bytes(peak)} on each GPU (estimate)",
    }
    return _page(job.config, job.mixture, lines)


def _micro_batches(config: TrainConfig, order: Order) -> str:
    """What each process takes through the model in a step."""
    if config.tokens_per_micro_batch is None:
        rounds = config.batch_size // (config.micro_batch_size * order.world_size)
        return f"{rounds} accumulated x {config.micro_batch_size}"
    mean = np.mean([len(order.step(step)) for step in range(min(order.steps, 100))])
    return f"about {mean:.1f} micro-batches of at most {counted(config.tokens_per_micro_batch, 'token')}"


def _rows(job: TrainingJob, train: TokenStore) -> dict[str, str]:
    losses = count_losses(job.mixture.train, train).values()
    dropped, cut = (sum(lost[what] for lost in losses) for what in ("dropped", "cut"))
    count = len(job.mixture.train)
    if job.form is None:
        return {
            "rows": f"{len(train):,} of {count:,}; {dropped:,} dropped, {cut:,} with a cut prompt; max_length"
            f" {job.max_length}"
        }
    split = f", {train.split:,} of them a row for each answer" if train.split else ""
    return {
        "format": f"chat, template {job.form.template_hash[:8]}, end of turn {job.form.end_of_turn}",
        "rows": f"{len(train):,}, of {counted(count - dropped, 'conversation')} out of {count:,}{split};"
        f" {dropped:,} dropped, {cut:,} without their first turns; max_length {job.max_length}",
        "turns": f"{train.turns.sum():,} supervised",
    }


def describe_mixture(config: TrainConfig, mixture: Mixture, missing: NotHere) -> str:
    """The plan of a training whose model is not here."""
    examples = round(config.epochs * len(mixture.train))
    steps = max(1, math.ceil(examples / config.batch_size)) if config.max_steps is None else config.max_steps
    lines = {
        "rows": f"{len(mixture.train):,}, less those that do not fit into the model's context",
        "validation": counted(len(mixture.validation), "row"),
        "steps": f"at most {steps:,} of {counted(config.batch_size, 'example')}",
        "not known": f"tokens, parameters, memory: {missing}",
    }
    return _page(config, mixture, lines)


def _page(config: TrainConfig, mixture: Mixture, lines: Mapping[str, str]) -> str:
    head = f"Plan: {config.tuning.method} of {config.model.name} on {mixture.name}"
    return "\n".join([head, *(f"  {name:<12} {value}" for name, value in lines.items())])


def _bytes(number: float) -> str:
    for unit in ("B", "KB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} GB"
