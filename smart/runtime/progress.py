"""Progress with rate and remaining time: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

log = logging.getLogger(__name__)


class progress(tqdm):  # noqa: N801 - used like tqdm
    """`with progress(total=n, desc="Embedding", unit="row") as bar: bar.update(k)`

    Work that ends within two seconds shows nothing.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._terminal = sys.stderr.isatty()
        kwargs.setdefault("mininterval", 0.2 if self._terminal else 15)
        kwargs.setdefault("unit_scale", True)
        super().__init__(*args, delay=2, leave=False, file=sys.stderr, dynamic_ncols=True, **kwargs)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if self._terminal:
            super().display(msg, pos)
        elif self.n and msg != "":  # with empty text tqdm wipes its line at the end, and a log has none
            log.info("%s", self)


class Clock:
    """Seconds spent in each stage: `with clock("tasks"): ...`"""

    def __init__(self) -> None:
        self._begun = time.perf_counter()
        self._done: dict[str, float] = {}
        self._open: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        self._open[stage] = time.perf_counter()
        yield
        self._done[stage] = time.perf_counter() - self._open.pop(stage)

    @property
    def seconds(self) -> dict[str, float]:
        """Of each stage, of one that goes on as far as it has come; and `total`, since the clock was made."""
        now = time.perf_counter()
        going_on = {stage: now - begun for stage, begun in self._open.items()}
        every = {**self._done, **going_on, "total": now - self._begun}
        return {stage: round(seconds, 3) for stage, seconds in every.items()}
