"""What happens beside the steps: evaluations, sealing of checkpoints, progress, and stopping on a signal."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from smart.config import UserError
from smart.runtime.memory import peak_memory
from smart.runtime.progress import progress
from smart.training import checkpoints
from smart.training.order import Order

log = logging.getLogger(__name__)


class CheckpointCallback(TrainerCallback):
    """When to evaluate: at the start, every so many steps, at the end; and what makes a checkpoint whole."""

    def __init__(self, eval_steps: int | None, keep: int, key: str) -> None:
        self._eval_steps = eval_steps
        self._keep = keep
        self._key = key

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        if self._eval_steps is not None:
            last = state.global_step == state.max_steps
            control.should_evaluate = last or state.global_step % self._eval_steps == 0

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        from accelerate import PartialState

        PartialState().wait_for_everyone()  # each process has written a file of its own
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir))
            checkpoints.seal(folder / f"checkpoint-{state.global_step}", self._key)
            checkpoints.prune(folder, self._keep)


class PrecisionCallback(TrainerCallback):
    """Stops after the first step unless rotary frequencies are float32: bfloat16 moves late positions by radians."""

    _seen = False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **of_run: Any
    ) -> None:
        if self._seen:
            return
        self._seen = True
        for name, buffer in of_run["model"].named_buffers():
            if name.endswith("inv_freq") and buffer.dtype != torch.float32:
                raise UserError(
                    f"{name} is {str(buffer.dtype).rpartition('.')[2]} after the first step, where positions need"
                    " float32: what has been learnt is of no use",
                    "another version of transformers or accelerate may leave it as it is",
                )


class ProgressCallback(TrainerCallback):
    """Tokens per second, remaining time, loss and peak memory, of all processes, on the main one."""

    def __init__(self, order: Order) -> None:
        self._order = order

    def _tokens(self, first: int, last: int) -> int:
        size = self._order.batch_size
        return int(self._order.lengths[self._order.stream[first * size : last * size]].sum())

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        total, done = self._tokens(0, state.max_steps), self._tokens(0, state.global_step)
        self._bar = progress(total=total, initial=done, desc="Training", unit=" tokens")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> None:
        if logs and "loss" in logs:
            self._bar.set_postfix(
                step=f"{state.global_step}/{state.max_steps}",
                loss=f"{logs['loss']:.3f}",
                peak=f"{peak_memory() / 1e9:.2f} GB",
                refresh=False,
            )
            self._bar.update(self._tokens(state.global_step - 1, state.global_step))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        self._bar.close()


class PreemptionCallback(TrainerCallback):
    """Saves and stops after the step in which SIGTERM or SIGUSR1 reached any of the processes."""

    def __init__(self) -> None:
        self.caught = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Take the signals inside, and give them back after."""

        def catch(number: int, _: object) -> None:
            self.caught = True
            log.warning("%s: saving after this step, then stopping.", signal.Signals(number).name)

        before = {number: signal.signal(number, catch) for number in (signal.SIGTERM, signal.SIGUSR1)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        if args.world_size > 1:
            from accelerate.utils import reduce

            self.caught = bool(reduce(torch.tensor(float(self.caught), device=args.device), "sum") > 0)
        if self.caught and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True
