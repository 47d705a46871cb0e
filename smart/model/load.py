"""Weights into memory, in 4 bits or not, and proof that what was loaded is what was asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from smart.config import UserError
from smart.model.base import Base, hub_errors

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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
        UserError: if the weights cannot be read, or other layers than expected were quantised.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    torch_dtype = getattr(torch, dtype)
    options: dict[str, Any] = {"dtype": torch_dtype, "trust_remote_code": False, "use_safetensors": True}
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
        options["device_map"] = {"": device}
    with hub_errors(base.options.name), _plain_linear_layers():
        model = AutoModelForCausalLM.from_pretrained(source, **options)
    if four_bit:
        check_quantised(base, model)
        _forbid_packing(model)
    return model


def check_quantised(base: Base, model: PreTrainedModel) -> None:
    """Stop unless every linear layer but the head is in 4 bits.

    Raises:
        UserError: with the layers that are not.
    """
    import bitsandbytes

    expected = set(base.linear_layers)
    found = {name for name, part in model.named_modules() if isinstance(part, bitsandbytes.nn.Linear4bit)}
    if found != expected:
        missing = sorted(expected - found)
        raise UserError(
            f"{base.options.name}: {len(found)} layers are in 4 bits where the architecture has"
            f" {len(expected)}"
            f" (missing: {', '.join(missing[:3]) or 'none'}{', …' if len(missing) > 3 else ''}): this"
            " version of"
            " transformers does not quantise this architecture; use tuning=lora"
        )


@contextlib.contextmanager
def _plain_linear_layers() -> Iterator[None]:
    # Quantisation passes over subclasses of nn.Linear, and all layers of Falcon are of one. The subclass
    # differs only in the order of rounding.
    from torch import nn
    from transformers.models.falcon import modeling_falcon

    module: Any = modeling_falcon
    own = module.FalconLinear
    module.FalconLinear = nn.Linear
    try:
        yield
    finally:
        module.FalconLinear = own


def _forbid_packing(model: PreTrainedModel) -> None:
    # On CPUs with AVX512-BF16 a forward pass in evaluation mode repacks the weights for an operation that has
    # no gradient: training after it would go wrong without any sign.
    import bitsandbytes

    for part in model.modules():
        if isinstance(part, bitsandbytes.nn.Linear4bit):
            part.support_avx512bf16_for_cpu = False
