"""Functions compiled by numba, for rooms other than the engine, which has ways of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar, cast

import numba

log = logging.getLogger(__name__)
Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile a function that frees the interpreter, and keep it for the next start.

    numba forgets what it keeps when the file of a function changes, but not when a file does whose functions it calls:
    kernels that call each other belong in one file.
    """
    try:
        return cast("Function", numba.njit(cache=True, nogil=True)(function))
    except RuntimeError as error:
        if "no locator available" not in str(error):
            raise
        _say_that_nothing_is_kept()
        return cast("Function", numba.njit(nogil=True)(function))


@cache
def _say_that_nothing_is_kept() -> None:
    log.warning(
        "Neither the installation nor the home folder can be written to, so functions are compiled again at every"
        " start; name a folder that keeps them with NUMBA_CACHE_DIR."
    )
