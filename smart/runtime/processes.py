"""Which of the processes that a launcher started this one is."""

from __future__ import annotations

import logging
import os


def is_launched() -> bool:
    """True if accelerate launch or torchrun started this process."""
    return "LOCAL_RANK" in os.environ


def rank() -> int:
    """Number of this process among those of the run; 0 for the main one, and where nothing was launched."""
    return int(os.environ.get("RANK", 0)) if is_launched() else 0


def quieten_others() -> None:
    """Let processes beside the main one log errors alone."""
    if rank() > 0:
        logging.getLogger().setLevel(logging.ERROR)
