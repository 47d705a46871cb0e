"""Manifests: what an artifact is, what it was made from, and whether it can be used again."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from smart.config import UserError
from smart.runtime.files import hash_bytes, write_atomic

FILE = "manifest.json"
FORMAT = 1
"""Raised when readers must treat a manifest differently; one without a number counts as 1."""


@dataclass(frozen=True)
class Artifact:
    """A finished folder of a stage."""

    path: Path

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What it was made from and how, with counts."""
        return read_manifest(self.path) or {}


def make_key(config: Mapping[str, Any], inputs: Sequence[str], version: int) -> str:
    """Name a result by all that decides it.

    Args:
        config: what the stage was asked for, without what cannot change its result (threads, folders).
        inputs: keys of the artifacts it reads.
        version: raised by hand whenever the stage's outputs change for the same config.

    Returns:
        32 hex digits.
    """
    canonical = json.dumps(
        [config, list(inputs), version], sort_keys=True, separators=(",", ":"), allow_nan=False
    )
    return hash_bytes([canonical.encode()])


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Write FOLDER/manifest.json, which makes the folder an artifact: do it last."""
    whole = {"format": FORMAT, **content}
    write_atomic(folder / FILE, json.dumps(whole, indent=2, allow_nan=False) + "\n")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of an artifact, or None where there is none that can be read.

    Raises:
        UserError: for the manifest of a later version, which may mean something else.
    """
    try:
        content = json.loads((folder / FILE).read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    if not isinstance(content, dict):
        return None
    number = content.get("format", 1)
    if not isinstance(number, int) or number > FORMAT:
        raise UserError(
            f"{folder / FILE}: has format {number}, and this version reads up to {FORMAT}",
            "upgrade smart-instruct, or name another folder",
        )
    return content


def is_made(folder: Path, key: str, kind: str, overwrite: bool = False) -> bool:
    """True if this exact artifact is there already, so that there is nothing to do.

    Raises:
        UserError: where something else does, unless it may be overwritten.
    """
    if overwrite or not folder.exists() or not any(folder.iterdir()):
        return False
    manifest = read_manifest(folder)
    if manifest and manifest.get("key") == key:
        return True
    what = f"{manifest.get('kind', 'something')} of another configuration" if manifest else f"no {kind}"
    raise UserError(
        f"output={folder}: what lies there is {what}; name another folder, or replace it with overwrite=true"
    )


def versions(*packages: str) -> dict[str, str]:
    """Installed versions, for the manifest; nothing of the environment is recorded beside them."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}
