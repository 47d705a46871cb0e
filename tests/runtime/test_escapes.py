"""Names of others stay text in Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smart.runtime.escapes import csv_lines, csv_text, latex, markdown, printable, text_of_csv


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


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-cmd", "@SUM(A1)", "\tx", "\r=x", "\t+1"])
def test_a_spreadsheet_sees_no_formula(text):
    assert csv_text(text) == f"'{text}"


@pytest.mark.parametrize("text", ["-0.5", "+3e4", "plain", "a=b", "", "-inf"])
def test_numbers_and_other_text_stay_as_they_are(text):
    assert csv_text(text) == text


@given(
    st.lists(
        st.lists(st.text(alphabet="'=+-@\t\r\n\"a,1;＝é", max_size=6), min_size=2, max_size=2), min_size=1
    )
)
def test_a_csv_file_gives_its_text_back_and_has_no_formula(rows):
    cells = list(csv.reader(io.StringIO(csv_lines(rows), newline="")))
    assert [[text_of_csv(cell) for cell in line] for line in cells] == rows
    for cell in (cell for line in cells for cell in line):
        assert cell[:1] not in "=+-@\t\r\n＝" or cell == "" or float(cell) is not None


def test_a_terminal_gets_no_commands():
    assert printable("a\x1b[2Jb\n\u202ec") == r"a\x1b[2Jb\n\u202ec"
    assert printable("é 日本 — ok") == "é 日本 — ok"
