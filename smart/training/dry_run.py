"""What a run would do and cost, told without loading weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from smart.config import counted
from smart.runtime.hub import NotHere
from smart.training.config import TrainConfig
from smart.training.data import Mixture
from smart.training.fitting import Demand, Setup, advice, asked, gigabytes, parts
from smart.training.job import TrainingJob
from smart.training.order import Order
from smart.training.tokens import TokenStore, count_losses


def describe_plan(job: TrainingJob) -> str:
    """What plan=true prints: rows, tokens, steps, parameters, memory."""
    train = job.train_tokens()
    validation = job.validation_tokens()
    order, demand = job.order(train), Demand.of(job, train)
    setup = asked(job, demand)
    memory, learning = demand.memory(setup), demand.shape.learning(job.config.tuning)
    total = demand.shape.parameters + (learning if job.config.tuning.method != "full" else 0)
    lines = {
        **_rows(job, train),
        "tokens": f"{len(train.ids):,}, {train.supervised.sum():,} of them supervised",
        "validation": f"{counted(sum(map(len, validation.values())), 'row')} in"
        f" {counted(len(validation), 'submixture')}",
        "steps": f"{order.steps:,} of {counted(job.config.batch_size, 'example')} ="
        f" {counted(job.world.size, 'process')} x {_micro_batches(job.config, order)};"
        f" {counted(len(order.stream), 'example')} in all",
        "parameters": f"{learning:,} trainable of {total:,}",
        "weights": gigabytes(memory.weights),
        "adapters": gigabytes(memory.adapters),
        "optimiser": gigabytes(memory.optimizer),
        "peak memory": f"{_sure(job)} {gigabytes(memory.total)} on each GPU: {parts(memory)}",
        **_advice(job, demand, setup),
    }
    return _page(job.config, job.mixture, lines)


def _micro_batches(config: TrainConfig, order: Order) -> str:
    """What each process takes through the model in a step."""
    if config.tokens_per_micro_batch is None:
        rounds = config.batch_size // (config.micro_batch_size * order.world_size)
        return f"{rounds} accumulated x {config.micro_batch_size}"
    mean = np.mean([len(order.step(step)) for step in range(min(order.steps, 100))])
    return f"about {mean:.1f} micro-batches of at most {counted(config.tokens_per_micro_batch, 'token')}"


def _sure(job: TrainingJob) -> str:
    """The formulas are those of dense decoders."""
    return "very roughly" if job.base.expert_weights or job.base.is_stateful else "about"


def _advice(job: TrainingJob, demand: Demand, setup: Setup) -> dict[str, str]:
    """Whether the training fits on GPUs of gpu_memory, and the setup that suits them."""
    limit = job.config.gpu_memory
    if limit is None:
        return {}
    spare = limit - demand.memory(setup).total
    fits = f"fits, with {gigabytes(spare)} to spare" if spare >= 0 else f"lacks {gigabytes(-spare)}"
    recompute = ""
    if job.config.tuning.checkpoint_activations == "auto":
        recompute = f"; recomputation is {'needed' if setup.recompute else 'not needed'}"
    return {gigabytes(limit): f"{fits}{recompute}", "recommended": advice(demand, setup, limit)}


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
