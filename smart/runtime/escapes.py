"""Text of others inside Markdown, LaTeX and CSV, where a program would read it as more than text."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

_MARKDOWN = str.maketrans({c: f"\\{c}" for c in "\\`*[]|~"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_UNDERSCORE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")
# What OWASP names ("CSV injection"), the wide forms that spreadsheets of East Asia take for the same among it; behind
# apostrophes, so that text which begins with them is told from text that was escaped.
_FORMULA = re.compile(r"('*)[=+\-@\t\r\n＝＋－＠]")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
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


def markdown_code(text: str) -> str:
    """Text as code inside a line of Markdown, backticks of its own among it.

    >>> print(markdown_code("' '"), markdown_code("a`b"))
    `' '` `` a`b ``
    """
    ticks = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    space = " " if "`" in text else ""
    return f"{ticks}{space}{text}{space}{ticks}"


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


def text_of_csv(cell: str) -> str:
    """The text of a cell that `csv_text` made.

    >>> text_of_csv("'=a"), text_of_csv("'a"), text_of_csv(csv_text("'=a"))
    ('=a', "'a", "'=a")
    """
    return cell[1:] if cell.startswith("'") and csv_text(cell[1:]) == cell else cell


def csv_lines(rows: Iterable[Sequence[object]]) -> str:
    """A CSV file: text in it is no formula, and keeps the ends of its lines."""
    text = io.StringIO(newline="")
    # Ended so, the writer puts quotes around a carriage return, too.
    writer = csv.writer(text, lineterminator="\r\n")
    lines = []
    for row in rows:
        text.seek(0)
        text.truncate()
        writer.writerow([csv_text(cell) if isinstance(cell, str) else cell for cell in row])
        lines.append(text.getvalue().removesuffix("\r\n") + "\n")
    return "".join(lines)


def printable(text: str) -> str:
    r"""Text for a terminal, which would take control characters for commands, and turn the rest of a line around.

    >>> printable("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text == text.strip()  # a number may stand after a tab
