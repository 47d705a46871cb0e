"""Tasks for executors, which leave marks in a folder: what was opened and what was begun, and who dies of what."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from smart.config import UserError
from smart.runtime.executor import Worker


class Picky(Exception):  # noqa: N818
    """An error that cannot be pickled."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


@dataclass(frozen=True)
class Square:
    """Squares a number, or does what is said of it."""

    folder: Path
    fails: tuple[int, ...] = ()
    how: str = ""
    seconds: float = 0.0
    wide: bool = False
    gpu: bool = False
    table: np.ndarray | None = None

    @contextmanager
    def open(self, worker: Worker) -> Iterator[Callable[[int], int]]:
        (self.folder / f"opened-{os.getpid()}-{worker.threads}-{time.monotonic_ns()}").touch()
        if self.how == "opening":
            raise UserError("the model does not load")
        yield self._square

    def _square(self, item: int) -> int:
        mark = self.folder / f"begun-{item}"
        first = not mark.exists()
        mark.touch()
        time.sleep(self.seconds)
        if item in self.fails:
            if self.how == "user error":
                raise UserError(f"{item}: is odd")
            if self.how == "bug":
                raise ValueError(f"{item} is not what was expected")
            if self.how == "picky":
                raise Picky(item, 2)
            if self.how == "always dies" or (self.how == "dies once" and first):
                os.kill(os.getpid(), signal.SIGKILL)
        return item * item if self.table is None else int(self.table[item])
