"""How much memory does a training step take on a GPU? Counted on fake tensors, on any machine.

    python -m benchmarks.memory                                      # the whole matrix, as docs/memory.md has it
    python -m benchmarks.memory --model llama2_7b --method qlora --length 512 --recompute true

The real classes run (transformers' model, peft's adapters, our loss, autocast, recomputation) on tensors that have a
shape and no memory, so a 7B model needs neither a GPU nor weights. What is counted is every byte of every tensor that
is alive, at each operation of a forward and a backward pass.

Fake tensors are on the CPU, and three operations keep other things there than on a GPU. They are replaced by what
PyTorch calls on CUDA (`as_on_cuda`): attention, which saves q, k, v, its output and the logarithm of each row's sum
(float32), in bfloat16 under autocast, and no matrix of positions by positions; dropout, whose mask is a byte an
element; and layer_norm, which autocast runs in float32. A 4-bit layer is bitsandbytes' own function over the tensors
of its quantised state (`FourBit`), since its parameter class cannot be made of fake tensors.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import itertools
import json
import warnings
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import bitsandbytes
import torch
from accelerate.utils import convert_outputs_to_fp32
from bitsandbytes.functional import QuantState
from peft.helpers import disable_input_dtype_casting
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, FalconConfig, LlamaConfig, MistralConfig, PretrainedConfig

from smart.model import ModelOptions, TuningOptions, attention
from smart.model.adapters import add_adapters
from smart.model.base import Base, quieten
from smart.model.load import ordinary_falcon
from smart.training.loss import SupervisedHead
from smart.training.memory import MicroBatch, Shape, activation_bytes, step_memory

MODELS: dict[str, PretrainedConfig] = {
    "llama2_7b": LlamaConfig(),  # transformers' default is the 7B model
    "falcon_7b": FalconConfig(num_attention_heads=71, alibi=False),
    "mistral_7b": MistralConfig(),
}
"""The architectures of the hub's meta-llama/Llama-2-7b-hf, tiiuae/falcon-7b and mistralai/Mistral-7B-v0.1."""
METHODS = ("qlora", "lora", "full")
LENGTHS = (512, 2048, 4096)
ROWS = 4
SUPERVISED = 0.25
"""Share of the tokens."""
FEW = (6, 8)
"""Layers that are counted; the others are added in proportion (tests/training/test_memory.py: it is exact)."""


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive, by their storages."""

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.add(tensor)
        return result

    def add(self, tensor: torch.Tensor) -> None:
        """Count a tensor until it is freed."""
        storage = tensor.untyped_storage()
        number, size = id(storage), storage.nbytes()
        if number in self._known:
            return

        def free(_: object) -> None:
            self.live -= size
            del self._known[number]

        self._known[number] = weakref.ref(storage, free)
        self.live += size
        self.peak = max(self.peak, self.live)


class FourBit(bitsandbytes.nn.Linear4bit):
    """A 4-bit layer with double quantisation: blocks of 64 weights, and of 256 scales."""

    def __init__(self, inputs: int, outputs: int) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = inputs, outputs
        blocks = -(-inputs * outputs // 64)
        weight: Any = nn.Parameter(
            torch.empty(inputs * outputs // 2, 1, dtype=torch.uint8), requires_grad=False
        )
        weight.compress_statistics, weight.quant_type = True, "nf4"
        scales = QuantState(
            torch.empty(-(-blocks // 256)), code=torch.empty(256), blocksize=256, dtype=torch.float32
        )
        self.weight, self.bias, self.compute_dtype = weight, None, torch.bfloat16
        self.quant_state = QuantState(
            torch.empty(blocks, dtype=torch.uint8),
            torch.Size((outputs, inputs)),
            torch.empty(16),
            64,
            "nf4",
            torch.bfloat16,
            torch.empty(()),
            scales,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As Linear4bit's, which casts to the type of computation and back."""
        product = bitsandbytes.matmul_4bit(
            x.to(self.compute_dtype), self.weight, quant_state=self.quant_state
        )
        return product.to(x.dtype)


def build(config: PretrainedConfig, tuning: TuningOptions) -> Any:
    """The model as a training loads it, on the meta device."""
    base = Base(ModelOptions("counted"), config, "counted")
    dtype = torch.float32 if tuning.method == "full" else getattr(torch, tuning.dtype)
    with torch.device("meta"), ordinary_falcon():
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
        attention.tell_falcon_its_rows(model)
        attention.prepare_attention(model, packing=False)
        if tuning.method == "qlora":
            for name in base.linear_layers:
                parent, _, own = name.rpartition(".")
                layer = model.get_submodule(name)
                setattr(model.get_submodule(parent), own, FourBit(layer.in_features, layer.out_features))
            model.is_loaded_in_4bit = True
        return model if tuning.method == "full" else add_adapters(base, model, tuning, seed=0)


def _states(model: nn.Module) -> Iterator[QuantState]:
    for part in model.modules():
        if isinstance(part, FourBit):
            yield from (part.quant_state, part.quant_state.state2)


def _materialise(model: nn.Module) -> None:
    """Give a model on the meta device fake tensors on the CPU."""

    tied: dict[torch.Tensor, nn.Parameter] = {}

    def empty(tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")

    for part in model.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                fresh = nn.Parameter(empty(weight), weight.requires_grad)
                part._parameters[name] = tied.setdefault(weight, fresh)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = empty(buffer)
    for state in _states(model):
        for name, tensor in vars(state).items():
            if isinstance(tensor, torch.Tensor):
                setattr(state, name, empty(tensor))


def _resident(model: nn.Module) -> Iterator[torch.Tensor]:
    """Tensors that are there all the time: weights and their quantised state, gradients, two moments of each."""
    yield from model.buffers()
    for state in _states(model):
        yield from (tensor for tensor in vars(state).values() if isinstance(tensor, torch.Tensor))
    for weight in model.parameters():
        yield weight
        if weight.requires_grad:
            weight.grad = torch.zeros_like(weight)
            yield weight.grad


def _dropout(x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    return torch.native_dropout(x, p, True)[0] if training and p else x


def _layer_norm(x: torch.Tensor, shape: Any, weight: Any, bias: Any, eps: float) -> torch.Tensor:
    if torch.is_autocast_enabled("cpu"):
        x, weight, bias = (None if part is None else part.float() for part in (x, weight, bias))
    return torch.layer_norm(x, shape, weight, bias, eps)


def _attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_mask: Any = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> torch.Tensor:  # fmt: skip
    assert attn_mask is None, "a mask keeps flash attention away"
    if torch.is_autocast_enabled("cpu"):
        q, k, v = (part.to(torch.bfloat16) for part in (q, k, v))
    flash = torch.ops.aten._scaled_dot_product_flash_attention
    result: torch.Tensor = flash(q, k, v, dropout_p, is_causal, False, scale=scale)[0]
    return result


@contextlib.contextmanager
def as_on_cuda() -> Iterator[None]:
    """Operations as they are on a GPU, where they save other tensors than on a CPU."""
    ours = {"dropout": _dropout, "layer_norm": _layer_norm, "scaled_dot_product_attention": _attention}
    with contextlib.ExitStack() as stack:
        for name, function in ours.items():
            stack.enter_context(mock.patch(f"torch.nn.functional.{name}", function))
        stack.enter_context(mock.patch.object(attention, "scaled_dot_product_attention", _attention))
        yield


@dataclass(frozen=True)
class Count:
    """Bytes."""

    resident: int
    """Weights, adapters, gradients."""
    forward: int
    """Peak of the forward pass and the loss."""
    backward: int

    @property
    def peak(self) -> int:
        return max(self.forward, self.backward)


def count(config: PretrainedConfig, tuning: TuningOptions, batch: MicroBatch) -> Count:
    """Count a micro-batch on all layers of a configuration."""
    quieten()
    model = build(config, tuning)
    with FakeTensorMode(), as_on_cuda():
        _materialise(model)
        model.train()
        if tuning.checkpoint_activations:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        head, counter, autocast = SupervisedHead(model), LiveBytes(), tuning.dtype == "bfloat16"
        for tensor in _resident(model):
            counter.add(tensor)
        resident = counter.live
        if autocast:  # as accelerate does
            model.forward = convert_outputs_to_fp32(torch.autocast("cpu", torch.bfloat16)(model.forward))
        with counter, disable_input_dtype_casting(model, active=autocast):
            loss = head.loss(model, _inputs(model, batch))
            forward, counter.peak = counter.peak, counter.live
            loss.backward()
    return Count(resident, forward, counter.peak)


def _inputs(model: Any, batch: MicroBatch) -> dict[str, torch.Tensor]:
    """As the Collator makes them."""
    ids = torch.zeros(batch.rows, batch.length, dtype=torch.long)
    supervised = torch.zeros(batch.supervised, dtype=torch.long)
    ones = {"attention_mask": torch.ones_like(ids)} if attention.needs_ones(model) else {}
    return {"input_ids": ids, "predicting": supervised, "targets": supervised, **ones}


def extrapolated(config: PretrainedConfig, tuning: TuningOptions, batch: MicroBatch) -> Count:
    """As `count`, from a few layers: each further layer adds as much as the last of them."""
    few, more = (count(with_layers(config, layers), tuning, batch) for layers in FEW)
    further = config.num_hidden_layers - FEW[0]

    def whole(name: str) -> int:
        first, second = getattr(few, name), getattr(more, name)
        return int(first + further * (second - first) / (FEW[1] - FEW[0]))

    return Count(*map(whole, ("resident", "forward", "backward")))


def with_layers(config: PretrainedConfig, layers: int) -> PretrainedConfig:
    changed = copy.deepcopy(config)
    changed.num_hidden_layers = layers
    return changed


def planned(config: PretrainedConfig, tuning: TuningOptions, batch: MicroBatch) -> int:
    """What the plan says of the same tensors: the moments, and an update, are not among those that are counted."""
    shape = Shape.of(Base(ModelOptions("counted"), config, "counted"))
    memory = step_memory(shape, tuning, batch)
    return int(memory.fixed - memory.optimizer + activation_bytes(shape, tuning, batch))


def cells(options: argparse.Namespace) -> Iterator[tuple[str, TuningOptions, MicroBatch]]:
    for model, method, recompute, length in itertools.product(
        options.model, options.method, options.recompute, options.length
    ):
        tuning = TuningOptions(method=method, checkpoint_activations=recompute)
        yield model, tuning, MicroBatch(options.rows, length, int(SUPERVISED * options.rows * length))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", choices=MODELS, nargs="+", default=list(MODELS))
    parser.add_argument("--method", choices=METHODS, nargs="+", default=METHODS)
    parser.add_argument("--recompute", type=json.loads, nargs="+", default=[True, False])
    parser.add_argument("--length", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--rows", type=int, default=ROWS)
    print("| model | method | recomputed | rows × tokens | resident | counted | planned | plan ÷ count |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for model, tuning, batch in cells(parser.parse_args()):
        config = MODELS[model]
        counted = extrapolated(config, tuning, batch)
        plan = planned(config, tuning, batch)
        recompute = "yes" if tuning.checkpoint_activations else "no"
        sizes = " | ".join(f"{number / 1e9:.1f}" for number in (counted.resident, counted.peak, plan))
        print(
            f"| {model} | {tuning.method} | {recompute} | {batch.rows} × {batch.length:,} | {sizes} |"
            f" {plan / counted.peak:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    with warnings.catch_warnings(action="ignore"):
        main()
