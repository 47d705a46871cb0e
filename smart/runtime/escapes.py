"""Text of others inside Markdown, LaTeX and CSV, where a program would read it as more than text."""

from __future__ import annotations

import re

_MARKDOWN = str.maketrans({c: f"\\{c}" for c in "\\`*[]|~"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_UNDERSCORE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")
_FORMULA = re.compile(r"[=+\-@\t\r]")
_TEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    # After a line's end, a bracket would be read as a length, and an asterisk as a part of the command.
    | {c: f"{{{c}}}" for c in "[]*"}
    | {
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "±": r"$\pm$",
        "≤": r"$\leq$",
        "≥": r"$\geq$",
        "†": r"$\dagger$",
        "−": "$-$",
        "→": r"$\to$",
        "…": r"\dots{}",
        "×": r"$\times$",
    }
)


def markdown(text: str) -> str:
    """Text on one line of Markdown: no markup, no HTML, no end of a table's cell.

    >>> print(markdown("a|b *c* <b> snake_case __init__"))
    a\\|b \\*c\\* &lt;b&gt; snake_case \\_\\_init\\_\\_
    """
    return _UNDERSCORE.sub(r"\\_", " ".join(text.split()).translate(_MARKDOWN))


def latex(text: str) -> str:
    """Text on one line of LaTeX.

    >>> print(latex("[50 %]"))
    {[}50 \\%{]}
    """
    return " ".join(text.split()).translate(_TEX)


def csv_text(text: str) -> str:
    """Text in a cell of a CSV file that no spreadsheet takes for a formula: an apostrophe before it.

    >>> csv_text("=cmd|' /C calc'!A0"), csv_text("-0.5")
    ("'=cmd|' /C calc'!A0", '-0.5')
    """
    return f"'{text}" if _FORMULA.match(text) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
