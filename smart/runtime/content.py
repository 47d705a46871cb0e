"""What files hold: hashes that are remembered while it is safe, and files that must not change while they are read."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from smart.config import UserError
from smart.runtime.files import hash_bytes, hash_file
from smart.runtime.plans import may_write
from smart.runtime.sealed import read_sealed, write_sealed

FileState = tuple[int, ...]
"""Device, inode, size, and times in ns of the last change of content and of anything: a write changes the last one,
which no program can set, and a replacement the inode."""


@contextlib.contextmanager
def unchanged(*files: Path) -> Iterator[None]:
    """Refuse files that are written or replaced while the block reads them: what was read has no name then.

    Raises:
        UserError: naming the file that has changed.
    """
    before = {file: state_of(file) for file in files}
    yield
    check_unchanged(before)


def state_of(file: Path) -> FileState:
    status = file.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def check_unchanged(before: Mapping[Path, FileState]) -> None:
    """Compare files with their states when they were hashed or opened.

    Raises:
        UserError: naming the first that has changed or is gone.
    """
    for file, state in before.items():
        if not file.is_file() or state_of(file) != state:
            raise UserError(f"{file}: has changed while it was read; run the same command again")


class ContentHashes:
    """Hashes of files and folders by what they hold. None is read twice while its state stays the same."""

    _SETTLED = 2 * 10**9
    """ns after which a further write is sure to change the times of a file: clocks of file systems tick slowly."""

    def __init__(self, memory: Path | None = None) -> None:
        """`memory`: a folder that remembers between processes."""
        self._memory = memory
        self._known: dict[str, str] = {}

    def __call__(self, path: Path) -> str:
        if path.is_file():
            return self._of_file(path)
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return hash_bytes(
            part.encode()
            for file in files
            for part in (file.relative_to(path).as_posix(), self._of_file(file))
        )

    def _of_file(self, path: Path) -> str:
        state = state_of(path)
        seen = f"{path.resolve()} {' '.join(map(str, state))}"
        if seen in self._known:
            return self._known[seen]
        place = str(path.resolve())
        note = self._memory / f"{hash_bytes([place.encode()])}.sealed" if self._memory else None
        remembered = (read_sealed(note, place) or b"").decode().split("\n") if note else []
        if remembered[:1] == [seen]:
            self._known[seen] = remembered[1]
            return self._known[seen]
        with unchanged(path):
            found = hash_file(path)
        if time.time_ns() - max(state[-2:]) > self._SETTLED:
            self._known[seen] = found
            if note and may_write():
                write_sealed(note, place, f"{seen}\n{found}".encode())
        return found


hash_content = ContentHashes()
"""Of this process, which reads no weights twice."""
