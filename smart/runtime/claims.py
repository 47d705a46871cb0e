"""Units of work that several processes share, on one machine or on many with a common disk: each is done by one.

A process claims a unit before it does it, and gives the claim back when the result is on disk. A claim is a lock on a
small file, which the system frees when its holder dies. Claims only save work: a unit that two have done, on a file
system without locks, has the same bytes.

The files lie among the results and are named as drafts, so that whoever owns the folder removes what killed processes
left. Making a file there also makes a network's file system look again at what others have put beside it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import platform
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Generic, TypeVar

from smart.config import counted
from smart.runtime.files import PARTIAL, make_folder, real

Unit = TypeVar("Unit", bound=Hashable)
POLL = (0.05, 2.0)
"""Seconds between two looks at what others hold: at first, and at most."""
_HELD = (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK)

log = logging.getLogger(__name__)


class Claims(Generic[Unit]):
    """This process's claims on the units of a folder of results; leaving the context gives them back.

    ```
    with Claims(folder, name, is_done) as claims:
        for left in claims.rounds(units):
            for unit, result in map_unordered(work, claims.free(left), threads):
                ...  # save the result
                claims.give_back(unit)
    ```
    """

    def __init__(self, folder: Path, name: Callable[[Unit], str], is_done: Callable[[Unit], bool]) -> None:
        """
        Args:
            folder: of the results.
            name: of a unit, the same in every process.
            is_done: whether a unit's result is on disk; asked of units that this process holds.
        """
        self._folder, self._name, self._is_done = real(folder), name, is_done
        self._held: dict[str, int] = {}
        self._done: set[Unit] = set()
        self._told: set[str] = set()

    def __enter__(self) -> Claims[Unit]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in list(self._held):
            self._unlock(name)

    def rounds(self, units: Iterable[Unit]) -> Iterator[list[Unit]]:
        """Units that are not known to be done, again and again until all are.

        What a round has claimed must be given back before the next one. A round in which others held everything
        starts when one of them has given something back or died.
        """
        left = list(units)
        while left:
            known = len(self._done)
            yield left
            left = [unit for unit in left if unit not in self._done]
            if left and len(self._done) == known:
                self._wait(left)

    def free(self, units: Iterable[Unit]) -> Iterator[Unit]:
        """Claim, one after the other as they are asked for, the units that nobody holds and that are to be done."""
        for unit in units:
            if self._lock(self._name(unit)):
                if self._is_done(unit):  # by another process, since it was looked at
                    self.give_back(unit)
                else:
                    yield unit

    def give_back(self, unit: Unit) -> None:
        """The unit's result is on disk."""
        self._done.add(unit)
        self._unlock(self._name(unit))

    def _wait(self, units: list[Unit]) -> None:
        names = [self._name(unit) for unit in units]
        pause, longest = POLL
        while not any(map(self._is_free, names)):
            holders = {holder for name in names if (holder := self._holder(name))}
            if new := sorted(holders - self._told):
                listed = ", ".join(new[:5]) + (" …" if len(new) > 5 else "")
                log.info("Waiting for %s on which others work: %s.", counted(len(names), "part"), listed)
                self._told |= holders
            time.sleep(pause)
            pause = min(longest, 1.5 * pause)

    def _is_free(self, name: str) -> bool:
        if self._lock(name):
            self._unlock(name)
            return True
        return False

    def _holder(self, name: str) -> str:
        try:
            return self._path(name).read_text()
        except OSError:
            return ""

    def _path(self, name: str) -> Path:
        return self._folder / f".{name}{PARTIAL}claim"

    def _lock(self, name: str) -> bool:
        path = self._path(name)
        make_folder(self._folder)
        while True:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:  # else a file system without locks
                if error.errno in _HELD:
                    os.close(handle)
                    return False
            if _is_at(handle, path):
                with contextlib.suppress(OSError):
                    os.truncate(handle, 0)
                    os.write(handle, f"process {os.getpid()} on {platform.node()}".encode())
                self._held[name] = handle
                return True
            os.close(handle)  # its last holder has removed it

    def _unlock(self, name: str) -> None:
        with contextlib.suppress(
            OSError
        ):  # removed while it is held, so that nobody locks a file that is gone
            self._path(name).unlink()
        os.close(self._held.pop(name))


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False
