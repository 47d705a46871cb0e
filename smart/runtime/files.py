"""Files and folders that are either whole or absent, on disk when they are said to be, and their hashes."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import xxhash

from smart.config import UserError

PARTIAL = ".partial-"
"""In the name of everything that is not finished: nothing reads it, and the next run removes it."""
_FOREIGN_DRAFT = ".tmp" + 6 * "?"
"""Drafts of safetensors, which nobody locks."""


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; it becomes `path` at the end, or vanishes on an error."""
    make_folder(path.parent)
    with _naming(path), _draft(path) as temporary:
        yield temporary
        sync(temporary)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        sync(path.parent)


@contextlib.contextmanager
def _draft(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, after those of killed processes are removed.

    Its writer holds it locked, so that no other takes it for left over; the system frees it when the writer dies.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}{PARTIAL}*"):
        if not left.is_dir():
            _remove_unless_held(left)
    while True:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}{PARTIAL}", dir=path.parent)
        with contextlib.suppress(
            OSError
        ):  # a file system without locks, where nothing is taken for left over
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.path.exists(name):  # another process may have removed it before it was locked
            break
        os.close(handle)
    try:
        yield Path(name)
    finally:
        os.close(handle)
        Path(name).unlink(missing_ok=True)


def _remove_unless_held(draft: Path) -> None:
    try:
        handle = os.open(draft, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return
    else:
        draft.unlink(missing_ok=True)
    finally:
        os.close(handle)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a whole small file, or nothing."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty sibling folder; it takes the place of `path` at the end, or vanishes on an error.

    What a killed process left beside `path` is put right first, so hold a lock when two may write the same folder.
    """
    path = real(path)
    make_folder(path.parent)
    recover(path)
    with _naming(path):
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}{PARTIAL}", dir=path.parent))
        try:
            yield temporary
            os.chmod(temporary, 0o777 & ~_umask())
            sync_tree(temporary)
            _replace_folder(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _replace_folder(new: Path, path: Path) -> None:
    # os.replace cannot replace a folder that holds something, so the old one steps aside for a moment. After a kill
    # between the two renames, `recover` brings it back.
    if path.exists():
        os.replace(path, _aside(path))
    os.replace(new, path)
    sync(path.parent)
    remove(_aside(path))


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}{PARTIAL}old")


def recover(path: Path) -> None:
    """Put right what killed runs left of a file or folder: an old one comes back, drafts go. Hold its lock.

    Files of a cache are also written by processes without the folder's lock (`smart.runtime.claims`); a draft whose
    writer lives stays.
    """
    path = real(path)
    if _aside(path).exists() and not path.exists():
        os.replace(_aside(path), path)
        sync(path.parent)
    for left in (*path.parent.glob(f".{glob.escape(path.name)}{PARTIAL}*"), *path.glob(f".*{PARTIAL}*")):
        if left.is_dir():
            remove(left)
        else:
            _remove_unless_held(left)
    for left in path.glob(_FOREIGN_DRAFT):
        remove(left)


def discard(path: Path) -> None:
    """Remove a folder, which is either whole or gone for whoever looks: also where this is killed half-way."""
    path = real(path)
    if path.exists():
        gone = path.with_name(f".{path.name}{PARTIAL}gone")
        remove(gone)
        os.replace(path, gone)
        sync(path.parent)
        remove(gone)


def remove(path: Path) -> None:
    """Remove a file or folder, if it is there."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        error.filename = str(path)  # rmtree names the last part alone
        raise


def real(path: Path) -> Path:
    """Where a path leads: itself, unless it is a symbolic link, which no rename should replace."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def make_folder(path: Path) -> None:
    """Make a folder with its parents, so that they outlive a power cut."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(missing):
        sync(folder.parent)


def sync(path: Path) -> None:
    """Return when a file's bytes, or a folder's names, are on disk."""
    with _naming(path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Return when everything in a folder is on disk, whichever library wrote it; drafts may be another process's."""
    for path in sorted(folder.rglob("*"), reverse=True):  # what a folder holds before the folder
        if not path.is_symlink() and PARTIAL not in path.name:
            sync(path)
    sync(folder)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    # Errors of a file that is open already (EIO, ENOSPC) don't say which it was.
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def make_writable(key: str, folder: Path) -> None:
    """Make a folder that a run will write to: before hours of work, not after them.

    Raises:
        UserError: where that cannot be; `key` is the option that named the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{key}={folder}: cannot be made ({error.strerror}); name another folder") from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"{key}={folder}: cannot be written to; name another folder")


def hash_file(path: Path) -> str:
    """xxh3_128 of a file's bytes, in hex."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def hash_bytes(parts: Iterable[bytes | memoryview]) -> str:
    """xxh3_128 of the parts one after the other, each preceded by its length, in hex."""
    digest = xxhash.xxh3_128()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
