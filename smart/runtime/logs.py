"""What commands log: on the screen, and beside their results."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager

_captured: io.StringIO | None = None


class Screen(logging.StreamHandler):
    """Shows what no library has shown: transformers, datasets, lm-eval, … bring handlers of their own.

    They add them when they are imported, and whether their loggers pass messages on besides depends on settings of
    theirs; so this asks at each message.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """None of those that a handler below the root writes to a screen."""
        return not _is_shown(record) and bool(super().filter(record))


def _is_shown(record: logging.LogRecord) -> bool:
    logger = logging.getLogger(record.name)
    while logger.parent is not None:  # all but the root
        for handler in logger.handlers:
            to_a_file = isinstance(handler, logging.FileHandler)
            if (
                isinstance(handler, logging.StreamHandler)
                and not to_a_file
                and record.levelno >= handler.level
            ):
                return True
        logger = logger.parent
    return False


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
