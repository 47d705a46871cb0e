"""What a model is, and how it is tuned; the YAML files of conf/model and conf/tuning fill these."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Annotated, Literal

import yaml
from annotated_types import Ge, Lt
from pydantic import AfterValidator

from smart.config import Problems, conf_dir, nearest, option
from smart.config.types import Names, Number, Positive

# What transformers knows beside these needs packages that do not come with this one, other hardware, or options that
# have no place here.
OPTIMIZERS = (
    *("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"),
    *("adamw_8bit", "adamw_bnb_8bit", "ademamix", "ademamix_8bit", "lion_8bit", "lion_32bit"),
    *("rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit"),
    *("paged_adamw_8bit", "paged_adamw_32bit", "paged_ademamix_8bit", "paged_ademamix_32bit"),
    *("paged_lion_8bit", "paged_lion_32bit"),
)
"""As transformers names them."""
SCHEDULES = (
    *("cosine", "linear", "cosine_with_restarts", "polynomial"),
    *("constant", "constant_with_warmup", "inverse_sqrt"),
)
"""As transformers names them."""


PLAIN_ATTENTION = ("sdpa", "eager")
FLASH_ATTENTION = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}
"""As transformers names them, with the package that has them; without it transformers takes a kernel of the hub."""
HUB_KERNELS = "kernels-community/"
"""Of Hugging Face, compiled; the package `kernels` downloads them."""


def _identifier(value: str) -> str:
    if not value.isidentifier():
        raise ValueError("must be the name of a package, without dots")
    return value


def _present(value: str) -> str:
    if value in ("", "???"):
        raise ValueError("must be a hub name or a folder")
    return value


@cache
def known_packages() -> frozenset[str]:
    """Packages with weights that the files of conf/model name: an artifact may name no others."""
    files = sorted((conf_dir() / "model").glob("*.yaml"))
    named = {(yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("gguf_package") for file in files}
    return frozenset(str(package) for package in named - {None})


@dataclass(frozen=True)
class ModelOptions:
    """A causal language model. Weights are read as safetensors, and no code of a repository is run."""

    name: Annotated[str, AfterValidator(_present)]
    """Hub name or folder; or tiny_llama, tiny_falcon, tiny_mistral: random weights, for tests."""
    revision: str = "main"
    """Branch, tag or commit on the hub; the manifest records the commit it stood for."""
    lora_targets: Names | None = None
    """Last parts of the names of the layers that get adapters; None: every linear layer but the head."""
    context: Positive | None = option(None, hint="leave it null for the model's own")
    """Tokens the model was trained on at once; None: what its own configuration says."""
    eos_token: str | None = None
    """Ends a response; None: the tokenizer's own."""
    attention: str | None = None
    """Attention implementation: sdpa, eager, flash_attention_2, flash_attention_3, or a kernel of the hub such as
    kernels-community/flash-attn2; None: what transformers chooses, which is sdpa."""
    gguf_package: Annotated[str, AfterValidator(_identifier)] | None = None
    """A Python package that carries the weights as a GGUF file: where it is installed, no hub is needed, and it is
    never imported."""

    @property
    def tiny(self) -> str | None:
        """The architecture of a tiny model, or None for a real one."""
        return self.name.removeprefix("tiny_") if self.name.startswith("tiny_") else None


@dataclass(frozen=True)
class TuningOptions:
    """Which weights learn, and how they are kept."""

    method: Literal["qlora", "lora", "full"] = "qlora"
    """qlora: adapters on a 4-bit model (NF4, double quantisation); lora: adapters; full: all weights."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Type of computation; trained weights and the optimiser's state are float32 in either case."""
    lora_r: Positive = 64
    lora_alpha: Positive = 16
    lora_dropout: Annotated[float, Ge(0), Lt(1)] = 0.05
    optimizer: str = "adamw_torch"
    """One of OPTIMIZERS."""
    schedule: str = "cosine"
    """Schedule of the learning rate: one of SCHEDULES."""
    warmup: Annotated[float, Ge(0), Lt(1)] = option(0.03, hint="it is a share of the steps")
    """Share of the steps in which the learning rate rises; of w steps, the first learns at 1 / (w + 1) of it."""
    weight_decay: Annotated[Number, Ge(0)] = 0.0
    max_grad_norm: Annotated[Number, Ge(0)] = 1.0
    checkpoint_activations: bool | Literal["auto"] = option(
        True, replaces="checkpoint_activations", stored_as={"auto": True}
    )
    """Recompute activations in the backward pass: about a third slower, far less memory. auto: only where the training
    would not fit into gpu_memory otherwise; it stands in keys as true, since what is recomputed are the same bits."""
    kernels: Literal["liger", "hub"] | None = option(None, added=True)
    """Norms, rotary positions and activations by the package liger-kernel, or by kernels of the hub; on GPUs."""
    compile: bool = option(False, added=True)
    """Compile the layers (torch.compile): the first steps wait for it, the others are quicker."""

    def validate(self, problems: Problems) -> None:
        """Add an optimiser or a schedule that does not work here."""
        for key, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
            value = getattr(self, key)
            if value not in known:
                problems.add(f"tuning.{key}", value, f"no such {key}. {nearest(value, known)}")


@dataclass(frozen=True)
class ChatOptions:
    """What a chat template is told for every conversation."""

    system: str | None = None
    """System text for conversations that have none; None: the template's own default, where it has one."""
    thinking: bool | None = None
    """Whether the model thinks before it answers (enable_thinking), for conversations that don't say it themselves;
    False leaves out reasoning_content. None: the template decides."""
