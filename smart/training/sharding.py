"""Training in which every process holds a part of each weight, gradient and moment (FSDP2).

Weights that learn are float32, whatever they compute in; what they compute with is gathered layer by layer, in
bfloat16 where tuning.dtype says so; gradients are summed over the processes in float32. Checkpoints hold whole tensors,
as those of one process do, so a run goes on under any launch and on any number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from smart.config import UserError
from smart.training.environment import FSDP, SHARDED
from smart.training.trainer import SupervisedTrainer

_OPTIMIZER, _SCHEDULER = "optimizer.pt", "scheduler.pt"  # as the Trainer names them


class ShardedTrainer(SupervisedTrainer):
    """A SupervisedTrainer over all processes of the group; takes the model whole, and shards it when it trains."""

    _saved_dtype: torch.dtype | None = None
    """Of the weights in files; None: as they learn."""

    def __init__(self, model: Any, args: Any, *rest: Any, **options: Any) -> None:
        from accelerate.utils import DistributedType

        if args.device.type == "cpu":  # where accelerate shards nothing, unless it takes the CPUs for GPUs
            args.distributed_state.distributed_type = DistributedType.MULTI_GPU
        super().__init__(model, args, *rest, **options)
        self.add_callback(_ShardingCallback())

    def create_accelerator_and_postprocess(self) -> None:
        """Let accelerate shard, by the settings of conf/accelerate/fsdp.yaml, with float32 sums of gradients."""
        from accelerate.utils import patch_environment

        with patch_environment(**FSDP, **{SHARDED: "true"}):
            super().create_accelerator_and_postprocess()
        self.accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if self.args.bf16 else None, reduce_dtype=torch.float32
        )

    def save_finished(self, folder: Path, dtype: torch.dtype | None) -> None:
        self._saved_dtype = dtype
        self.save_model(str(folder))
        if dtype is not None and self.args.should_save:
            model: Any = self.model
            model.config.dtype = dtype  # the files', where the weights in memory are float32
            model.config.save_pretrained(folder)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        weights = {name: self._whole(weight.detach(), self._saved_dtype) for name, weight in self._learning()}
        if self.args.should_save:
            self._save(output_dir, state_dict=weights)

    def has_moved(self, weight: torch.Tensor) -> bool:
        # This process's part may be empty, or still 0, where another's is not.
        return bool((weight.full_tensor() if isinstance(weight, DTensor) else weight).any())

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        optimizer, scheduler = self._stateful()
        found = optimizer.state_dict()
        state = {
            number: {name: self._whole(value) for name, value in values.items()}
            for number, values in found["state"].items()
        }
        if self.args.should_save:
            torch.save({**found, "state": state}, Path(output_dir) / _OPTIMIZER)
            torch.save(scheduler.state_dict(), Path(output_dir) / _SCHEDULER)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        with ExitStack() as files:
            stored = _stored(folder, files)
            for name, weight in self._learning():
                key = name.replace(".default.", ".")  # the adapter's own name, which peft leaves out of files
                if key not in stored:
                    raise UserError(
                        f"{folder}: lacks the weight {key}; remove this folder to go on from the one before"
                    )
                _copy(stored[key].get_tensor(key), weight)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        optimizer, scheduler = self._stateful()
        stored = _read(Path(checkpoint) / _OPTIMIZER)
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        state = {
            number: {name: _part(value, weights[number]) for name, value in values.items()}
            for number, values in stored["state"].items()
        }
        optimizer.load_state_dict({**stored, "state": state})
        scheduler.load_state_dict(_read(Path(checkpoint) / _SCHEDULER))

    def _stateful(self) -> tuple[Any, Any]:
        return self.optimizer, self.lr_scheduler

    def _learning(self) -> Iterator[tuple[str, nn.Parameter]]:
        model: Any = self.model
        return ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)

    def _whole(self, value: Any, dtype: torch.dtype | None = None) -> Any:
        """A tensor from the parts of all processes, in main memory; None on all but the main one. All have to ask."""
        if isinstance(value, torch.Tensor) and dtype is not None:
            value = value.to(dtype)
        if isinstance(value, DTensor):
            value = value.full_tensor()
        if not self.args.should_save:
            return None
        return value.cpu() if isinstance(value, torch.Tensor) else value


class _ShardingCallback(TrainerCallback):
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **of_run: Any
    ) -> None:
        check_sharded(of_run["model"])


def check_sharded(model: nn.Module) -> None:
    """Stop unless every weight is sharded, layer by layer: else each process would hold, or gather, the whole model.

    Raises:
        UserError: with the first weight, or layers, that are not.
    """
    for name, weight in model.named_parameters():
        if not isinstance(weight, DTensor):
            raise UserError(
                f"launch=fsdp: {name} was not sharded by this version of accelerate; use launch=ddp"
            )
    blocks = {type(part).__name__ for part in model.modules() if isinstance(part, FSDPModule)}
    layers = {f"FSDP{name}" for name in getattr(model, "_no_split_modules", None) or ()}
    if not blocks & layers:
        raise UserError(
            f"launch=fsdp: {type(model).__name__} does not say which of its layers are sharded one by one, so each"
            " process would gather all of it; use launch=ddp"
        )


def _stored(folder: Path, files: ExitStack) -> Mapping[str, Any]:
    """Name → open file of each tensor of a folder."""
    opened = [
        files.enter_context(safe_open(file, framework="pt")) for file in sorted(folder.glob("*.safetensors"))
    ]
    return {name: file for file in opened for name in file.keys()}  # noqa: SIM118


def _read(file: Path) -> Any:
    """What torch.save wrote, left on the disk until it is used: each process takes a part of it."""
    return torch.load(file, map_location="cpu", mmap=True, weights_only=True)


def _part(value: Any, weight: nn.Parameter) -> Any:
    """This process's part of a whole tensor of a weight's shape; anything else as it is."""
    if not (isinstance(weight, DTensor) and isinstance(value, torch.Tensor) and value.shape == weight.shape):
        return value
    value = value.to(weight.device)
    return distribute_tensor(value, weight.device_mesh, weight.placements, src_data_rank=None)


def _copy(value: torch.Tensor, weight: nn.Parameter) -> None:
    part = _part(value, weight)
    with torch.no_grad():
        weight.to_local().copy_(part.to_local()) if isinstance(weight, DTensor) else weight.copy_(part)
