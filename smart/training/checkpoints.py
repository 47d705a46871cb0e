"""Checkpoints that are whole or not there: a manifest with the hash of every file is written last."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from smart.config import UserError
from smart.runtime.manifest import FILE, is_intact, write_manifest

SEAL = FILE
"""What makes a checkpoint whole."""
_FULL = 1 << 16
"""Bytes. Below this much free space, treat any write failure as a full disk."""
_WRITE_FAILED = (
    "inline_container",
    "PytorchStreamWriter",
    "No space left",
    "Disk quota exceeded",
    "I/O error",
    "iostream error",  # of C++, which torch.save writes with
)


def seal(checkpoint: Path, key: str) -> None:
    """Mark a checkpoint as whole, once all its files are on disk."""
    write_manifest(checkpoint, {"kind": "checkpoint", "key": key})


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Say in one line that the disk is full: torch, safetensors and tokenizers each have errors of their own for it.

    Raises:
        UserError: instead of those errors.
    """
    try:
        yield
    except (UserError, OSError):
        raise  # say themselves what is wrong
    except Exception as error:
        text, free = str(error) or repr(error), shutil.disk_usage(folder).free
        if free > _FULL and not any(sign in text for sign in _WRITE_FAILED):
            raise
        raise UserError(
            f"{folder}: a file could not be written, with {free / 1e6:,.1f} MB left on the disk"
            f" ({text.splitlines()[0]}). Free some space: the last whole checkpoint is kept, and the same command"
            " goes on from it"
        ) from error


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def by_step(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*"), key=step_of)


def last_whole(folder: Path, key: str) -> Path | None:
    """The last whole checkpoint of a run; what is damaged, or was left by a killed process, is removed."""
    for checkpoint in reversed(by_step(folder)):
        if is_intact(checkpoint, key):
            return checkpoint
        shutil.rmtree(checkpoint)
    return None


def prune(folder: Path, keep: int) -> None:
    """Remove all but the last `keep` sealed checkpoints; call it after sealing, so that one is always left."""
    sealed = [checkpoint for checkpoint in by_step(folder) if (checkpoint / SEAL).exists()]
    for checkpoint in sealed[:-keep]:
        (checkpoint / SEAL).unlink()  # first, so that a kill here leaves none that looks whole
        shutil.rmtree(checkpoint)
