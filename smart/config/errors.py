"""Errors that the user can fix, and lists of them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field

from smart.config.plurals import counted


class UserError(Exception):
    """A mistake that the user can fix. Commands print its message alone, without a traceback, and exit with 1.

    Args:
        message: what was wrong, with the value.
        hint: what to do instead.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}; {hint}" if hint else message)


class Infeasible(UserError):  # noqa: N818 - a state, as solvers call it
    """A request that the data cannot meet, such as a budget above the rows of the selected tasks.

    Commands exit with 3, so that a grid can tell such a cell from one that failed.
    """

    exit_code = 3


class ConfigError(UserError):
    """One or several values of the configuration are wrong; the message lists all of them."""


@dataclass
class Problems:
    """Collects what is wrong with a configuration, so that the user reads all of it at once.

    >>> problems = Problems()
    >>> problems.add("num_tasks", 0, "must be at least 1", "leave it null for all tasks")
    >>> problems.raise_if_any()
    Traceback (most recent call last):
    ...
    smart.config.errors.ConfigError: num_tasks=0: must be at least 1; leave it null for all tasks
    """

    found: list[str] = field(default_factory=list)

    def add(self, key: str, value: object, what: str, hint: str = "") -> None:
        """Add one wrong value.

        Args:
            what: what is wrong with it, such as "must be at least 1".
            hint: what to write instead.
        """
        self.found.append(f"{key}={_shown(value)}: {what}" + (f"; {hint}" if hint else ""))

    def raise_if_any(self) -> None:
        """Raise one ConfigError for all that was found."""
        if len(self.found) == 1:
            raise ConfigError(self.found[0])
        if self.found:
            listed = "\n".join(f"  - {problem}" for problem in self.found)
            raise ConfigError(
                f"{counted(len(self.found), 'value')} of the configuration are wrong:\n{listed}"
            )


def _shown(value: object) -> object:
    """A value as YAML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else value


def nearest(name: object, known: Iterable[str]) -> str:
    """Name what was probably meant: `Did you mean graphcut? Known: facility_location, graphcut.`"""
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1)
    return (f"Did you mean {close[0]}? " if close else "") + f"Known: {', '.join(names)}."
