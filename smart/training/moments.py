"""Adam's moments of a finished training, kept beside its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from smart.runtime.files import write_atomic

FILE = "moments.safetensors"
"""NAME.exp_avg and NAME.exp_avg_sq of every trained weight, float32 of its shape; in the metadata the number of steps,
and beta1, beta2 and eps."""
OPTIMIZERS = ("adamw_torch", "adamw_torch_fused")
"""Whose moments are plain tensors."""
KINDS = ("exp_avg", "exp_avg_sq")


def write_moments(folder: Path, model: Any, optimizer: Any, steps: int, is_main: bool) -> None:
    """Write the moments; every process calls it, since sharded ones are put together, and the main one writes.

    Args:
        model: whose trained weights have the names of the file that they are saved in.
        optimizer: an AdamW of torch after its last step.
        steps: that it has taken.
    """
    found: dict[str, np.ndarray] = {}
    for name, weight in model.named_parameters():
        for kind in KINDS if weight.requires_grad else ():
            moment = optimizer.state[weight][kind]
            whole = moment.full_tensor() if hasattr(moment, "full_tensor") else moment
            if is_main:
                found[f"{name.replace('.default.', '.')}.{kind}"] = np.ascontiguousarray(
                    whole.detach().float().cpu()
                )
    if is_main:
        group = optimizer.param_groups[0]
        told = {"steps": steps, "beta1": group["betas"][0], "beta2": group["betas"][1], "eps": group["eps"]}
        write_atomic(folder / FILE, save(found, {name: str(value) for name, value in told.items()}))
