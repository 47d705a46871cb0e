"""transformers' Trainer with our order, our loss, sealed checkpoints, and evaluation that disturbs nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, SchedulerType, Trainer, TrainingArguments

from smart.config import UserError
from smart.model.attention import needs_ones
from smart.training.callbacks import CheckpointCallback, ProgressCallback
from smart.training.config import TrainConfig
from smart.training.loss import Batch, Collator, SupervisedHead, move
from smart.training.order import Order
from smart.training.schedule import make_schedule
from smart.training.tokens import TokenStore


def make_arguments(config: TrainConfig, order: Order, folder: Path, *, recompute: bool) -> TrainingArguments:
    """The Trainer's arguments for a run; `folder` gets the checkpoints, `recompute` says whether activations are."""
    tuning = config.tuning
    known = {field.name for field in fields(TrainingArguments)}
    # The option's name from transformers 5 on, and before.
    prefix = "activation" if "activation_checkpointing" in known else "gradient"
    checkpointing: dict[str, Any] = {
        f"{prefix}_checkpointing": recompute,
        f"{prefix}_checkpointing_kwargs": {"use_reentrant": False} if recompute else None,
    }
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,  # what the Trainer takes for a batch are all micro-batches of a step
        max_steps=order.steps,
        learning_rate=config.learning_rate,
        lr_scheduler_type=tuning.schedule,
        warmup_steps=math.ceil(tuning.warmup * order.steps),
        weight_decay=tuning.weight_decay,
        max_grad_norm=tuning.max_grad_norm,
        optim=tuning.optimizer,
        bf16=tuning.dtype == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        seed=config.seed,
        ddp_timeout=config.ddp_timeout,
        save_strategy="steps",
        save_steps=config.save_steps,
        eval_strategy="no",  # CheckpointCallback says when
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would hide a loss that is not finite
        average_tokens_across_devices=True,
        ddp_find_unused_parameters=False,
        disable_tqdm=True,
        report_to="none",
        **checkpointing,
    )
    if (
        arguments.n_gpu > 1
    ):  # one process learns on one GPU, where the Trainer would split batches over all of them
        arguments._n_gpu = 1
    return arguments


@dataclass(frozen=True)
class StepBatches(Dataset[list[Batch]]):
    """The micro-batches of one process, step after step."""

    store: TokenStore
    steps: Sequence[Sequence[np.ndarray]]
    """Row numbers: of each step, of each of its micro-batches."""
    collate: Collator

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, step: int) -> list[Batch]:
        return [self.collate([self.store[row] for row in rows]) for rows in self.steps[step]]


@dataclass(frozen=True)
class OrderOfProcess(Sequence[Sequence[np.ndarray]]):
    """The micro-batches of an order that one process takes, cut when they are asked for."""

    order: Order
    rank: int

    def __len__(self) -> int:
        return self.order.steps

    def __getitem__(self, step: Any) -> Any:
        return self.order.micro_batches(step, self.rank)


class SupervisedTrainer(Trainer):
    """Learns the responses of a token store in a given order.

    Args:
        validation: name → tokens of the rows of one submixture; the loss of each is reported, and of all.
        key: of the run, by which its checkpoints are known.
        watch: called on the main process with the metrics of every step and evaluation.
    """

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        tokenizer: Any,
        train: TokenStore,
        order: Order,
        validation: Mapping[str, TokenStore],
        *,
        eval_steps: int | None,
        keep_checkpoints: int,
        key: str,
        watch: Callable[[dict[str, float], int], None],
    ) -> None:
        self.order = order
        self._train = train
        self._validation = validation
        self._head = SupervisedHead(model)
        self._supervised = train.supervised
        self._step_batches: list[Batch] = []
        self._watch = watch
        self._collate = Collator(tokenizer.pad_token_id, order.batching.packing, needs_ones(model))
        super().__init__(
            model,
            args,
            train_dataset=train,
            processing_class=tokenizer,
            callbacks=[
                CheckpointCallback(eval_steps or order.steps if validation else None, keep_checkpoints, key)
            ],
        )
        self.remove_callback(PrinterCallback)
        if self.is_world_process_zero():
            self.add_callback(ProgressCallback(order))
        # The loss is a sum over supervised tokens divided by their number in the whole step.
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            name = SchedulerType(self.args.lr_scheduler_type).value
            chosen: Any = optimizer or self.optimizer
            self.lr_scheduler = make_schedule(name, chosen, int(self.args.warmup_steps), num_training_steps)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def save_finished(self, folder: Path, dtype: torch.dtype | None) -> None:
        """Write the weights that have learnt, whole, with the tokenizer; `dtype` of theirs: None as they learn."""
        if dtype is not None:
            self.accelerator.unwrap_model(self.model).to(dtype)
        self.save_model(str(folder))

    def has_moved(self, weight: torch.Tensor) -> bool:
        """True if a weight that began at 0 is there no longer."""
        return bool(weight.any())

    def _loader(self, store: TokenStore, steps: Sequence[Sequence[np.ndarray]]) -> DataLoader[Any]:
        batches: Any = StepBatches(store, steps, self._collate)
        return DataLoader(
            batches,
            batch_sampler=[[step] for step in range(len(steps))],
            collate_fn=_only_one,
            pin_memory=self.args.device.type == "cuda",
            # A generator of its own: iterating must not draw from the one that decides dropout.
            generator=torch.Generator(),
        )

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The micro-batches of this process, a list of them for each step."""
        return self._loader(self._train, OrderOfProcess(self.order, self.args.process_index))

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """The micro-batches of the next step, and the supervised tokens of all processes in it."""
        samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        (self._step_batches,) = samples
        return samples, int(self._supervised[self.order.rows(self.state.global_step)].sum())

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward passes of a step's micro-batches; gradients are reduced in the last.

        Sharded gradients are reduced each time: unreduced, they would be as large as the model.
        """
        batches = [move(batch, self.args.device) for batch in inputs]
        losses = []
        for number, batch in enumerate(batches, 1):
            is_reduced = number == len(batches) or self.is_fsdp_enabled
            with nullcontext() if is_reduced else self.accelerator.no_sync(model):
                losses.append(super().training_step(model, batch, num_items_in_batch))
        return torch.stack(losses).sum()

    def floating_point_ops(self, inputs: Any) -> int:
        """Of all micro-batches of a step."""
        return sum(int(super(SupervisedTrainer, self).floating_point_ops(batch)) for batch in inputs)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Loss of one micro-batch: its part of the mean over all supervised tokens of the step, on all processes.

        Scaled by the number of processes, over which gradients are averaged.
        """
        return self._head.loss(model, inputs) * self.args.world_size / num_items_in_batch

    def rehearse(self, rows: np.ndarray) -> None:
        """Take a micro-batch of training rows forward and backward; its gradients are added to those that are there."""
        model: Any = self.model_wrapped
        model.train()
        batch = move(self._collate([self._train[row] for row in rows]), self.args.device)
        # Processes of DDP have nothing to tell each other; sharded gradients would be whole until they are reduced.
        with nullcontext() if self.is_fsdp_enabled else self.accelerator.no_sync(model):
            self.accelerator.backward(self.compute_loss(model, batch, num_items_in_batch=1))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Record the metrics of a step, after making sure that the run may go on."""
        for name in ("loss", "grad_norm"):
            if not math.isfinite(logs.get(name, 0.0)):
                raise UserError(self._keep_batch(name, logs[name]))
        super().log(logs, start_time)
        if self.is_world_process_zero():
            self._watch(logs, self.state.global_step)

    def _keep_batch(self, name: str, value: float) -> str:
        step = self.state.global_step
        file = Path(str(self.args.output_dir)).parent / f"not-finite-{step}-{self.args.process_index}.pt"
        torch.save(self._step_batches, file)
        return (
            f"step {step}: {name} is {value}. Training has stopped; the last checkpoint is from before, and the"
            f" step's batch is kept in {file}. A lower learning_rate or max_grad_norm may help"
        )

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Loss per supervised token on the validation rows, of all and of each submixture.

        Leaves the state of the random numbers, and so the training that follows, as it was.
        """
        model: Any = self.model
        was_training = model.training
        model.eval()
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            sums = {name: self._sum_of_losses(model, store) for name, store in self._validation.items()}
        model.train(was_training)
        total = np.sum(list(sums.values()), axis=0)
        metrics = {f"eval_loss/{name}": float(loss / count) for name, (loss, count) in sums.items()}
        metrics = {"eval_loss": float(total[0] / total[1]), **(metrics if len(sums) > 1 else {})}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _sum_of_losses(self, model: Any, store: TokenStore) -> np.ndarray:
        """Loss summed over supervised tokens, and their number; float64 (2,)."""
        rounds = self.order.batching.cut(store.lengths, self.args.world_size)
        steps = [[parts[self.args.process_index]] for parts in rounds]
        loss = torch.zeros((), dtype=torch.float64, device=self.args.device)
        for (batch,) in self._loader(store, steps):
            loss += self._head.loss(model, move(batch, self.args.device)).double()
        loss = self.accelerator.reduce(loss, reduction="sum")
        return np.array([float(loss), store.supervised.sum()])


def _only_one(batches: list[list[Batch]]) -> list[Batch]:
    (batch,) = batches
    return batch
