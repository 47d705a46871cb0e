"""How fast a machine computes, so that plans can tell times: arithmetic, and a measurement of half a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from smart.config import counted

_SIDE = 1024
_MOMENT = 0.25
"""Seconds of each measurement."""
_REACHED = {"cpu": 0.7, "cuda": 0.5}
"""Share of a large matrix product's rate that a whole model reaches."""


@dataclass(frozen=True)
class Speed:
    """What bounds a language model on one device."""

    name: str
    flops: float
    """Operations per second that a model reaches."""
    bandwidth: float
    """Bytes per second at which weights are read, which bounds generation."""
    call: float
    """Seconds that one call of a model takes besides, whatever it computes."""
    unpack: float
    """Seconds for a weight of 4 bits to become a number again."""
    start: float
    """Seconds until a command has loaded its libraries and a model."""

    def reading(self, parameters: float, tokens: float) -> float:
        """Seconds for a forward pass: 2 operations a parameter and token."""
        return 2 * parameters * tokens / self.flops

    def writing(self, parameters: float, calls: float, at_once: float, width: int = 2) -> float:
        """Seconds for generation: each call reads all weights, and writes a token of each of `at_once` answers.

        Args:
            width: bytes of a weight.
        """
        bound = parameters * width / self.bandwidth
        return calls * (bound + self.reading(parameters, at_once) + self.call)


A100 = Speed("one A100", 125e12, 1.5e12, call=0.02, unpack=1e-11, start=60)
"""40 % of what it can in bfloat16, and its memory."""


def is_gpu_here() -> bool:
    import torch

    return torch.cuda.is_available()


@cache
def measure(dtype: str) -> Speed:
    """This machine's own speed in `dtype` (bfloat16 or float32), on its GPU if it has one."""
    import torch

    device = "cuda" if is_gpu_here() else "cpu"
    kind = getattr(torch, dtype)
    square, tall = (torch.ones(rows, _SIDE, dtype=kind, device=device) for rows in (_SIDE, 32 * _SIDE))
    products = _rate(lambda: (square @ square)[0, 0].item())
    reads = _rate(lambda: torch.nn.functional.linear(square[:8], tall)[0, 0].item())
    name = (
        torch.cuda.get_device_name()
        if device == "cuda"
        else f"this CPU, {counted(torch.get_num_threads(), 'thread')}"
    )
    return Speed(
        f"{name}: {products * 2 * _SIDE**3 / 1e9:,.0f} billion operations a second, measured now",
        flops=products * 2 * _SIDE**3 * _REACHED[device],
        bandwidth=reads * tall.numel() * tall.element_size(),
        call=0.02 if device == "cuda" else 0.03,
        unpack=1e-11 if device == "cuda" else 1e-9,
        start=30 if device == "cuda" else 15,
    )


def _rate(work: Callable[[], object]) -> float:
    """How often a second `work` can be done."""
    work()
    rounds, started = 0, time.perf_counter()
    while time.perf_counter() - started < _MOMENT:
        work()
        rounds += 1
    return rounds / (time.perf_counter() - started)
