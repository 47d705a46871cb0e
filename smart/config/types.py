"""Field types of options, and how messages describe them."""

from __future__ import annotations

import os
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator, AllowInfNan, BeforeValidator

from smart.config.counts import Count, parse_count
from smart.config.errors import ConfigError


def as_path(value: object) -> object:
    """Text, or the number that names a folder, as a path; empty text as null."""
    if value == "":
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return Path(str(value))  # a folder may be named by a number
    # Not Path.expanduser, to which ./~ is the home folder too, and the home of nobody an error.
    return Path(os.path.expanduser(value)) if isinstance(value, str) else value


def as_tuple(value: object) -> object:
    """A list as a tuple."""
    return tuple(value) if isinstance(value, list) else value


def _count(value: object) -> Count:
    if isinstance(value, Count):
        return value
    try:
        return parse_count(value, "")
    except ConfigError as error:
        raise ValueError(str(error).partition(": ")[2]) from error


def _rows(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value == 0:
        return 0
    count = _count(value)
    if count.number is None:
        raise ValueError("must be a number of rows")
    return count.number


def _size(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 10**9:
        return value  # bytes, as an option holds them
    match = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) ?G(i?)B", value) if isinstance(value, str) else None
    number = round(float(match[1]) * (1 << 30 if match[2] else 10**9)) if match else 0
    if number < 10**9:
        raise ValueError("must be a number of gigabytes with its unit, such as 24GB or 80GB")
    return number


def _component(value: str) -> str:
    if not value.strip() or re.search(r"[/\\\x00-\x1f\x7f]", value) or value in (".", ".."):
        raise ValueError("names files, so it must be one name without a slash")
    if len(value.encode()) > 100:
        raise ValueError("names files, so it must have at most 100 bytes")
    return value


Whole = Annotated[int, Ge(0)]
Positive = Annotated[int, Ge(1)]
Seed = Annotated[int, Ge(0), Le(2**32 - 1)]
Number = Annotated[float, AllowInfNan(False)]
PositiveNumber = Annotated[float, Gt(0), AllowInfNan(False)]
Share = Annotated[float, Ge(0), Lt(1)]
Folder = Annotated[Path, BeforeValidator(as_path)]
"""A path, from text."""
Gigabytes = Annotated[int, BeforeValidator(_size)]
"""A number of bytes, from 24GB (powers of 1000) or 24GiB (of 1024)."""
Names = Annotated[tuple[str, ...], BeforeValidator(as_tuple)]
"""A tuple of texts, from a list."""
Name = Annotated[str, AfterValidator(_component)]
"""One component of a path."""
Rows = Annotated[Any, BeforeValidator(_rows)]
"""A number of rows as an int, from 2000 or 2k; 0 for none."""
RowCount = Annotated[Any, BeforeValidator(_count)]
"""A Count: rows, or a share of the pool."""

_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text (put it in quotes)",
    Path: "a path",
    type(None): "null",
}
_BOUNDS = {Ge: ("ge", "at least"), Gt: ("gt", "above"), Le: ("le", "at most"), Lt: ("lt", "below")}


def describe(kind: Any) -> str:
    """A type in words: "a whole number, at least 1, or null"."""
    if get_origin(kind) in (Union, types.UnionType):
        parts = [describe(one) for one in get_args(kind)]
        return ", ".join(parts[:-1]) + (", or " if any("," in part for part in parts) else " or ") + parts[-1]
    if get_origin(kind) is Annotated:
        inner, *marks = get_args(kind)
        bounds = [
            f"{word} {getattr(mark, name)}"
            for mark in marks
            for cls, (name, word) in _BOUNDS.items()
            if isinstance(mark, cls)
        ]
        return ", ".join([describe(inner), *bounds])
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if get_origin(kind) in (list, tuple, Sequence):
        inner = [one for one in get_args(kind) if one is not ...]
        return f"a list of {_plural(inner[0])}" if inner else "a list"
    if get_origin(kind) in (dict, Mapping):
        held = [one for one in get_args(kind)[1:] if one is not Any]
        return f"a mapping to {_plural(held[0])}" if held else "a mapping"
    if is_dataclass(kind):
        return "a mapping of options"
    return _WORDS.get(kind, getattr(kind, "__name__", str(kind)))


def _plural(kind: Any) -> str:
    if get_origin(kind) in (list, tuple, Sequence):
        return f"lists of {_plural(get_args(kind)[0])}"
    words = {str: "texts", int: "whole numbers", float: "numbers"}
    return words.get(kind, "values")
