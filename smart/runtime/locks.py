"""One writer at a time."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from smart.runtime.files import make_folder, real, recover

log = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`; says whom it waits for, and is freed by the system when its holder dies."""
    make_folder(path.parent)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0.2)
    except Timeout:
        log.info("Another process works on %s; waiting for it.", path.with_suffix(""))
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def owned(path: Path) -> Iterator[None]:
    """Hold the lock of a file or folder that this process may write; what killed ones left is put right first."""
    path = real(path)
    with locked(path.with_name(f".{path.name}.lock")):
        recover(path)
        yield
