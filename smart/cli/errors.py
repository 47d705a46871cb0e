"""One clear message for every error that the user can fix."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from smart.config import UserError
from smart.config.explain import explain_composition

FULL_ERROR = "HYDRA_FULL_ERROR"


def explain(error: BaseException, config_class: type | None = None) -> str | None:
    """One message for what the user can fix; None for an internal error.

    Args:
        config_class: the command's options, which know the names that they replaced.
    """
    if isinstance(error, UserError):
        return str(error)
    if (composing := explain_composition(error, config_class)) is not None:
        return composing
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left on the disk{_at(error)}; free some, or choose another with output_root=FOLDER"
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
        return f"cannot write or read{_at(error)}: {error.strerror}; choose a folder with {_chosen_by(error)}"
    return None


def exit_code(error: BaseException) -> int:
    """3 for what the data cannot meet, 1 for everything else."""
    return error.exit_code if isinstance(error, UserError) else 1


def _chosen_by(error: OSError) -> str:
    """What names the folder: the hub's libraries keep theirs in the home folder."""
    return "HF_HOME=FOLDER (environment)" if "huggingface" in str(error.filename) else "output_root=FOLDER"


def _at(error: OSError) -> str:
    return f" at {error.filename}" if error.filename else ""


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
