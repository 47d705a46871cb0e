"""Checkpoints that are whole or not there: a seal with the hash of every file is written last."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from smart.config import UserError
from smart.runtime.files import hash_file, write_atomic

SEAL = "seal.json"
_FULL = 1 << 16
"""Bytes. Below this much free space, treat any write failure as a full disk."""
_WRITE_FAILED = (
    "inline_container",
    "PytorchStreamWriter",
    "No space left",
    "Disk quota exceeded",
    "I/O error",
)
log = logging.getLogger(__name__)


def seal(checkpoint: Path) -> None:
    """Mark a checkpoint as whole, once all its files are on disk."""
    files = sorted(file for file in checkpoint.rglob("*") if file.is_file())
    for path in (*files, checkpoint):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    hashes = {str(file.relative_to(checkpoint)): hash_file(file) for file in files}
    write_atomic(checkpoint / SEAL, json.dumps(hashes, indent=2) + "\n")


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was sealed and has not changed since."""
    try:
        hashes = json.loads((checkpoint / SEAL).read_text())
        return all(hash_file(checkpoint / name) == value for name, value in hashes.items())
    except (OSError, ValueError):
        return False


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


def last_whole(folder: Path) -> Path | None:
    """The last whole checkpoint; what a killed process left after it is removed."""
    for checkpoint in reversed(by_step(folder)):
        if is_whole(checkpoint):
            return checkpoint
        log.warning("%s is not whole: removed.", checkpoint)
        shutil.rmtree(checkpoint)
    return None


def prune(folder: Path, keep: int) -> None:
    """Remove all but the last `keep` sealed checkpoints; call it after sealing, so that one is always left."""
    sealed = [checkpoint for checkpoint in by_step(folder) if (checkpoint / SEAL).exists()]
    for checkpoint in sealed[:-keep]:
        (checkpoint / SEAL).unlink()  # first, so that a kill here leaves none that looks whole
        shutil.rmtree(checkpoint)
