"""The hub in a plan, which waits for nothing: what is cached is read, and the rest is asked for once, or marked."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

from huggingface_hub import constants, get_session

from smart.config import UserError

_PATIENCE = 3.0
"""Seconds for one answer."""


class NotHere(UserError):  # noqa: N818 - a state: nothing was done wrong
    """Something of the hub that is not on this machine, and cannot be had now."""


def refused(message: str, error: Exception) -> UserError:
    """What to raise where a data set cannot be loaded: offline, for whatever reason, it may be had another time."""
    away = constants.HF_HUB_OFFLINE or isinstance(error, ConnectionError)
    return (NotHere if away else UserError)(message)


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Read what is cached, and ask the hub for nothing."""
    advice = logging.getLogger("datasets.load")
    before, level = constants.HF_HUB_OFFLINE, advice.level
    data: Any = sys.modules.get("datasets.config")  # imported inside, it copies the hub's own
    data_before = before if data is None else data.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    if data is not None:
        data.HF_HUB_OFFLINE = True
    advice.setLevel(logging.ERROR)  # it would say for every data set that the hub was not asked
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        data_now: Any = sys.modules.get("datasets.config")
        if data_now is not None:
            data_now.HF_HUB_OFFLINE = data_before
        advice.setLevel(level)


def from_cache_first(describe: Callable[[], str]) -> str:
    """What `describe` says from the cache alone; with the hub where something is not there, and the hub answers.

    Raises:
        NotHere: where the hub does not answer.
    """
    try:
        with offline():
            return describe()
    except NotHere:
        if not _hub_answers():
            raise
    return describe()


def _hub_answers() -> bool:
    """One request, without the retries of the client, which take half a minute for each file."""
    try:
        get_session().head(constants.ENDPOINT, timeout=_PATIENCE)
    except Exception:  # which kind depends on the library beneath, and so on the client's version
        return False
    return True
