"""LoRA adapters (arXiv 2106.09685): onto a model, and merged into one."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from smart.config import UserError, counted, nearest
from smart.model.base import Base
from smart.model.chat import stop_at
from smart.model.fingerprint import adapter_key, states
from smart.model.load import load_model
from smart.model.options import TuningOptions
from smart.model.pretrained import check_weights, read_json, read_tokenizer
from smart.runtime.content import FileState, check_unchanged
from smart.runtime.manifest import open_artifact

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
    endings = {name.rpartition(".")[2] for name in names}
    meant = {name for name in base.all_linear_layers if name.rpartition(".")[2] in endings}
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=tuning.lora_r,
        lora_alpha=tuning.lora_alpha,
        lora_dropout=tuning.lora_dropout,
        target_modules=sorted(endings if meant == set(names) else names),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted = get_peft_model(model, config)
    found = sum(name.endswith(".lora_A.default") for name, _ in adapted.named_modules())
    if found != len(names):
        raise UserError(
            f"{base.options.name}: adapters in {counted(found, 'layer')} where {len(names)} should have them"
        )
    return adapted


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """The configuration of an adapter that is LoRA and nothing that imports or unpickles.

    Raises:
        UserError: for any other.
    """
    config = read_json(folder / "adapter_config.json")
    if config.get("peft_type") != "LORA":
        raise UserError(f"{folder}: is an adapter of kind {config.get('peft_type')}; only LORA is read")
    if config.get("megatron_config") or config.get("auto_map"):
        raise UserError(f"{folder}: adapter_config.json names code to import, which is never run")
    if not (folder / "adapter_model.safetensors").is_file():
        raise UserError(
            f"{folder}: has no adapter_model.safetensors; a pickle, adapter_model.bin, can run code and is not read"
        )
    check_weights(str(folder), folder)
    return config


def load_adapters(model: PreTrainedModel, folder: Path) -> PeftModel:
    """Put the adapters of a folder on a model, all of them and no others.

    Raises:
        UserError: for adapters that do not fit the model, with the names of tensors.
    """
    from peft import PeftModel, get_peft_model_state_dict

    read_adapter_config(folder)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # told below
            adapted = PeftModel.from_pretrained(model, str(folder))
    except (RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()
        raise UserError(f"adapter={folder}: does not fit the model ({' '.join(first[:2])})") from error
    _check_tensors(
        folder, _read_tensors(folder), get_peft_model_state_dict(adapted, save_embedding_layers=False)
    )
    return adapted


def _read_tensors(folder: Path) -> dict[str, Any]:
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, a file is no mapping


def _check_tensors(folder: Path, given: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Stop at tensors that are missing, unexpected or not finite."""
    broken = sorted(name for name, tensor in given.items() if not bool(tensor.isfinite().all()))
    if broken:
        raise UserError(f"adapter={folder}: {broken[0]} holds values that are not finite numbers")
    if given.keys() != wanted.keys():
        said = {
            "missing": sorted(wanted.keys() - given.keys()),
            "unexpected": sorted(given.keys() - wanted.keys()),
        }
        listed = "; ".join(
            f"{kind}: {', '.join(names[:3])}{f' and {len(names) - 3} more' if names[3:] else ''}"
            for kind, names in said.items()
            if names
        )
        raise UserError(f"adapter={folder}: does not fit the model ({listed})")


@dataclass(frozen=True)
class Start:
    """An adapter whose weights a training begins with."""

    folder: Path
    key: str
    states: Mapping[Path, FileState]
    """Its files as they were before they were hashed."""


def find_start(folder: Path, base: Base, tuning: TuningOptions) -> Start:
    """Find an adapter to go on from, and check that the options describe it.

    Raises:
        UserError: for an adapter of another model, of another rank or scale, or of a kind that training has no option
            for.
    """
    before = states(folder)
    manifest = open_artifact(folder) or {}
    if not (folder / "adapter_config.json").is_file():
        raise UserError(
            f"adapter={folder}: holds no adapter; of a whole model say model=auto model.name={folder}"
        )
    config = read_adapter_config(folder)
    trained_on = manifest.get("base", {}).get("key")
    if trained_on and trained_on != base.key:
        name = manifest["base"].get("name")
        raise UserError(
            f"adapter={folder}: was trained on {name} ({trained_on}), not on {base.options.name} ({base.key})"
        )
    kinds = (
        "use_dora",
        "use_rslora",
        "rank_pattern",
        "alpha_pattern",
        "modules_to_save",
        "layers_to_transform",
    )
    if extra := [name for name in kinds if config.get(name)]:
        raise UserError(f"adapter={folder}: has {', '.join(extra)}, with which training cannot go on")
    options = {"lora_r": config.get("r"), "lora_alpha": config.get("lora_alpha")}
    said = [f"tuning.{name}={value}" for name, value in options.items() if value != getattr(tuning, name)]
    if said:
        raise UserError(f"adapter={folder}: it has another rank or scale: add {' '.join(said)}")
    return Start(folder, adapter_key(folder), before)


def begin_with(model: PeftModel, start: Start) -> None:
    """Give fresh adapters the weights of others.

    Raises:
        UserError: for adapters on other layers, with the names of tensors, or files that changed since they were found.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    tensors = _read_tensors(start.folder)
    check_unchanged(start.states)
    _check_tensors(start.folder, tensors, get_peft_model_state_dict(model, save_embedding_layers=False))
    set_peft_model_state_dict(model, tensors)


def cast_adapters(model: PeftModel, dtype: str) -> None:
    """Keep the adapters in this dtype, in which they are then computed."""
    import torch

    for name, weight in model.named_parameters():
        if ".lora_" in name:
            weight.data = weight.data.to(getattr(torch, dtype))


def fold_adapters(base: Base, model: Any, dtype: str) -> tuple[PreTrainedModel, float]:
    """The model with the adapters in its weights, which are not in 4 bits.

    Args:
        model: a PeftModel, which is used up.
        dtype: of its weights.

    Returns:
        Beside the model, the largest difference of the logits before and after, relative to the largest logit.

    Raises:
        UserError: if the two disagree by more than the dtype's precision explains.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    vocabulary = base.config.get_text_config().vocab_size
    probe = torch.randint(0, vocabulary, (2, 16), generator=generator).to(model.device)
    with torch.no_grad():
        before = model(input_ids=probe).logits.float()
        merged: PreTrainedModel = model.merge_and_unload(safe_merge=True)
        after = merged(input_ids=probe).logits.float()
    difference = float((before - after).abs().max() / before.abs().max())
    if not difference <= _TOLERANCE[dtype]:
        raise UserError(
            f"merging changed the logits by {difference:.2g} of the largest, more than {dtype} explains:"
            " keep the adapters unmerged"
        )
    return merged, difference


def merge_adapters(
    base: Base, source: str, adapter: Path, output: Path, dtype: str, *, stop_ids: Sequence[int] = ()
) -> float:
    """Write the base model with the adapters merged into it, from its weights at full precision, never from 4 bits.

    Args:
        source: where the base's weights are, as `weights_source` gave it.
        adapter: folder of the adapters and the tokenizer.
        output: folder that gets the merged model and the tokenizer.
        dtype: of the merged weights.
        stop_ids: at which generation stops, beside the tokenizer's end of sequence.

    Returns:
        The largest difference between the logits of merged and unmerged model, relative to the largest logit.

    Raises:
        UserError: if the two disagree by more than the dtype's precision explains.
    """
    from transformers.trainer_utils import align_special_tokens

    tokenizer = read_tokenizer(str(adapter), adapter)
    plain = load_model(base, source, dtype=dtype)
    align_special_tokens(plain, tokenizer)
    stop_at(plain.generation_config, stop_ids)
    merged, difference = fold_adapters(base, load_adapters(plain, adapter).eval(), dtype)
    merged.save_pretrained(output)
    tokenizer.save_pretrained(output)
    return difference
