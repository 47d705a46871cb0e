"""Ctrl-C, wherever it falls."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def every_interrupt_counts() -> Iterator[None]:
    """Raise KeyboardInterrupt at the end, if one was raised inside and swallowed on its way.

    Python drops what is raised in a destructor or in the callback of a weak reference, and a signal may come in
    the middle of one (drawing with matplotlib runs thousands): without this a Ctrl-C there would end in a 0.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield  # ignored, another's, or not ours to set
        return
    interrupted = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupted:
        raise KeyboardInterrupt
