"""One clear message for every error that the user can fix."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from smart.config import UserError, declared, nearest

FULL_ERROR = "HYDRA_FULL_ERROR"
_NOT_KEYS = ("hydra", "_target_", "_partial_", "_convert_")


def explain(error: BaseException, config_class: type | None = None) -> str | None:
    """One message for what the user can fix; None for an internal error.

    Args:
        config_class: the command's options, which know the names that they replaced.
    """
    from hydra.errors import CompactHydraException, MissingConfigException
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MissingConfigException) and error.options:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={choice}: no such {group}. {nearest(choice, error.options)}"
    if isinstance(error, CompactHydraException):
        return _explain_composition(error, config_class)
    if isinstance(error, OmegaConfBaseException):
        return f"configuration: {str(error).splitlines()[0]}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left on the disk{_at(error)}; free some, or choose another with output_root=FOLDER"
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
        return f"cannot write or read{_at(error)}: {error.strerror}; choose a folder with output_root=FOLDER"
    return None


def exit_code(error: BaseException) -> int:
    """3 for what the data cannot meet, 1 for everything else."""
    return error.exit_code if isinstance(error, UserError) else 1


def _explain_composition(error: Exception, config_class: type | None) -> str:
    from omegaconf import DictConfig

    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    unknown = re.match(r"Could not override '([^']+)'", lines[0]) if lines else None
    if not unknown:
        return " ".join(lines) + (f" ({error.__cause__})" if error.__cause__ else "")
    key = unknown[1]
    if config_class is not None and (hint := _replaced(config_class, key)):
        return f"{key}: {hint}"
    parent, _, last = key.rpartition(".")
    node = getattr(error.__cause__, "parent_node", None)
    known = [str(name) for name in node if name not in _NOT_KEYS] if isinstance(node, DictConfig) else []
    return f"{key}: no such key{f' in {parent}' if parent else ''}. {nearest(last, known)}"


def _replaced(config_class: type, key: str) -> str:
    """What took the place of an old option, and how its values are written now."""
    for name, (_, info) in declared(config_class).items():
        if info.replaces == key:
            values = ", ".join(
                f"{key}={_word(old)} is {name}={new}" for new, old in (info.stored_as or {}).items()
            )
            return f"is now {name}" + (f" ({values})" if values else "")
    return ""


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


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
