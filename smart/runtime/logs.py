"""A command's own log, which is written beside its result."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager

_captured: io.StringIO | None = None


@contextmanager
def captured_log() -> Iterator[io.StringIO]:
    """Keep what is logged inside, so that it can be written beside the result."""
    global _captured
    _captured = io.StringIO()
    handler = logging.StreamHandler(_captured)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield _captured
    finally:
        logging.getLogger().removeHandler(handler)
        _captured = None


def log_so_far() -> str:
    """What this command has logged until now."""
    return _captured.getvalue() if _captured else ""
