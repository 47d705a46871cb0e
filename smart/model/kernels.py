"""Quicker kernels for the parts of a layer that are neither products of matrices nor attention."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KERNELS = {"liger": "liger_kernel", "hub": "kernels"}
"""Name of the option → package that it needs."""
_OURS = ("cross_entropy", "fused_linear_cross_entropy")
_THEIRS = ("rope", "rms_norm", "swiglu", "geglu", "layer_norm")
"""Parts that Liger replaces, as it names them; the loss is on supervised positions alone, which it does not know."""


def are_here(name: str) -> bool:
    """Whether the package that has the kernels is installed."""
    return importlib.util.find_spec(KERNELS[name]) is not None


def use_kernels(model: PreTrainedModel, name: str) -> None:
    """Replace norms, rotary positions and activations: by Liger's (arXiv 2410.10989), or by those of the hub."""
    if name == "liger":
        from transformers.integrations.liger import apply_liger_kernel

        apply_liger_kernel(model, dict.fromkeys(_THEIRS, True) | dict.fromkeys(_OURS, False))
    else:
        model.set_use_kernels(True)


def compile_layers(model: Any) -> int:
    """Compile the layers that a model repeats, in place: one compilation serves them all, whatever the lengths.

    Returns:
        How many there are.
    """
    kinds = set(getattr(model, "_no_split_modules", None) or ())
    layers = [part for part in model.modules() if type(part).__name__ in kinds]
    for layer in layers:
        layer.compile(dynamic=True)
    return len(layers)
