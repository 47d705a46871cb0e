"""Weights into memory, in 4 bits or not, and proof that what was loaded is what was asked for."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from smart.config import UserError, counted
from smart.model.base import Base
from smart.model.pretrained import check_weights, hub_errors
from smart.runtime.content import check_unchanged
from smart.runtime.gpu import device_name, emulates_bfloat16

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

CAUSAL_TOLERANCE = 0.02
"""Of the largest logit: what rounding in bfloat16 may move, far below what an encoder's tokens see of each other."""


def load_model(
    base: Base,
    source: str,
    *,
    dtype: str,
    four_bit: bool = False,
    device: Any = "cpu",
    sharded: bool = False,
) -> PreTrainedModel:
    """Load the weights from `source`, which `weights_source` gave.

    Args:
        dtype: bfloat16 or float32; with four_bit, of computation and of what stays unquantised.
        four_bit: NF4 with double quantisation (QLoRA, arXiv 2305.14314) for every linear layer but the head.
        device: where the weights go.
        sharded: store 4-bit weights as numbers of `dtype`, as FSDP needs to shard them.

    Raises:
        UserError: if the weights cannot be read or lack any, have changed since they were found, hold a NaN, or see
        later tokens; or if other layers than expected were quantised.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from smart.model.attention import tell_falcon_its_rows

    if dtype == "bfloat16" and emulates_bfloat16(torch.device(device)):
        name = device_name(torch.device(device))
        log.warning("%s computes bfloat16 by emulation, which is slower than float32.", name)
    torch_dtype = getattr(torch, dtype)
    options: dict[str, Any] = {"dtype": torch_dtype, "trust_remote_code": False, "use_safetensors": True}
    options["ignore_mismatched_sizes"] = True  # check_complete says more of them
    if base.options.attention is not None:
        options["attn_implementation"] = base.options.attention
    if source == base.options.name:
        options["revision"] = base.options.revision
    if four_bit:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch_dtype,
            bnb_4bit_quant_storage=torch_dtype if sharded else torch.uint8,
        )
    if four_bit or torch.device(device).type == "cuda":
        options["device_map"] = {
            "": device
        }  # straight there: through the CPU's memory a rank would take as much again
    with _reading_weights(base, source, str(options.get("revision", "main"))), ordinary_falcon():
        loaded: Any = AutoModelForCausalLM.from_pretrained(source, output_loading_info=True, **options)
    check_unchanged(base.states)
    model: PreTrainedModel = loaded[0]
    found: dict[str, Any] = loaded[1]
    check_complete(base.options.name, found)
    if four_bit:
        check_quantised(base, model)
        _forbid_packing(model)
    check_finite(base.options.name, model)
    tell_falcon_its_rows(model)
    check_causal(base.options.name, model)
    return model


@contextlib.contextmanager
def _reading_weights(base: Base, source: str, revision: str) -> Iterator[None]:
    from transformers.utils import cached_file

    try:
        with hub_errors(base.options.name):
            yield
    except SafetensorError as error:  # says nothing of the file
        config = cached_file(source, "config.json", revision=revision)
        check_weights(base.options.name, Path(str(config)).parent)
        raise UserError(f"{source}: its weights cannot be read ({error})") from error


def check_complete(name: str, found: Mapping[str, Any]) -> None:
    """Stop at tensors that a model's files lack, have besides, or have in another shape.

    Args:
        found: what from_pretrained told; tied weights and buffers that the architecture does without are not in it.

    Raises:
        UserError: with their names.
    """
    kinds = {
        "missing": "missing_keys",
        "unexpected": "unexpected_keys",
        "of another shape": "mismatched_keys",
    }
    said = []
    for kind, key in kinds.items():
        names = sorted(str(one[0] if isinstance(one, tuple) else one) for one in found.get(key) or ())
        if names:
            said.append(f"{kind}: {', '.join(names[:5])}{f' and {len(names) - 5} more' if names[5:] else ''}")
    if said:
        raise UserError(
            f"{name}: its weights are not those of the architecture that its config.json names ({'; '.join(said)});"
            " what is missing would be random"
        )


def check_finite(name: str, model: PreTrainedModel) -> None:
    """Stop at weights that are not numbers.

    Raises:
        UserError: with the first one's name.
    """
    for key, weight in model.named_parameters():
        packed = hasattr(weight, "quant_state")  # 4-bit weights, whose storage is no number of its dtype
        if weight.is_floating_point() and not packed and not bool(weight.isfinite().all()):
            raise UserError(
                f"{name}: the weight {key} holds values that are not finite numbers: its file is damaged"
            )


def check_causal(name: str, model: PreTrainedModel) -> None:
    """Stop unless logits are finite, and those of a token stay as they are when a later one changes.

    Raises:
        UserError: for a model that is damaged, or sees both sides.
    """
    import torch

    if "flash" in str(model.config._attn_implementation) and model.device.type == "cpu":
        return  # which has no such kernel; the model moves to a GPU later
    ids = torch.arange(1, 9, device=model.device).repeat(2, 1) % model.config.get_text_config().vocab_size
    ids[1, -1] = 0
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits.float()
    if not bool(logits.isfinite().all()):
        raise UserError(f"{name}: its logits are not finite numbers: the weights are damaged")
    moved = (logits[0] - logits[1]).abs().amax(-1)
    if float(moved[:-1].max()) > CAUSAL_TOLERANCE * max(float(moved[-1]), float(logits.abs().max())):
        raise UserError(
            f"{name}: {model.config.model_type} sees the tokens that come after, so it is no causal language model"
        )


def check_quantised(base: Base, model: PreTrainedModel) -> None:
    """Stop unless every linear layer but the head is in 4 bits.

    Raises:
        UserError: with the layers that are not.
    """
    import bitsandbytes

    expected = set(base.linear_layers)
    found = {name for name, part in model.named_modules() if isinstance(part, bitsandbytes.nn.Linear4bit)}
    if not expected <= found <= set(base.all_linear_layers):
        missing = sorted(expected - found)
        raise UserError(
            f"{base.options.name}: 4 bits in {counted(len(found), 'layer')} where the architecture has"
            f" {len(expected)}"
            f" (missing: {', '.join(missing[:3]) or 'none'}{', …' if len(missing) > 3 else ''}): this"
            " version of"
            " transformers does not quantise this architecture; use tuning=lora"
        )


@contextlib.contextmanager
def ordinary_falcon() -> Iterator[None]:
    # Quantisation passes over subclasses of nn.Linear, and all layers of Falcon are of one, which differs only in the
    # order of rounding. And no fused kernel takes Falcon's attention as it is.
    from torch import nn
    from transformers.models.falcon import modeling_falcon

    from smart.model.attention import FusedFalconAttention, LayerNorm

    module: Any = modeling_falcon
    classes = module.FALCON_ATTENTION_CLASSES
    own = module.FalconLinear, module.LayerNorm, classes["sdpa"]
    module.FalconLinear, module.LayerNorm, classes["sdpa"] = nn.Linear, LayerNorm, FusedFalconAttention
    try:
        yield
    finally:
        module.FalconLinear, module.LayerNorm, classes["sdpa"] = own


def _forbid_packing(model: PreTrainedModel) -> None:
    # On CPUs with AVX512-BF16 a forward pass in evaluation mode repacks the weights for an operation that has
    # no gradient: training after it would go wrong without any sign.
    import bitsandbytes

    for part in model.modules():
        if isinstance(part, bitsandbytes.nn.Linear4bit):
            part.support_avx512bf16_for_cpu = False
