"""Counts as people write them: 25000, 25k, 1.5M, 2e5, or a share of a total such as 5%."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from smart.config.errors import Problems

_UNITS = {"": 1, "k": 1_000, "m": 1_000_000, "b": 1_000_000_000}
# Digits are bounded: a number of a million digits, or with such an exponent, would take for ever to be a fraction.
_DIGITS = r"[+-]?[0-9]{1,18}(?:\.[0-9]{1,18})?"
_COUNT = re.compile(rf"({_DIGITS}(?:[eE][+-]?[0-9]{{1,2}})?)([kKmMbB]?)")
_PERCENT = re.compile(rf"({_DIGITS})%")


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

    Fractions and 1.0, however written, are refused: 0.05 could mean 5 % or be a slip, and a mixing ratio read two ways
    is a wrong result.

    Raises:
        ConfigError: for anything else, with the value and a hint.

    >>> parse_count("25k").number
    25000
    >>> parse_count("5%").of(1234)
    61
    """
    text = _spelled(value) if isinstance(value, float) else str(value)
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
        elif number.denominator != 1 or (number == 1 and not _is_plain_one(value)):
            meant = Fraction(count[1]) * 100 if number <= 1 else Fraction(count[1])
            hint = "" if count[2] else f"did you mean {float(meant):g}%? Otherwise "
            problems.add(key, value, "is not a whole number of rows", hint + examples)
        else:
            return Count(text, number=int(number))
    problems.raise_if_any()
    raise AssertionError("unreachable")


def _spelled(value: float) -> str:
    """Six digits where they say it all (2e+06), else every digit."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value).removesuffix(".0")


def _is_plain_one(value: object) -> bool:
    """1 is a row; 1.0, 1.00, 1e0 and 0.001k may be meant as a share."""
    return not isinstance(value, float) and str(value).lstrip("+").isdigit()
