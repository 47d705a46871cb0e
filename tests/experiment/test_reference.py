"""Files of published values: right, or refused with the line, everything at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from smart.config import UserError
from smart.experiment.grid import Grid
from smart.experiment.reference import read_reference

GRID = Grid.of("mine", {"select.budget": ["25k", "50k"], "select.fn": ["graphcut", "logdet"]}, seeds=(1,))
PARTS = {"mmlu": None, "heldout_text": ("exact_match", "rougeL")}
HEAD = b"metric,value,source\n"


def read(tmp_path: Path, content: bytes) -> list[tuple[str, str, str]]:
    file = tmp_path / "published.csv"
    file.write_bytes(content)
    return [(one.metric, one.value, one.source) for one in read_reference(file, GRID, PARTS)]


@pytest.mark.parametrize(
    "content",
    [
        HEAD + b"mmlu/acc,0.4,Paper\n",
        HEAD + b"\n , ,\nmmlu/acc,0.4,Paper\n,,\n",
        b"metric, value, source\nmmlu/acc, 0.4 , Paper\n",
        b"\xef\xbb\xbf" + HEAD + b"mmlu/acc,0.4,Paper\n",
        (HEAD + b"mmlu/acc,0.4,Paper\n").decode().encode("utf-16"),
        HEAD.replace(b"\n", b"\r\n") + b'"mmlu/acc","0.4","Paper"\r\n',
    ],
)
def test_what_spreadsheets_write_is_read(tmp_path: Path, content: bytes) -> None:
    assert read(tmp_path, content) == [("mmlu/acc", "0.4", "Paper")]


def test_quotes_hold_commas_breaks_and_other_scripts(tmp_path: Path) -> None:
    content = HEAD + 'mmlu/acc,-4.1e1,"Müller, 2024\u2028p. 3\nand 4"\n'.encode()
    assert read(tmp_path, content) == [("mmlu/acc", "-4.1e1", "Müller, 2024\u2028p. 3\nand 4")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n ,\n", "is empty"),
        (HEAD, "has no values under its head"),
        (b"metric;value;source\nmmlu/acc;45,1;Paper\n", "lacks the columns metric, source, value; separate"),
        (b"metric,value,value,source\n", "has the column value twice"),
        (HEAD + b"mmlu/acc,1,M\xfcller\n", "line 2: byte 0xfc is no utf-8"),
        (HEAD + b"mmlu/acc,0.4,Pa\0per\n", "line 2: has a NUL character"),
        ((HEAD + b"a,1,b\n").decode().encode("utf-16-le"), "line 1: has a NUL character"),
        (HEAD + b'mmlu/acc,0.4,"Paper\n', "line 2: unexpected end of data"),
        (HEAD + b"mmlu/acc\n", "line 2: has 1 cell, and the head has 3"),
        (HEAD + b"mmlu/acc,0.4,Smith, 2024\n", "line 2: has 4 cells, and the head has 3; put quotes"),
        (HEAD + b"mmlu/acc,,Paper\n", "line 2: value=: is no number"),
        (HEAD + b"mmlu/acc,high,Paper\n", "line 2: value=high: is no number"),
        (HEAD + b"mmlu/acc,nan,Paper\n", "line 2: value=nan: is no number"),
        (HEAD + b"mmlu/acc,0.4,\n", "line 2: has no source; say where 0.4 was published"),
        (
            HEAD + b"mmul/acc,0.4,Paper\n",
            "metric=mmul/acc: no suite of the grid has that part. Did you mean mmlu?",
        ),
        (HEAD + b"mmlu,0.4,Paper\n", "needs a part and its metric, such as mmlu/acc"),
        (HEAD + b"heldout_text/rouge,0.4,P\n", "heldout_text has no such metric. Did you mean rougeL?"),
        (b"select.budget," + HEAD + b"25000,mmlu/acc,0.4,P\n", "line 2: select.budget=25000: no row has it."),
        (b"train.epochs," + HEAD + b"2,mmlu/acc,0.4,P\n", "train.epochs does not vary in this grid"),
        (
            b"select.budget," + HEAD + b"25k,mmlu/acc,0.4,P\n\n50k,mmlu/acc,0.4,P\n25k,mmlu/acc,0.5,Q\n",
            "line 5: gives mmlu/acc 25k again, after line 2",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(UserError) as raised:
        read(tmp_path, content)
    assert str(raised.value).startswith(f"reference={tmp_path / 'published.csv'}")
    assert message in str(raised.value)


def test_everything_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        read(tmp_path, HEAD + b"mmlu/acc,high,\nmmlu/acc\nmmlu/acc,0.5,Q\n")
    assert [line.partition(":")[0] for line in str(raised.value).splitlines()[1:]] == [
        "  - line 2",
        "  - line 2",
        "  - line 3",
        "  - line 4",
    ]


def test_cases_from_outside(shared: Path) -> None:
    told: dict[str, str] = {}
    for file in sorted((shared / "cases/evaluation").glob("ref_*.csv")):
        try:
            read_reference(file, GRID, PARTS)
        except UserError as error:
            told[file.stem] = str(error)
    names = "dupe empty header_only latin1 no_value not_number nul script semicolon short_row unknown_budget"
    assert list(told) == [f"ref_{name}" for name in names.split()]
    assert all(f"{name}.csv" in text for name, text in told.items())
