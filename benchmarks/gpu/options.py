"""What all parts of the kit are told."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

PARTS = ("correct", "train", "smollm", "evaluate", "encode")


@dataclass(frozen=True)
class Options:
    """Where things are, and how large."""

    scratch: Path
    """Folder of models and mixtures, made once and used again."""
    seed: int = 0
    tiny: bool = False
    here: bool = False
    """Measure in this process."""
    model: Path | None = None
    data: Path | None = None

    @classmethod
    def of(cls, asked: argparse.Namespace) -> Options:
        return cls(asked.scratch, asked.seed, asked.tiny, asked.here, asked.model, asked.data)

    @property
    def environment(self) -> dict[str, str]:
        """Of the processes that measure: no network, one GPU, nothing shared with the user's caches."""
        quiet = {
            "TOKENIZERS_PARALLELISM": "false",
            "TRANSFORMERS_VERBOSITY": "error",
            "WANDB_MODE": "disabled",
        }
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        if self.tiny:
            return {**quiet, **offline, "CUDA_VISIBLE_DEVICES": ""}
        return {**quiet, **offline, **_first_gpu()}


def _first_gpu() -> dict[str, str]:
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return {"CUDA_VISIBLE_DEVICES": seen}
