"""Manifests: what an artifact is, what it was made from, and whether it is still what was written.

The order of writing is the same everywhere: files, each of them and the folders on disk, the manifest on disk, and only
then deletions. The order of reading, too: the manifest, then every file that it names, by hash.
"""

from __future__ import annotations

import contextlib
import json
import logging
import platform
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from smart.config import UserError
from smart.runtime.content import ContentHashes, hash_content
from smart.runtime.files import PARTIAL, atomic_folder, hash_bytes, hash_file, sync_tree, write_atomic

FILE = "manifest.json"
FORMAT = 2
"""Raised when readers must treat a manifest differently. 2: every file's hash, and the manifest's own. One without a
number counts as 1."""
INTERRUPTED = "interrupted"
"""Status of a run that is not finished: its folder is no artifact yet."""

log = logging.getLogger(__name__)


class DamagedError(UserError):
    """An artifact is not what was written. A cache that is damaged is made again instead."""


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


def write_manifest(folder: Path, content: Mapping[str, Any], besides: Collection[str] = ()) -> dict[str, Any]:
    """Write FOLDER/manifest.json, which makes the folder an artifact: do it last.

    All files of the folder are on disk before, and their hashes in the manifest, unless `content` has them.

    Args:
        content: with kind and key.
        besides: names in the folder that are no part of the artifact.

    Returns:
        The manifest as written.
    """
    sync_tree(folder)
    files = content["files"] if "files" in content else hash_files(folder, besides)
    whole: dict[str, Any] = json.loads(
        json.dumps({"format": FORMAT, **content, "files": files}, allow_nan=False)
    )
    whole["hash"] = _own_hash(whole)
    write_atomic(folder / FILE, json.dumps(whole, indent=2) + "\n")
    return whole


def hash_files(folder: Path, besides: Collection[str] = ()) -> dict[str, str]:
    """Name → hash of every file of a folder, but its manifest, drafts, and folders with a manifest of their own."""
    found: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if path.name == FILE or path.name in besides or PARTIAL in path.name:
            continue
        if path.is_file():
            found[path.name] = hash_file(path)
        elif path.is_dir() and not (path / FILE).exists():
            found |= {f"{path.name}/{name}": value for name, value in hash_files(path).items()}
    return found


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of an artifact; None where there is none.

    Raises:
        UserError: for the manifest of a later version, which may mean something else.
        DamagedError: for one that is not what was written.
    """
    path = folder / FILE
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError, IsADirectoryError) as error:
        raise _damaged(path, "is not JSON") from error
    if not isinstance(content, dict):
        raise _damaged(path, f"holds a {type(content).__name__} where fields are due")
    number = content.get("format", 1)
    if type(number) is not int or number < 1:
        raise _damaged(path, f"has format {number}")
    if number > FORMAT:
        raise UserError(
            f"{path}: has format {number}, and this version reads up to {FORMAT}",
            "upgrade smart-instruct, or name another folder",
        )
    if not content.get("key") or not isinstance(content["key"], str):
        raise _damaged(path, "has no key")
    if (number > 1 or "hash" in content) and content.get("hash") != _own_hash(content):
        raise _damaged(path, "has changed since it was written")
    return content


def check_files(folder: Path, manifest: Mapping[str, Any], hashes: ContentHashes = hash_content) -> None:
    """Stop unless every file that a manifest names is what was written.

    Args:
        hashes: which may remember those of files that are as they were.

    Raises:
        DamagedError: with the first file that is not.
    """
    files = manifest.get("files")
    if not files or not isinstance(files, dict):
        raise _damaged(folder / FILE, "names no files, so that nothing can be checked", manifest)
    for name, known in files.items():
        if not (folder / name).is_file():
            raise _damaged(folder / name, "is missing", manifest)
        if hashes(folder / name) != known:
            raise _damaged(folder / name, "has changed since it was written", manifest)


def _damaged(path: Path, what: str, manifest: Mapping[str, Any] | None = None) -> DamagedError:
    kind = (manifest or {}).get("kind", "artifact")
    return DamagedError(
        f"{path}: {what}",
        f"restore it, or make the {kind} again with overwrite=true; to use its files as they are, move them into a"
        f" folder without {FILE}",
    )


def open_artifact(folder: Path, hashes: ContentHashes = hash_content) -> dict[str, Any] | None:
    """The manifest of an artifact whose files are all as written; None for a folder without a manifest.

    Whatever uses an artifact comes through here, or through `is_made`.

    Args:
        hashes: as `check_files` takes them.

    Raises:
        DamagedError: for a file that is missing or has changed.
        UserError: for an artifact that is not finished, or of a later version.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    if manifest.get("status") == INTERRUPTED:
        raise UserError(f"{folder}: is not finished", "the same command that began it goes on with it")
    check_files(folder, manifest, hashes)
    return manifest


def is_made(folder: Path, key: str, kind: str, overwrite: bool = False) -> bool:
    """True if this exact artifact is there already, so that there is nothing to do.

    Raises:
        DamagedError: where it is there and damaged, unless it may be overwritten.
        UserError: where something else is, unless it may be overwritten.
    """
    if overwrite or not folder.exists():
        return False
    if not folder.is_dir():
        raise UserError(f"output={folder}: is a file", "name another folder")
    if all(PARTIAL in path.name for path in folder.iterdir()):
        return False
    manifest = read_manifest(folder)
    if manifest and manifest["key"] == key:
        check_files(folder, manifest)
        return True
    what = f"{manifest.get('kind', 'something')} of another configuration" if manifest else f"no {kind}"
    raise UserError(
        f"output={folder}: what lies there is {what}; name another folder, or replace it with overwrite=true"
    )


def cached_folder(
    folder: Path,
    kind: str,
    key: str,
    make: Callable[[Path], Mapping[str, Any] | None],
    hashes: ContentHashes = hash_content,
) -> None:
    """A cache: found as it was written, or made, or made again where it is damaged. Hold a lock.

    Args:
        make: writes its files into the folder that it is given; returns what else its manifest shall say.
        hashes: as `check_files` takes them.
    """
    if not is_intact(folder, key, hashes=hashes):
        with atomic_folder(folder) as draft:
            said = make(draft) or {}
            write_manifest(draft, {"kind": kind, "key": key, **said})


def is_intact(folder: Path, key: str, *, files: bool = True, hashes: ContentHashes = hash_content) -> bool:
    """True if a cache is there as it was written; says in one line what is damaged.

    Args:
        files: look at every file; False for a cache that looks at its files itself.
        hashes: as `check_files` takes them.
    """
    if not folder.exists():
        return False
    try:
        manifest = open_artifact(folder, hashes) if files else read_manifest(folder)
    except UserError as error:
        log.warning("%s: made again.", str(error).partition(";")[0])
        return False
    if manifest is None or manifest["key"] != key:
        log.warning("%s: has no manifest of this key: made again.", folder)
        return False
    return True


def is_told(folder: Path, key: str) -> bool:
    """True if a cache that looks at its files itself has its manifest; says so where that is damaged."""
    return (folder / FILE).exists() and is_intact(folder, key, files=False)


def _own_hash(manifest: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in manifest.items() if name != "hash"}
    return hash_bytes([json.dumps(rest, sort_keys=True).encode()])


def versions(*packages: str) -> dict[str, str]:
    """Installed versions, for the manifest, without packages that are not there; nothing of the environment is recorded
    beside them."""
    found = {"python": platform.python_version()}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
