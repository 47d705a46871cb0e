"""What every stage's configuration needs: counts such as 25k, the nearest name, and errors that come together."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_type_hints

import smart

Result = TypeVar("Result")


class UserError(Exception):
    """A mistake that the user can mend. The commands print its message alone, without a traceback."""


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
    smart.config.ConfigError: num_tasks=0: must be at least 1; leave it null for all tasks
    """

    found: list[str] = field(default_factory=list)

    def add(self, key: str, value: object, what: str, way_out: str = "") -> None:
        shown = "null" if value is None else value
        self.found.append(f"{key}={shown}: {what}" + (f"; {way_out}" if way_out else ""))

    def check_types(self, options: object, prefix: str = "") -> None:
        """Add every field of a dataclass whose value is not of its type.

        Without it, `batch_size=abc` would end in a traceback of the first comparison.
        """
        for name, kind in get_type_hints(type(options)).items():
            value = getattr(options, name)
            if not _is_of(value, kind):
                self.add(prefix + name, value, f"must be {_kind_in_words(kind)}")

    def attempt(self, check: Callable[..., Result], *values: object) -> Result | None:
        """check(*values); its ConfigError is kept with the others, and None stands for the result."""
        try:
            return check(*values)
        except ConfigError as error:
            self.found.append(str(error))
            return None

    def raise_if_any(self) -> None:
        if len(self.found) == 1:
            raise ConfigError(self.found[0])
        if self.found:
            listed = "\n".join(f"  - {problem}" for problem in self.found)
            raise ConfigError(f"{len(self.found)} values of the configuration are wrong:\n{listed}")


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text (put it in quotes)"}


def _is_of(value: object, kind: Any) -> bool:
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool)
    if isinstance(kind, UnionType):
        return any(_is_of(value, one) for one in kind.__args__)
    return isinstance(value, kind) if kind in (bool, str, NoneType) else True


def _kind_in_words(kind: Any) -> str:
    kinds = kind.__args__ if isinstance(kind, UnionType) else (kind,)
    return " or ".join(_WORDS.get(one, "null") for one in kinds)


_UNITS = {"": 1, "k": 1_000, "m": 1_000_000, "b": 1_000_000_000}
_COUNT = re.compile(r"([+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)([kKmMbB]?)")
_PERCENT = re.compile(r"([+-]?\d+(?:\.\d+)?)%")


@dataclass(frozen=True)
class Count:
    """A number of rows, or a share of a total that is known only later."""

    text: str
    """As the user wrote it."""
    number: int | None = None
    share: Fraction | None = None

    def of(self, total: int) -> int:
        """The number of rows out of `total`; a share is rounded down, and is at least 1."""
        if self.number is not None:
            return self.number
        assert self.share is not None
        return max(1, int(self.share * total))


def parse_count(value: object, key: str = "budget") -> Count:
    """Read 25000, 25k, 1.5M, 2e5 or 5% as a count.

    Fractions are refused: 0.05 could mean 5 % or be a slip, and a mixing ratio read two ways is a wrong result.

    Raises:
        ConfigError: for anything else, with the value and the way out.

    >>> parse_count("25k").number
    25000
    >>> parse_count("5%").of(1234)
    61
    """
    text = f"{value:g}" if isinstance(value, float) else str(value)
    problems = Problems()
    examples = "write a whole number, 25k, 1.5M, 2e5 or a share of the pool such as 5%"
    percent, count = _PERCENT.fullmatch(text), _COUNT.fullmatch(text)
    if isinstance(value, bool) or not (percent or count):
        problems.add(key, value, "is not a count", examples)
    elif percent:
        share = Fraction(percent[1]) / 100
        if 0 < share <= 1:
            return Count(text, share=share)
        problems.add(key, value, "a share must be above 0% and at most 100%", examples)
    elif count:
        number = Fraction(count[1]) * _UNITS[count[2].lower()]
        if number <= 0:
            problems.add(key, value, "must be at least 1", examples)
        elif number.denominator != 1:
            meant = Fraction(count[1]) * 100 if number < 1 else Fraction(count[1])
            hint = "" if count[2] else f"did you mean {float(meant):g}%? Otherwise "
            problems.add(key, value, "is not a whole number", hint + examples)
        else:
            return Count(text, number=int(number))
    problems.raise_if_any()
    raise AssertionError("unreachable")


def nearest(name: object, known: Iterable[str]) -> str:
    """Name what was probably meant: `Did you mean graphcut? Known: facility_location, graphcut.`"""
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1)
    return (f"Did you mean {close[0]}? " if close else "") + f"Known: {', '.join(names)}."


def conf_dir() -> Path:
    """The folder of YAML files: conf/ of a clone or an editable install, or its copy inside the wheel.

    Raises:
        FileNotFoundError: where neither is there, since no command can start.
    """
    package = Path(smart.__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "select.yaml").is_file():
            return folder
    raise FileNotFoundError(f"no conf/ folder beside or inside {package}; reinstall smart")
