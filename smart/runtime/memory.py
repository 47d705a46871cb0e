"""How much memory a process has held."""

from __future__ import annotations

import resource
import sys


def peak_memory() -> int:
    """Bytes at most: of this process's GPU where it uses one, else of the process."""
    torch = sys.modules.get("torch")  # a process that has not loaded it uses no GPU
    if torch is not None and torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
