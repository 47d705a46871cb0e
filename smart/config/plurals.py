"""Counts as messages say them."""

from __future__ import annotations

import re


def counted(number: int, noun: str) -> str:
    """A number before what it counts, as in every message.

    >>> counted(1, "prompt"), counted(25_000, "row"), counted(0, "process"), counted(2, "entry")
    ('1 prompt', '25,000 rows', '0 processes', '2 entries')
    """
    if number == 1:
        return f"1 {noun}"
    stem = re.sub(r"(?<=[^aeiou])y$", "ie", noun)
    return f"{number:,} {stem}{'es' if re.search('(s|x|z|ch|sh)$', stem) else 's'}"
