"""Names of files made from names that people gave: one path component each, on every file system."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from smart.runtime.files import hash_bytes

LONGEST = 160
"""Bytes: file systems take 255 (143 where names are encrypted), and a draft's name is longer than its folder's."""


def file_stem(text: str) -> str:
    """A part of a file's name that a person recognises; a key behind it makes it unique.

    >>> file_stem("../my data/a"), len(file_stem("ü" * 500).encode())
    ('.._my data_a', 159)
    """
    return shortened(re.sub(r"[/\\\x00-\x1f\x7f]+", "_", text), LONGEST)


def unique_stems(names: Sequence[str]) -> list[str]:
    """A stem of letters, digits and _ for each name; a hash is added where two would share one, or it is too long.

    File systems that ignore case, or compose accents, take two stems for one that look different here.

    >>> unique_stems(["a b", "c"])
    ['a_b', 'c']
    >>> unique_stems(["a b", "a-b", "A_b"])
    ['a_b-ff588194', 'a_b-9fc33335', 'A_b-7d42d247']
    """
    stems = [re.sub(r"\W+", "_", name) for name in names]
    seen = Counter(map(_as_file_systems_see_it, stems))
    return [
        stem
        if seen[_as_file_systems_see_it(stem)] == 1 and len(stem.encode()) <= LONGEST
        else f"{shortened(stem, LONGEST - 9)}-{_hash(name)}"
        for stem, name in zip(stems, names, strict=True)
    ]


def artifact_name(text: str) -> str:
    """A name that Weights & Biases takes for an artifact: at most 128 of its letters; a hash for what is lost."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", text)
    return text if plain == text and len(text) <= 128 else f"{shortened(plain, 119)}-{_hash(text)}"


def shortened(text: str, longest: int) -> str:
    """Text of at most so many bytes: the middle is left out, since names differ at their ends."""
    whole = text.encode()
    if len(whole) <= longest:
        return text
    half = (longest - 3) // 2
    return f"{whole[:half].decode(errors='ignore')}...{whole[-half:].decode(errors='ignore')}"


def _as_file_systems_see_it(stem: str) -> str:
    return unicodedata.normalize("NFKC", stem).casefold()


def _hash(name: str) -> str:
    return hash_bytes([name.encode()])[:8]
