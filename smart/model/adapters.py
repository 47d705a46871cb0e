"""LoRA adapters (arXiv 2106.09685): onto a model, and merged into one."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from smart.config import UserError, nearest
from smart.model.base import Base
from smart.model.load import load_model
from smart.model.options import TuningOptions

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

# The largest difference of logits after merging, relative to the largest logit.
_TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}


def target_layers(base: Base) -> list[str]:
    """Names of the layers that get adapters.

    Raises:
        UserError: for a target that is the last part of no layer's name.
    """
    layers = base.linear_layers
    if not layers:
        raise UserError(
            f"{base.options.name}: {base.config.model_type} has no linear layers that could get adapters or be"
            " quantised; use tuning=full"
        )
    endings = {name.rpartition(".")[2] for name in layers}
    targets = endings if base.options.lora_targets is None else set(base.options.lora_targets)
    for target in sorted(targets - endings):
        raise UserError(
            f"model.lora_targets: {target} is no linear layer of {base.options.name}."
            f" {nearest(target, endings)}"
        )
    return [name for name in layers if name.rpartition(".")[2] in targets]


def add_adapters(base: Base, model: PreTrainedModel, tuning: TuningOptions, seed: int) -> PeftModel:
    """Freeze the model and put fresh adapters on its target layers.

    The adapters learn in float32, whatever the model's dtype: a step of 2e-4 would vanish in bfloat16.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    names = target_layers(base)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=tuning.lora_r,
        lora_alpha=tuning.lora_alpha,
        lora_dropout=tuning.lora_dropout,
        target_modules=sorted({name.rpartition(".")[2] for name in names}),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted = get_peft_model(model, config)
    found = sum(name.endswith(".lora_A.default") for name, _ in adapted.named_modules())
    if found != len(names):
        raise UserError(f"{base.options.name}: {found} layers got adapters where {len(names)} should have")
    return adapted


def merge_adapters(base: Base, source: str, adapter: Path, output: Path, dtype: str) -> float:
    """Write the base model with the adapters merged into it, from its weights at full precision, never from 4 bits.

    Args:
        source: where the base's weights are, as `weights_source` gave it.
        adapter: folder of the adapters and the tokenizer.
        output: folder that gets the merged model and the tokenizer.
        dtype: of the merged weights.

    Returns:
        The largest difference between the logits of merged and unmerged model, relative to the largest logit.

    Raises:
        UserError: if the two disagree by more than the dtype's precision explains.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoTokenizer

    model = PeftModel.from_pretrained(load_model(base, source, dtype=dtype), adapter).eval()
    probe = torch.randint(
        0, base.config.get_text_config().vocab_size, (2, 16), generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        before = model(input_ids=probe).logits.float()
        merged = model.merge_and_unload(safe_merge=True)
        after = merged(input_ids=probe).logits.float()
    difference = float((before - after).abs().max() / before.abs().max())
    if not difference <= _TOLERANCE[dtype]:
        raise UserError(
            f"merging changed the logits by {difference:.2g} of the largest, more than {dtype} explains:"
            " keep the"
            " adapters unmerged (merge=false)"
        )
    merged.save_pretrained(output)
    AutoTokenizer.from_pretrained(adapter).save_pretrained(output)
    return difference
