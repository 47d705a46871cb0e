"""Words of a command line that read back as they were: by Hydra's grammar, then by a shell."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PLAIN = re.compile(r"[A-Za-z0-9_./:+@%-]+")
_NO_TEXT = re.compile(r"null|true|false|[+-]?(nan|inf|[0-9_.]+(e[+-]?[0-9_]+)?)", re.IGNORECASE)


def shell_line(program: str, *words: str, **options: object) -> str:
    """A line that can be pasted into a shell, whatever its values hold.

    Args:
        program: as it stands, such as "python train.py".
        words: what follows it, as the program gets them.
        options: key → value, of which text and paths are taken for themselves: nothing in them is interpolated.

    >>> print(shell_line("python train.py", mixture=Path("my mixtures/a=b"), model="tiny_llama"))
    python train.py 'mixture='"'"'my mixtures/a=b'"'"'' model=tiny_llama
    """
    return " ".join(
        [program, *map(shlex.quote, [*words, *(f"{k}={literal(v)}" for k, v in options.items())])]
    )


def literal(value: object) -> str:
    """As `spell`, but text stays text: what looks like a number, a boolean or an interpolation is none.

    >>> literal([1, "1", "${x}"])
    "[1,'1','\\\\${x}']"
    """
    if isinstance(value, list | tuple):
        return f"[{','.join(literal(item) for item in value)}]"
    if isinstance(value, Path):
        text = str(value)
        value = f"./{text}" if text.startswith("~") else text  # a folder of that name, and nobody's home
    if isinstance(value, str) and _NO_TEXT.fullmatch(value):
        return quoted(value)
    return spell(re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value)


def spell(value: Any) -> str:
    """A value as Hydra's command line reads it. Text of a grid: "10" is as good as 10, and interpolations are resolved.

    >>> spell([1, "1", None, "5%", "a b"])
    "[1,1,null,5%,'a b']"
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(spell(item) for item in value)}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{spell(item)}" for key, item in value.items()) + "}"
    if not isinstance(value, str):
        return str(value)
    return value if _PLAIN.fullmatch(value) else quoted(value)


def quoted(text: str) -> str:
    """Text in Hydra's quotes, where backslashes before a quote, and at the end, are doubled."""
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)
    return "'" + re.sub(r"(\\+)$", r"\1\1", escaped) + "'"
