"""Names of others stay text in Markdown, LaTeX and CSV."""

from __future__ import annotations

import pytest

from smart.runtime.escapes import csv_text, latex, markdown


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a|b", r"a\|b"),
        ("two\n\nlines", "two lines"),
        ("<script>&", "&lt;script&gt;&amp;"),
        ("**bold** `code` ~~gone~~", r"\*\*bold\*\* \`code\` \~\~gone\~\~"),
        ("[link](javascript:x)", r"\[link\](javascript:x)"),
        ("![image](x)", r"!\[image\](x)"),
        ("snake_case __init__ _a", r"snake_case \_\_init\_\_ \_a"),
        (r"back\slash", r"back\\slash"),
    ],
)
def test_markdown_has_no_markup(text, escaped):
    assert markdown(text) == escaped


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("[1,2]", "{[}1,2{]}"),
        ("*", "{*}"),
        (r"50% & $x_1 #{}~^\ ", r"50\% \& \$x\_1 \#\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}"),
        ("<a|b>", r"\textless{}a\textbar{}b\textgreater{}"),
        ("one\n\ntwo", "one two"),
        ("0.5 ± 0.1 †", r"0.5 $\pm$ 0.1 $\dagger$"),
    ],
)
def test_latex_has_no_commands(text, escaped):
    assert latex(text) == escaped


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-cmd", "@SUM(A1)", "\tx", "\r=x"])
def test_a_spreadsheet_sees_no_formula(text):
    assert csv_text(text) == f"'{text}"


@pytest.mark.parametrize("text", ["-0.5", "+3e4", "plain", "a=b", "", "-inf"])
def test_numbers_and_other_text_stay_as_they_are(text):
    assert csv_text(text) == text
