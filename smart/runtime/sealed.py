"""Small files of caches that prove what they are: a seal names format, key and hash, and is checked at each use.

What does not prove it is made again, with one line on the screen; it is never used. Folders have a manifest for that.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from smart.runtime.files import hash_bytes, write_atomic

FORMAT = 1
"""Raised when sealed files are to be read in another way; those of another format are made again."""

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


def _head(key: str, content: bytes) -> bytes:
    seal = {"format": FORMAT, "key": key, "hash": hash_bytes([key.encode(), content])}
    return json.dumps(seal).encode() + b"\n"
