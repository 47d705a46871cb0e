"""The memory of a training step on one GPU: arithmetic on shapes.

The formulas name what PyTorch keeps for the backward pass of today's decoders, in bytes per token and layer, with the
width D of the residual stream, Q of all queries, K of all keys, F of the MLP, rank r, and e bytes a number (2 under
autocast to bfloat16, else 4):

    norms       4 w for an input of width w, in float32; RMSNorm whose weight learns: 4 w more for what it multiplies
    attention   e (2 Q + 2 K) + 4 heads: q, k, v, output and, in float32, the logarithm of each row's sum, as CUDA's
                fused kernels save them; no matrix of positions by positions
    MLP         e F for the input of the activation; gated: 3 e F, with its output and the other factor
    LoRA        of each adapted layer with inputs i: a dropout mask of a byte and the dropped copy, (1 + e) i, and e r
    full        of each layer with inputs i: its copy in bfloat16, e i, but for those that are counted above
    copies      under autocast also the weights that learn are cast: e bytes a weight, once for all tokens

With recomputation only the inputs of layers are kept, and one layer at a time in full. The head adds 12 bytes for each
supervised position and each token of the vocabulary: the log-probabilities and two gradients, in float32.

Under autocast, torch's own LayerNorm answers in float32, and 4-bit layers in the type of their input, so in QLoRA what
follows it is float32 (Falcon's answers in bfloat16 here). `benchmarks/memory.py` counts the same on fake tensors,
operation by operation; docs/memory.md has both. Neither was measured on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

from smart.model import TuningOptions
from smart.model.adapters import target_layers
from smart.model.base import Base
from smart.model.load import ordinary_falcon

NF4_BYTES = 0.5 + (1 + 4 / 256) / 64
"""Per weight: 4 bits, an 8-bit scale for 64 weights, and a float32 scale for 256 of those (arXiv 2305.14314)."""
STATE_BYTES = {
    "adafactor": 0,  # a row and a column for a matrix
    "adagrad": 4,
    "ademamix": 12,
    "ademamix_8bit": 3,
    "adamw_8bit": 2,
    "adamw_bnb_8bit": 2,
    "lion_32bit": 4,
    "lion_8bit": 1,
    "rmsprop": 4,
    "rmsprop_bnb": 4,
    "rmsprop_bnb_32bit": 4,
    "rmsprop_bnb_8bit": 1,
    "sgd": 0,
}
"""Of an optimiser per parameter that learns, where it is not the 8 of AdamW's two moments. Paged ones are counted as if
theirs stayed on the GPU."""
UPDATE_BYTES = {"adamw_torch": 4, "adagrad": 4, "rmsprop": 4}
"""That an update takes for a moment, per parameter that learns: the root of the second moment, of all at once."""
CONTEXT = 6e8
"""Bytes of CUDA's context, the kernels of its libraries and cuBLAS's workspace. An allowance: not measured."""
NCCL = 1e9
"""Bytes of the buffers in which several GPUs exchange tensors. An allowance: not measured."""
RESERVE = 0.05
"""Share of the tensors' bytes that PyTorch's allocator holds beside them, in pieces that don't fit what comes next. An
allowance: not measured."""


@dataclass(frozen=True)
class MicroBatch:
    """What one process takes through the model at once."""

    rows: int
    length: int
    """Tokens of the longest row, to which the others are padded; packed: of all rows, as if they were one."""
    supervised: int
    """Positions that the loss is on."""

    @property
    def tokens(self) -> int:
        """Tokens computed, padding among them."""
        return self.rows * self.length


@dataclass(frozen=True)
class Shape:
    """What of a decoder's architecture decides its memory. Widths are numbers of units."""

    layers: int
    hidden: int
    heads: int
    queries: int
    """Width of all queries together."""
    keys: int
    """Width of all keys together, and of all values."""
    mlp: int
    gated: bool
    """The MLP multiplies the outputs of two layers (SwiGLU, GeGLU)."""
    norms: float
    """Inputs of one layer's norms, summed."""
    layer_norm: bool
    """LayerNorm instead of RMSNorm."""
    widened: bool
    """Norms answer in float32 under autocast, as torch's LayerNorm does."""
    vocabulary: int
    parameters: int
    linear: tuple[tuple[int, int], ...]
    """(inputs, outputs) of every linear layer but the head."""
    adapted: tuple[tuple[int, int], ...]
    """Those that LoRA adapts."""

    @classmethod
    def of(cls, base: Base, *, adapted: bool = True) -> Shape:
        """Of a model without its weights; `adapted=False` for full tuning, which needs no targets."""
        from torch import nn

        with ordinary_falcon():
            model, text, linear = base.skeleton(), base.config.get_text_config(), base.linear_layers
        heads, layers = getattr(text, "num_attention_heads", 1), text.num_hidden_layers
        size = getattr(text, "head_dim", None) or text.hidden_size // heads
        one = 1 if getattr(text, "multi_query", False) else heads
        keys = size * (getattr(text, "num_key_value_heads", None) or one)
        mlp = getattr(text, "intermediate_size", None) or getattr(
            text, "ffn_hidden_size", 4 * text.hidden_size
        )
        widths = {"q_norm": heads * size, "k_norm": keys}
        norms = {name: part for name, part in model.get_decoder().named_modules() if name.endswith(_NORMS)}
        in_layers = [name.rpartition(".")[2] for name in norms if name.count(".") > 1]
        return cls(
            layers=layers,
            hidden=text.hidden_size,
            heads=heads,
            queries=heads * size,
            keys=keys,
            mlp=mlp,
            gated=sum(outputs == mlp for _, outputs in linear.values()) > layers,
            norms=sum(widths.get(own, text.hidden_size) for own in in_layers) / layers,
            layer_norm=any(isinstance(part, nn.LayerNorm) for part in norms.values()),
            widened=any(type(part) is nn.LayerNorm for part in norms.values()),
            vocabulary=text.vocab_size,
            parameters=sum(weight.numel() for weight in model.parameters()),
            linear=tuple(linear.values()),
            adapted=tuple(linear[name] for name in target_layers(base)) if adapted else (),
        )

    @property
    def matrices(self) -> int:
        """Weights of all linear layers but the head."""
        return sum(inputs * outputs for inputs, outputs in self.linear)

    def learning(self, tuning: TuningOptions) -> int:
        """Parameters that learn."""
        if tuning.method == "full":
            return self.parameters
        return tuning.lora_r * sum(inputs + outputs for inputs, outputs in self.adapted)


_NORMS = ("norm", "layernorm", "ln_attn", "ln_mlp")


@dataclass(frozen=True)
class Memory:
    """Bytes on each GPU, by what they are for."""

    weights: float
    """The base model as loaded."""
    adapters: float
    gradients: float
    """Of what learns; with DDP, and the buckets in which they are exchanged."""
    optimizer: float
    gathered: float
    """FSDP: the layers that are whole for the moment, and a layer's gradients."""
    activations: float
    """What a micro-batch keeps for its backward pass, and takes during it; or what an update takes, if more."""
    context: float
    """CUDA's context, and NCCL."""

    @property
    def tensors(self) -> float:
        """Bytes in tensors: what `torch.cuda.max_memory_allocated` would say."""
        return self.fixed + self.activations

    @property
    def fixed(self) -> float:
        """Bytes in tensors that no micro-batch changes."""
        return self.weights + self.adapters + self.gradients + self.optimizer + self.gathered

    @property
    def reserve(self) -> float:
        """What the allocator holds beside the tensors."""
        return RESERVE * self.tensors

    @property
    def total(self) -> float:
        """Bytes of the GPU."""
        return self.tensors + self.reserve + self.context

    def activations_within(self, total: float) -> float:
        """Bytes of activations with which so many bytes of the GPU are full."""
        return (total - self.context) / (1 + RESERVE) - self.fixed


def step_memory(
    shape: Shape, tuning: TuningOptions, batch: MicroBatch, *, processes: int = 1, sharded: bool = False
) -> Memory:
    """The memory of an optimiser step on each GPU, in a step after the first, when the moments are there.

    Args:
        tuning: with checkpoint_activations true or false.
        batch: the largest micro-batch.
        processes: one for each GPU.
        sharded: FSDP: each holds a part of all weights, gradients and moments.
    """
    full, number = tuning.method == "full", _bytes_of(tuning)
    learning = shape.learning(tuning)
    parts = processes if sharded else 1
    state = STATE_BYTES.get(tuning.optimizer.removeprefix("paged_"), 8)
    buckets = 2 if processes > 1 and not sharded else 1
    activations = activation_bytes(shape, tuning, batch, sharded=sharded)
    return Memory(
        weights=weight_bytes(shape, tuning) / parts,
        adapters=0 if full else 4 * learning / parts,
        gradients=4 * learning * buckets / parts,
        optimizer=state * learning / parts,
        gathered=_gathered(shape, tuning, number) if sharded else 0,
        activations=max(activations, UPDATE_BYTES.get(tuning.optimizer, 0) * learning / parts),
        context=CONTEXT + (NCCL if processes > 1 else 0),
    )


def weight_bytes(shape: Shape, tuning: TuningOptions) -> float:
    """Bytes of the base model: float32 where all of it learns; in 4 bits all linear layers but the head."""
    if tuning.method == "full":
        return 4 * shape.parameters
    quantised = shape.matrices if tuning.method == "qlora" else 0
    return quantised * NF4_BYTES + (shape.parameters - quantised) * _bytes_of(tuning)


def activation_bytes(
    shape: Shape, tuning: TuningOptions, batch: MicroBatch, *, sharded: bool = False
) -> float:
    """Bytes that a forward and a backward pass take at most, beside weights and gradients."""
    full, number, tokens = tuning.method == "full", _bytes_of(tuning), batch.tokens
    residual = _residual_bytes(shape, tuning)
    head = 12 * batch.supervised * shape.vocabulary
    of_head = number * shape.vocabulary * shape.hidden if full and number < 4 and not sharded else 0
    layer = tokens * saved_per_token(shape, tuning)
    copies = 0 if full and sharded else copied_weights(shape, tuning)
    # In the widest moment of a layer: the MLP's product and some seven tensors of the residual stream's width.
    widths = shape.mlp + 7 * shape.hidden
    moment = tokens * _bytes_after_norm(shape, tuning) * widths + _largest_matrix(shape, tuning)
    if not tuning.checkpoint_activations:
        return shape.layers * (layer + copies) + of_head + max(head, moment)
    inputs = shape.layers * tokens * residual * shape.hidden
    # Autocast keeps its copies of all weights until the forward pass has ended, with bfloat16 and float32 logits.
    forward = shape.layers * copies + of_head + head / 2 + tokens * (residual + 4 + number) * shape.hidden
    return inputs + max(forward, head, layer + copies + moment)


def saved_per_token(shape: Shape, tuning: TuningOptions) -> float:
    """Bytes that one layer keeps of each token for the backward pass, as the head of this file says."""
    full, number = tuning.method == "full", _bytes_of(tuning)
    norms = 4 * shape.norms * (2 if full and not shape.layer_norm else 1)
    attention = number * 2 * (shape.queries + shape.keys) + 4 * shape.heads
    mlp = _bytes_after_norm(shape, tuning) * shape.mlp * (3 if shape.gated else 1)
    inputs = sum(inputs for inputs, _ in (shape.linear if full else shape.adapted)) / shape.layers
    shared = min(
        inputs, 2 * shape.hidden + shape.mlp
    )  # where layers keep the same input, or attention's output
    if full:
        return norms + attention + mlp + number * (inputs - shape.queries if number < 4 else shared)
    lora = (1 + number) * inputs if tuning.lora_dropout else number * shared
    return norms + attention + mlp + lora + number * tuning.lora_r * len(shape.adapted) / shape.layers


def copied_weights(shape: Shape, tuning: TuningOptions) -> float:
    """Bytes of the copies that autocast makes of one layer's weights that learn."""
    if tuning.dtype != "bfloat16":
        return 0
    if tuning.method == "full":
        return 2 * shape.matrices / shape.layers
    return 2 * tuning.lora_r * sum(a + b for a, b in shape.adapted) / shape.layers


def _bytes_of(tuning: TuningOptions) -> int:
    """Of a number in computation."""
    return 2 if tuning.dtype == "bfloat16" else 4


def _bytes_after_norm(shape: Shape, tuning: TuningOptions) -> int:
    """Of a number between the layers of an MLP."""
    return 4 if shape.widened and tuning.method == "qlora" else _bytes_of(tuning)


def _residual_bytes(shape: Shape, tuning: TuningOptions) -> int:
    """Of a number that goes from layer to layer."""
    return 4 if tuning.method == "full" else _bytes_after_norm(shape, tuning)


def _largest_matrix(shape: Shape, tuning: TuningOptions) -> float:
    """Bytes for one matrix: dequantised from 4 bits; or its gradient, as computed and in float32."""
    largest = max((a * b for a, b in shape.linear), default=0)
    if tuning.method == "full":
        return (_bytes_of(tuning) + 4) * max(largest, shape.vocabulary * shape.hidden)
    return _bytes_of(tuning) * largest if tuning.method == "qlora" else 0


def _gathered(shape: Shape, tuning: TuningOptions, number: int) -> float:
    """FSDP: two layers, the one at work and the next, and what belongs to no layer, as they compute; and the
    gradients of a layer that learns, as computed and in float32."""
    layer, rest = shape.matrices / shape.layers, shape.parameters - shape.matrices
    per_weight = NF4_BYTES if tuning.method == "qlora" else number
    gradients = (number + 4) * max(layer, rest / 2) if tuning.method == "full" else 0
    return 2 * layer * per_weight + rest * number + gradients
