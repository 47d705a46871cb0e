"""What a GPU is and can do; torch is loaded when it is asked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

AMPERE = 8
"""Compute capability of the first GPUs with units for bfloat16 and TF32."""
VOLTA = 7
"""Compute capability of the first GPUs with units for float16; before, most have a slow float16 alone."""


def device_name(device: torch.device) -> str:
    """cpu, or the GPU's own name: answers of different GPUs differ in their last digits.

    >>> import torch
    >>> device_name(torch.device("cpu"))
    'cpu'
    """
    import torch

    return str(torch.cuda.get_device_name(device)) if device.type == "cuda" else device.type


def gpus() -> list[str]:
    """Names of the GPUs that this process may use, as torch takes them."""
    import torch

    return [f"cuda:{number}" for number in range(torch.cuda.device_count())]


def has_tensor_types(device: torch.device) -> bool:
    """True for a GPU that computes bfloat16 and TF32 itself.

    torch's own `is_bf16_supported` counts emulation, which is slower than float32.
    """
    import torch

    if device.type != "cuda":
        return False
    return bool(torch.version.hip) or torch.cuda.get_device_capability(device)[0] >= AMPERE


def emulates_bfloat16(device: torch.device) -> bool:
    """True for a GPU without units for bfloat16, such as a T4."""
    return device.type == "cuda" and not has_tensor_types(device)


def half_type(device: torch.device) -> torch.dtype | None:
    """The type of 16 bits that a device multiplies matrices in by units of its own; None where it has no such units."""
    import torch

    if has_tensor_types(device):
        return torch.bfloat16
    if device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= VOLTA:
        return torch.float16
    return None


@contextlib.contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Inside, GPUs multiply float32 matrices in TF32, which keeps 10 bits of a number's 23."""
    import torch

    before = torch.get_float32_matmul_precision()
    if on:
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
