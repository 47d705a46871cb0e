"""One clear message for every error that the user can fix."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from smart.config import UserError
from smart.config.explain import explain_composition

FULL_ERROR = "HYDRA_FULL_ERROR"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
_BROKEN = (errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO)
_UNSAID = (
    "inline_container",
    "PytorchStreamWriter",
    "requested and",
)  # torch and numpy leave out the system's error
_KEPT = "what was finished is kept: {}, and the same command goes on"


def explain(error: BaseException, config_class: type | None = None) -> str | None:
    """One message for what the user can fix; None for an internal error.

    Args:
        config_class: the command's options, which know the names that they replaced.
    """
    if isinstance(error, UserError):
        return str(error)
    if (composing := explain_composition(error, config_class)) is not None:
        return composing
    return next(filter(None, map(_of_the_disk, _causes(error))), None)


def _of_the_disk(error: BaseException) -> str | None:
    number, text = _errno(error), str(error)
    at = f" at {error.filename}" if isinstance(error, OSError) and error.filename else ""
    if number in _FULL:
        return f"no space left on the disk{at}; {_KEPT.format('free some')}, or choose another with output_root=FOLDER"
    if number in _FORBIDDEN:
        return f"cannot write or read{at}: {os.strerror(number)}; choose a folder with {_chosen_by(at)}"
    if number in _BROKEN:
        return f"the disk failed{at}: {os.strerror(number)}; {_KEPT.format('check it')}"
    if any(sign in text for sign in _UNSAID):
        return (
            f"a file could not be written or read ({text.splitlines()[0]}); {_KEPT.format('check the disk')}"
        )
    return None


def _errno(error: BaseException) -> int:
    """Number of a system's error, also where a library written in Rust or C++ says it in words; 0 for none."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    said = re.search(r"\((?:os error|\[?[Ee]rrno) (\d+)\]?\)|\[[Ee]rrno (\d+)\]", str(error))
    return int(said.group(1) or said.group(2)) if said else 0


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and those that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__


def exit_code(error: BaseException) -> int:
    """3 for what the data cannot meet, 1 for everything else."""
    return error.exit_code if isinstance(error, UserError) else 1


def _chosen_by(place: str) -> str:
    """What names the folder: the hub's libraries keep theirs in the home folder."""
    return "HF_HOME=FOLDER (environment)" if "huggingface" in place else "output_root=FOLDER"


@contextmanager
def full_error(value: str | None) -> Iterator[None]:
    """HYDRA_FULL_ERROR is `value` inside (None: unset), and as it was afterwards."""
    before = os.environ.get(FULL_ERROR)
    try:
        _set(value)
        yield
    finally:
        _set(before)


def _set(value: str | None) -> None:
    if value is None:
        os.environ.pop(FULL_ERROR, None)
    else:
        os.environ[FULL_ERROR] = value
