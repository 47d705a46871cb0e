"""Attention of training: rows padded on the right or packed end to end, without masks where none is needed.

A causal model's tokens never see the padding behind them, so a padded batch needs no mask, and only without one do
fused kernels run that know `is_causal`. Packed rows are kept apart by where they start (variable-length attention); a
mask of all tokens by all tokens would be the largest tensor of a step.
"""

from __future__ import annotations

import importlib.util
import itertools
import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.models.falcon import modeling_falcon

from smart.config import UserError

PADDED, PACKED = "smart_padded", "smart_packed"
"""Names under which transformers knows the two."""
LARGEST_HEAD = 256
"""Width of a head that fused kernels take."""
_DROPOUTS = ("attention_dropout", "attn_pdrop", "attn_dropout")
"""What configurations call the dropout of attention."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackedRows:
    """Where the rows of a packed micro-batch lie."""

    starts: torch.Tensor
    """int32 (rows + 1,): row i is tokens starts[i]:starts[i + 1]"""
    longest: int

    @classmethod
    def of(cls, arguments: dict[str, Any]) -> PackedRows | None:
        """What a model was called with, under transformers' names; None: no packed rows."""
        starts = arguments.get("cu_seq_lens_q")
        return None if starts is None else cls(starts, int(arguments["max_length_q"]))


def varlen_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    rows: PackedRows,
    scale: float | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """Causal attention inside each row of a packed sequence.

    Args:
        query: (1, heads, tokens, width); key and value may have fewer heads, each for a group of query's.
        scale: of the scores; None: 1 / sqrt(width).
        window: how many tokens a token sees, itself among them; None: all before it.

    Returns:
        (1, heads, tokens, width)
    """
    query, key, value = _same_dtype(query, key, value)
    grouped = query.shape[1] != key.shape[1]
    if query.device.type == "cuda":
        from torch.nn.attention.varlen import varlen_attn

        q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))
        left = -1 if window is None or window > rows.longest else window - 1
        out = varlen_attn(
            q, k, v, rows.starts, rows.starts, rows.longest, rows.longest,
            scale=scale, window_size=(left, 0), enable_gqa=grouped,
        )  # fmt: skip
        assert isinstance(out, torch.Tensor)
        return out.transpose(0, 1)[None]
    parts = []
    for first, last in itertools.pairwise(rows.starts.tolist()):
        q, k, v = (part[:, :, first:last] for part in (query, key, value))
        mask = None if window is None or window >= last - first else _window_mask(last - first, window)
        parts.append(
            scaled_dot_product_attention(
                q, k, v, mask, is_causal=mask is None, scale=scale, enable_gqa=grouped
            )
        )
    return torch.cat(parts, dim=2)


def _window_mask(tokens: int, window: int) -> torch.Tensor:
    """bool (tokens, tokens): True where a token sees another."""
    ones = torch.ones(tokens, tokens, dtype=torch.bool)
    return ones.tril() & ones.triu(1 - window)


def _same_dtype(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """As autocast does it for attention: positions may have made query and key float32."""
    dtype = (
        torch.get_autocast_dtype(tensors[0].device.type) if _is_autocast(tensors[0]) else tensors[-1].dtype
    )
    return tuple(tensor.to(dtype) for tensor in tensors)


def _is_autocast(tensor: torch.Tensor) -> bool:
    return tensor.device.type in ("cpu", "cuda") and torch.is_autocast_enabled(tensor.device.type)


def _padded(module: nn.Module, query: Any, key: Any, value: Any, attention_mask: Any, **options: Any) -> Any:
    _warn_unless_fused(query, key, value)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)


def _packed(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    rows = PackedRows.of(options)
    extra = sorted(name for name in ("softcap", "s_aux", "position_bias") if options.get(name) is not None)
    if rows is None or attention_mask is not None or dropout or extra:
        why = ", ".join(extra) or "a mask or dropout of its own"
        raise UserError(
            f"packing=true: {type(module).__name__} needs {why}, unknown to packed attention; set packing=false"
        )
    return varlen_attention(query, key, value, rows, scaling, sliding_window).transpose(
        1, 2
    ).contiguous(), None


def _mask_of_padded(*, attention_mask: torch.Tensor | None = None, **options: Any) -> torch.Tensor | None:
    if options.get("local_size") == options["kv_length"]:
        options["local_size"] = None  # all of a row is inside, and transformers would make a mask
    return sdpa_mask(attention_mask=None, **options)  # a window or chunks may still need one


def _mask_of_packed(*, allow_is_causal_skip: bool = True, **_: Any) -> None:
    if not allow_is_causal_skip:
        raise UserError("packing=true: the model has masks beside causal ones and windows; set packing=false")


def fused_obstacle(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None = None,
    grouped: bool = False,
) -> str | None:
    """Why no fused kernel takes this attention, so that all scores are written to memory; None: one does.

    What torch's flash and memory-efficient kernels ask for alike (sdp_utils in its sources), read from shapes, so that
    a CPU can check it.

    Args:
        grouped: enable_gqa, with which keys may have fewer heads, where there is no mask.
    """
    q, k, v = query, key, value
    if q.shape[1] != k.shape[1] and not (grouped and mask is None and q.shape[1] % k.shape[1] == 0):
        return f"{q.shape[1]} heads of queries and {k.shape[1]} of keys"
    if q.shape[-1] != v.shape[-1] or q.shape[-1] > LARGEST_HEAD or q.shape[-1] % 8:
        return f"heads of width {q.shape[-1]} and {v.shape[-1]}"
    if not _is_autocast(q) and len({q.dtype, k.dtype, v.dtype}) > 1:
        return f"{q.dtype}, {k.dtype} and {v.dtype} together"
    if any(tensor.stride(-1) != 1 for tensor in (q, k, v)):
        return "heads that do not lie in one piece"
    return None


_warned: set[str] = set()


def _warn_unless_fused(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
    if query.device.type != "cuda":
        return
    obstacle = fused_obstacle(query, key, value, grouped=True)
    if obstacle is not None and obstacle not in _warned:
        _warned.add(obstacle)
        log.warning(
            "No fused attention kernel takes %s: memory grows with the square of the length.", obstacle
        )


def packing_obstacle(model: PreTrainedModel, dtype: str, gpu: bool) -> str | None:
    """Why a model's packed rows can't be kept apart here; None: they can.

    Args:
        model: with or without weights.
        dtype: bfloat16 or float32, of computation.
        gpu: whether it will run on one.
    """
    config = model.config.get_text_config()
    kind = model.config._attn_implementation
    if getattr(config, "attention_chunk_size", None):
        return f"{config.model_type} attends in chunks of {config.attention_chunk_size} tokens"
    if getattr(config, "alibi", False):
        return f"{config.model_type} has ALiBi positions, which count through a whole sequence"
    if dropout := next((p for name in _DROPOUTS if (p := getattr(config, name, 0.0))), None):
        return f"{config.model_type} drops out {dropout:.0%} of its attention, for which packed rows have no kernel"
    if not _has_interface(model) and not isinstance(model, modeling_falcon.FalconForCausalLM):
        return f"transformers cannot change the attention of {config.model_type}"
    if gpu and kind == "sdpa":
        if dtype != "bfloat16":
            return "on a GPU, attention of packed rows has kernels for bfloat16 alone"
        if torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0):
            return f"{torch.cuda.get_device_name()} is older than the kernels of packed attention (Ampere)"
        if importlib.util.find_spec("torch.nn.attention.varlen") is None:
            return f"torch {torch.__version__} has no variable-length attention: use model.attention=flash_attention_2"
    return None


def _has_interface(model: PreTrainedModel) -> bool:
    return bool(getattr(type(model), "_supports_attention_backend", False))


def prepare_attention(model: PreTrainedModel, packing: bool) -> None:
    """Let a model attend without padding masks: it sees only batches that are padded on the right, or packed.

    Models that ask for another implementation than sdpa keep it.
    """
    if model.config._attn_implementation == "sdpa" and _has_interface(model):
        model.set_attn_implementation(PACKED if packing else PADDED)


def needs_ones(model: PreTrainedModel) -> bool:
    """Whether a mask of ones saves the model from looking, on the device, for packed rows; it builds none from it."""
    return model.config._attn_implementation in (PADDED, PACKED)


class _FalconRows:
    """How the batch of a Falcon model lies, which its layers are not told."""

    def __init__(self) -> None:
        self.causal = False
        self.packed: PackedRows | None = None

    def note(self, module: nn.Module, arguments: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """A forward pre-hook of the model."""
        self.causal = options.get("attention_mask") is None and options.get("past_key_values") is None
        self.packed = PackedRows.of(options)
        names = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")
        return arguments, {name: value for name, value in options.items() if name not in names}


class FusedFalconAttention(modeling_falcon.FalconAttention):
    """Falcon's attention with its one head of keys and values expanded to all of queries', as fused kernels need it,
    and without the mask that Falcon always builds where none is needed."""

    rows: _FalconRows | None = None

    def forward(self, hidden_states: Any, alibi: Any, attention_mask: Any, *args: Any, **options: Any) -> Any:
        if alibi is not None or options.get("output_attentions"):
            return super().forward(hidden_states, alibi, attention_mask, *args, **options)
        heads = self.num_heads
        query, key, value = (
            part.transpose(1, 2) for part in self._split_heads(self.query_key_value(hidden_states))
        )
        query, key = modeling_falcon.apply_rotary_pos_emb(query, key, *options["position_embeddings"])
        if options.get("layer_past") is not None:
            key, value = options["layer_past"].update(key, value, self.layer_idx)
        rows = self.rows
        if rows is not None and rows.packed is not None:
            mixed = varlen_attention(query, key, value, rows.packed)
        else:
            key, value = (part.expand(-1, heads, -1, -1) for part in (key, value))
            mask = None if rows is not None and rows.causal else attention_mask
            _warn_unless_fused(query, key, value)
            causal = mask is None and query.shape[2] > 1
            mixed = scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
        return self.dense(mixed.transpose(1, 2).flatten(2)), None


class LayerNorm(nn.LayerNorm):
    """Answers in the type it was given: under autocast torch's own answers in float32, and so does all that follows."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return super().forward(hidden).to(hidden.dtype)


def tell_falcon_its_rows(model: PreTrainedModel) -> None:
    """Let the layers of a Falcon model know whether its batch has masks, or packed rows."""
    layers = [module for module in model.modules() if isinstance(module, FusedFalconAttention)]
    if layers:
        rows = _FalconRows()
        for layer in layers:
            layer.rows = rows
        model.register_forward_pre_hook(rows.note, with_kwargs=True)


for _name, _attention, _mask in ((PADDED, _padded, _mask_of_padded), (PACKED, _packed, _mask_of_packed)):
    AttentionInterface.register(_name, _attention)
    AttentionMaskInterface.register(_name, _mask)
