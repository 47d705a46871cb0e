"""Names of files made from names that people gave: one path component each, on every file system."""

from __future__ import annotations

import re

from smart.runtime.files import hash_bytes

LONGEST = 160
"""Bytes: file systems take 255 (143 where names are encrypted), and a draft's name is longer than its folder's."""


def file_stem(text: str) -> str:
    """A part of a file's name that a person recognises; a key behind it makes it unique.

    >>> file_stem("../my data/a"), len(file_stem("ü" * 500).encode())
    ('.._my data_a', 159)
    """
    return shortened(re.sub(r"[/\\\x00-\x1f\x7f]+", "_", text), LONGEST)


def joined(*names: str) -> str:
    """Names in one, as keys of manifests have them: (a, b/c) and (a/b, c) stay apart.

    >>> joined("niv2", "task1"), joined("a/b", "100%")
    ('niv2/task1', 'a%2Fb/100%25')
    """
    return "/".join(name.replace("%", "%25").replace("/", "%2F") for name in names)


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


def _hash(name: str) -> str:
    return hash_bytes([name.encode()])[:8]
