"""A plan writes nothing: what caches hold is read, and what has to be made stays in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_planning: ContextVar[bool] = ContextVar("planning", default=False)


@contextmanager
def writing_nothing() -> Iterator[None]:
    """Inside, `may_write` is false."""
    token = _planning.set(True)
    try:
        yield
    finally:
        _planning.reset(token)


def may_write() -> bool:
    """Whether caches may be written to."""
    return not _planning.get()
