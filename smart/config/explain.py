"""What Hydra says about a command line, as one message with the nearest name."""

from __future__ import annotations

import re

from smart.config.errors import nearest
from smart.config.options import declared

_NOT_KEYS = ("hydra", "_target_", "_partial_", "_convert_")


def explain_composition(error: BaseException, config_class: type | None = None) -> str | None:
    """One message for what Hydra and OmegaConf refuse; None for any other error.

    Args:
        config_class: the command's options, which know the names that they replaced.
    """
    from hydra.errors import CompactHydraException, MissingConfigException
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, MissingConfigException) and error.options:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={choice}: no such {group}. {nearest(choice, error.options)}"
    if isinstance(error, CompactHydraException):
        return _explain_override(error, config_class)
    if isinstance(error, ValueError) and "integer string conversion" in str(error):
        return "a whole number on the command line has over 4,300 digits"
    if isinstance(error, OmegaConfBaseException):
        return f"configuration: {str(error).splitlines()[0]}"
    return None


def _explain_override(error: Exception, config_class: type | None) -> str:
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
            now = {old: new for new, old in (info.stored_as or {}).items()}
            values = ", ".join(f"{key}={_word(old)} is {name}={new}" for old, new in now.items())
            return f"is now {name}" + (f" ({values})" if values else "")
    return ""


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
