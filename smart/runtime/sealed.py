"""What caches keep, so that it proves what it is: a seal names format, key, and hash, and is checked at each use.

What does not prove it is made again, with one line on the screen; it is never used.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

from smart.runtime.files import atomic_folder, hash_bytes, hash_file, write_atomic

FORMAT = 1
"""Raised when sealed files are to be read in another way; those of another format are made again."""
SEAL = ".seal"
"""In a sealed folder: the hash of every file."""

log = logging.getLogger(__name__)
_told: set[tuple[Path, str]] = set()


def write_sealed(path: Path, key: str, content: bytes) -> None:
    """Write a file of a line with format, key and hash, and then the content.

    Args:
        key: all that decides the content.
    """
    write_atomic(path, _head(key, content) + content)


def read_sealed(path: Path, key: str) -> bytes | None:
    """The content of a sealed file; None where there is none of this key and format that is whole."""
    try:
        whole = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("%s cannot be read (%s): made again.", path, error.strerror)
        return None
    content = whole.partition(b"\n")[2]
    if whole != _head(key, content) + content:
        if (path, hash_bytes([whole])) not in _told:  # a plan may have told it already
            log.warning("%s is damaged: made again.", path)
        _told.add((path, hash_bytes([whole])))
        return None
    return content


def make_sealed_folder(folder: Path, key: str, make: Callable[[Path], None]) -> None:
    """Fill a folder by `make`, unless it is there and whole. Hold a lock when two may make the same one.

    Files that come later, such as locks of libraries, are not looked at.
    """
    if folder.exists():
        if is_whole(folder, key):
            return
        log.warning("%s is damaged: made again.", folder)
    with atomic_folder(folder) as draft:
        make(draft)
        files = sorted(file for file in draft.rglob("*") if file.is_file())
        hashes = {file.relative_to(draft).as_posix(): hash_file(file) for file in files}
        write_sealed(draft / SEAL, key, json.dumps(hashes, indent=1).encode())


def is_whole(folder: Path, key: str) -> bool:
    """Whether a folder was sealed under the key, and has not changed since."""
    content = read_sealed(folder / SEAL, key)
    if content is None:
        return False
    try:
        return all(hash_file(folder / name) == known for name, known in json.loads(content).items())
    except OSError:
        return False


def _head(key: str, content: bytes) -> bytes:
    seal = {"format": FORMAT, "key": key, "hash": hash_bytes([key.encode(), content])}
    return json.dumps(seal).encode() + b"\n"
