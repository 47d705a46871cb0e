"""Files of rows: what is read is what was written, or the row is named."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smart.config import UserError
from smart.reading import (
    JSON,
    TEXT,
    TEXTS,
    Rows,
    distinct,
    json_rows,
    parsed,
    read,
    scan,
    suffix_of,
)

Texts = list[dict[str, Any]]
KINDS = {"inputs": TEXT, "targets": TEXT}


def as_jsonl(rows: Texts) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_raw_jsonl(rows: Texts) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_array(rows: Texts) -> bytes:
    return json.dumps(rows, indent=1).encode()


def as_pretty(rows: Texts) -> bytes:
    return "\n".join(json.dumps(row, indent=2) for row in rows).encode()


def as_csv(rows: Texts, delimiter: str = ",") -> bytes:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, ["inputs", "targets"], delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def as_bare_csv(rows: Texts) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, ["inputs", "targets"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def as_parquet(rows: Texts) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


def as_arrow_file(rows: Texts) -> bytes:
    table, file = pa.Table.from_pylist(rows), io.BytesIO()
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    return file.getvalue()


def as_arrow_stream(rows: Texts) -> bytes:
    table, file = pa.Table.from_pylist(rows), io.BytesIO()
    with pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    return file.getvalue()


WRITERS: dict[str, Callable[[Texts], bytes]] = {
    "a.jsonl": as_jsonl,
    "raw.ndjson": as_raw_jsonl,
    "array.json": as_array,
    "pretty.jsonl": as_pretty,
    "a.csv": as_csv,
    "bare.csv": as_bare_csv,
    "a.tsv": lambda rows: as_csv(rows, "\t"),
    "a.parquet": as_parquet,
    "a.feather": as_arrow_file,
    "stream.arrow": as_arrow_stream,
}

LOOK_LIKE_SOMETHING = [
    *(
        "True",
        "false",
        "null",
        "None",
        "NaN",
        "nan",
        "-inf",
        "NULL",
        "NA",
        "#N/A",
        "",
        " ",
        "007",
        "0.50",
        "1e5",
        "-0",
    ),
    *(
        "12:30",
        "1969-07-20",
        "1969-07-20 00:00:00",
        "2020-01-01T00:00:00Z",
        "1,5",
        '"',
        '""',
        "'",
        "\\",
        '\\"',
        "\\n",
    ),
    *(
        "\r\n",
        "\n",
        "\r",
        "a\r\nb",
        "\t",
        "\0",
        "\x1a",
        "\x7f",
        "\x85",
        "\u2028",
        "\ufeff",
        "\ufeffa",
        "\ufffd",
        "=1+1",
    ),
    *(
        "9" * 400,
        "😀",
        "e\u0301",
        "{",
        '{"a": 1}',
        '"inputs":',
        '", "inputs": "',
        "[1]",
        "inputs,targets",
        "a\tb",
    ),
]
texts = st.one_of(
    st.sampled_from(LOOK_LIKE_SOMETHING),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.lists(st.sampled_from(LOOK_LIKE_SOMETHING), max_size=4).map("".join),
)


def put(folder: Path, name: str, content: bytes) -> str:
    path = folder / name
    path.write_bytes(content)
    return str(path)


def content_of(rows: Rows) -> Texts:
    return pa.table(rows.columns).to_pylist()


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.fixed_dictionaries({"inputs": texts, "targets": texts}), min_size=1, max_size=6))
def test_text_comes_out_as_it_went_in(tmp_path: Path, rows: Texts) -> None:
    for name, write in WRITERS.items():
        if name == "bare.csv" and any("\r" in text for row in rows for text in row.values()):
            continue  # that writer leaves a lone \r outside quotes
        found = read(put(tmp_path, name, write(rows)), KINDS)
        assert content_of(found) == rows, name
        assert not found.faults, name
        assert found.count == len(rows)


ROWS = [{"inputs": text, "targets": f"é{number}"} for number, text in enumerate(LOOK_LIKE_SOMETHING)]


@pytest.mark.parametrize("name", WRITERS)
def test_blocks_are_cut_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A block's border, whatever it falls on, changes nothing; the batches are small."""
    if name == "bare.csv":
        return
    whole = WRITERS[name](ROWS)
    path = put(tmp_path, name, whole)
    for size in (1, 7, 64):
        monkeypatch.setattr(json_rows, "BLOCK_BYTES", size)
        monkeypatch.setattr("smart.reading.csv_rows.BLOCK_BYTES", size)
        assert content_of(read(path, KINDS)) == ROWS
        batches = [batch.count for batch in scan(path, KINDS) if batch.count]
        assert sum(batches) == len(ROWS)
        if size == 1 and "parquet" not in name and "arrow" not in name and "feather" not in name:
            assert set(batches) == {1}


def test_a_file_is_read_batch_by_batch(tmp_path: Path) -> None:
    """Of 60 MB, no more than a few blocks are held at once."""
    line = json.dumps({"inputs": "word " * 20_000, "targets": "a"}).encode() + b"\n"
    path = put(tmp_path, "long.jsonl", line * 600)
    before, most = pa.total_allocated_bytes(), 0
    for batch in scan(path, KINDS):
        most = max(most, pa.total_allocated_bytes() - before)
        assert batch.count < 300
    assert most < 3 * parsed.BLOCK_BYTES


PACKED: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: pa.Codec("zstd").compress(content, asbytes=True),
}


@pytest.mark.parametrize("packing", PACKED)
def test_packed_files_and_upper_case(tmp_path: Path, packing: str) -> None:
    for name in ("a.jsonl", "a.csv", "array.json"):
        packed = PACKED[packing](WRITERS[name](ROWS))
        assert content_of(read(put(tmp_path, (name + packing).upper(), packed), KINDS)) == ROWS
        with pytest.raises(UserError, match="cannot be read"):
            read(put(tmp_path, name + packing, packed[: len(packed) // 2]), KINDS)
        with pytest.raises(UserError, match="cannot be read"):
            read(put(tmp_path, name + packing, b"no such thing"), KINDS)


def test_suffixes() -> None:
    assert [
        suffix_of(name) for name in ("x/A.JSONL.GZ", "a.csv.zst", "a.parquet", "a.txt", "jsonl", "a.jsonl/x")
    ] == [*(".jsonl.gz", ".csv.zst", ".parquet", "", "", "")]
    assert suffix_of("a.parquet.gz") == ""


def jsonl(*lines: bytes) -> bytes:
    return b"\n".join(lines) + b"\n"


GOOD = b'{"inputs": "q", "targets": "a"}'
DEEP = b"[" * 5000 + b"]" * 5000
BAD_LINES = {
    b"null": "line: not a JSON object",
    b"[1]": "line: not a JSON object",
    b'{"inputs": "q"': "line: not a JSON object",
    b"{'inputs': 'q'}": "line: not a JSON object",
    b'{"inputs": "q", "targets": "a", "inputs": "b"}': "line: two keys of one name",
    b'{"inputs" : "q", "targets" : "a", "inputs" : "b"}': "line: two keys of one name",
    b'{"inputs": "q", "targets": "a", "x": {"y": 1, "y": 2}}': "line: two keys of one name",
    b'{"inputs": "q", "targets": "a", "x": ' + DEEP + b"}": "line: nested too deeply",
    b'{"inputs": "q", "targets": "a", "x": ' + b"9" * 5000 + b"}": "line: a number of more than 4,000 digits",
    b'{"inputs": "q", "targets": "\xe9"}': "targets: invalid UTF-8",
    b'{"inputs": "\xed\xa0\x80", "targets": "a"}': "inputs: invalid UTF-8",
    b'{"inputs": "\\ud83d", "targets": "a"}': "inputs: half a character (a lone surrogate)",
    b'{"inputs": "q", "targets": 5}': "targets: number instead of text",
    b'{"inputs": "q", "targets": NaN}': "targets: number instead of text",
    b'{"inputs": true, "targets": "a"}': "inputs: true or false instead of text",
    b'{"inputs": ["q"], "targets": "a"}': "inputs: list instead of text",
    b'{"inputs": {"q": 1}, "targets": "a"}': "inputs: object instead of text",
}


@pytest.mark.parametrize("line", BAD_LINES, ids=lambda line: line[:24].decode(errors="replace"))
@pytest.mark.parametrize("place", [0, 2])
def test_a_bad_line_is_named_and_the_others_are_read(tmp_path: Path, line: bytes, place: int) -> None:
    lines = [GOOD, GOOD, GOOD]
    lines.insert(place, line)
    rows = read(put(tmp_path, "a.jsonl", jsonl(*lines)), KINDS)
    (fault,) = rows.faults
    assert fault.reason == BAD_LINES[line]
    assert fault.rows.tolist() == [place]
    assert rows.count == 4
    kept = [row for number, row in enumerate(content_of(rows)) if number != place]
    assert kept == [{"inputs": "q", "targets": "a"}] * 3


def test_what_no_column_needs_may_be_anything_that_json_is(tmp_path: Path) -> None:
    lines = [
        b'{"inputs": "q", "targets": "a", "x": %s}' % x for x in (b"NaN", b"1e999", b"9" * 3000, b'{"y": []}')
    ]
    assert not read(put(tmp_path, "a.jsonl", jsonl(*lines)), KINDS).faults


@pytest.mark.parametrize("name", ["a.jsonl", "array.json", "a.csv"])
def test_a_mark_of_utf8_is_no_text(tmp_path: Path, name: str) -> None:
    assert content_of(read(put(tmp_path, name, codecs.BOM_UTF8 + WRITERS[name](ROWS)), KINDS)) == ROWS


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_other_encodings_are_refused_by_name(tmp_path: Path, encoding: str, name: str) -> None:
    path = put(tmp_path, name, WRITERS[name](ROWS).decode().encode(encoding))
    with pytest.raises(UserError, match=f"is UTF-{encoding[4:6]}.*iconv -f UTF-{encoding[4:6]} -t UTF-8"):
        read(path, KINDS)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'[{"inputs": "q"}, {"inputs": ]', "row 1 .* is no JSON: Expecting value, character 29"),
        (b'[{"inputs": "q"} {"inputs": "q"}]', "row 1 .*',' is missing"),
        (b'[{"inputs": "q"}, {"inputs": "q"}', "row 2 .*',' is missing"),
        (b'[{"inputs": "q"}] 5', "something stands after the array"),
        (b'[{"inputs": "q", "inputs": "r"}]', "row 0 .*two keys of one name"),
        (b'[{"inputs": ' + DEEP + b"}]", "row 0 .*nested too deeply"),
    ],
)
def test_a_broken_array_is_refused_with_the_row(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read(put(tmp_path, "a.json", content), KINDS)


def test_an_array_may_hold_rows_that_are_none(tmp_path: Path) -> None:
    rows = read(put(tmp_path, "a.json", b'[{"inputs": "q"}, 5, {"inputs": 3}]'), KINDS)
    assert [str(fault) for fault in rows.faults] == [
        "line: not a JSON object in 1 row: 1 (5)",
        "inputs: number instead of text in 1 row: 2 (3)",
    ]


def test_csv_with_wrong_lines(tmp_path: Path) -> None:
    rows = read(
        put(tmp_path, "a.csv", b'inputs,targets\nq,a\nq\n"a\r\nb",\xe9\n\n"He\\", \\"said",b\nq,a\n'), KINDS
    )
    assert {fault.reason: fault.rows.tolist() for fault in rows.faults} == {
        "line: 1 field instead of 2": [1],
        "line: 3 fields instead of 2": [3],
        "targets: invalid UTF-8": [2],
    }
    assert rows.columns["inputs"].to_pylist() == ["q", None, "a\r\nb", None, "q"]


@pytest.mark.parametrize(
    "content",
    [
        b'inputs,targets\n"He said \\"hi\\"",x\n',
        b'inputs,targets\n"open,x\n',
    ],
)
def test_csv_whose_quotes_nobody_can_be_sure_of(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UserError, match=r"line 2: .*quotes inside are doubled"):
        read(put(tmp_path, "a.csv", content), KINDS)


def test_long_fields_of_csv(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    rows = [{"inputs": "x" * 1_000_000, "targets": "a"}]
    assert content_of(read(put(tmp_path, "a.csv", as_csv(rows)), KINDS)) == rows
    assert csv.field_size_limit() == limit


def twins(names: Iterable[str]) -> pa.Table:
    return pa.Table.from_arrays([pa.array(["x"])] * 3, names=list(names))


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    pq.write_table(twins(["inputs", "targets", "inputs"]), tmp_path / "a.parquet")
    for path in (put(tmp_path, "a.csv", b"inputs,targets,inputs\n1,2,3\n"), str(tmp_path / "a.parquet")):
        with pytest.raises(UserError, match="has 2 columns called inputs"):
            read(path, KINDS)
    pq.write_table(twins(["inputs", "x", "x"]), tmp_path / "b.parquet")
    assert content_of(read(str(tmp_path / "b.parquet"), KINDS)) == [{"inputs": "x"}]


def invalid(values: list[bytes | None]) -> pa.Array:
    """Text whose bytes may be no UTF-8."""
    data = pa.array(values, pa.binary())
    return pa.StringArray.from_buffers(len(data), data.buffers()[1], data.buffers()[2], data.buffers()[0])


@pytest.mark.parametrize("encode", [False, True])
def test_parquet_whose_text_is_no_utf8(tmp_path: Path, encode: bool) -> None:
    column = invalid([b"good", b"caf\xe9", None, b"\xed\xa0\x80", b"x"])
    column = column.dictionary_encode() if encode else column
    pq.write_table(
        pa.table({"inputs": column, "targets": ["a"] * 5}), tmp_path / "a.parquet", row_group_size=2
    )
    rows = read(str(tmp_path / "a.parquet"), KINDS)
    (fault,) = rows.faults
    assert str(fault) == r"inputs: invalid UTF-8 in 2 rows: 1 (b'caf\xe9'), 3 (b'\xed\xa0\x80')"
    assert rows.columns["inputs"].to_pylist() == ["good", None, None, None, "x"]


def test_other_types_where_text_is_due(tmp_path: Path) -> None:
    pq.write_table(pa.table({"inputs": [1, 2], "targets": [b"a", b"b"]}), tmp_path / "a.parquet")
    rows = read(str(tmp_path / "a.parquet"), KINDS)
    assert [fault.reason for fault in rows.faults] == [
        "inputs: int64 instead of text",
        "targets: binary instead of text",
    ]


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_class_labels_are_read_by_their_names(tmp_path: Path, suffix: str) -> None:
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"inputs": Value("string"), "targets": ClassLabel(names=["no", "yes"])})
    rows = Dataset.from_dict({"inputs": ["a", "b", "c"], "targets": [1, 0, -1]}, features=features)
    table = rows.with_format("arrow")[:].replace_schema_metadata(features.arrow_schema.metadata)
    path = tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_stream(str(path), table.schema) as writer:
            writer.write_table(table)
    assert read(str(path), KINDS).columns["targets"].to_pylist() == ["yes", "no", None]


@pytest.mark.parametrize("metadata", [b"[", b"{}", b'{"info": {"features": {"targets": 5}}}', b"[" * 5000])
def test_strange_metadata_says_nothing(tmp_path: Path, metadata: bytes) -> None:
    table = pa.table({"inputs": ["a"], "targets": [1]}).replace_schema_metadata({"huggingface": metadata})
    pq.write_table(table, tmp_path / "a.parquet")
    assert [fault.what for fault in read(str(tmp_path / "a.parquet"), KINDS).faults] == [
        "int64 instead of text"
    ]


NESTED: list[dict[str, Any]] = [
    {
        "messages": [
            {"role": "user", "content": "é"},
            {"role": "assistant", "content": None, "tool_calls": [{"x": 1}]},
        ]
    },
    {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "007"}]}],
        "id": 12345678901234567890,
    },
    {"messages": None, "id": "a"},
    {"id": 0.5},
]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_nested_values_keep_all_they_have(tmp_path: Path, name: str) -> None:
    path = put(tmp_path, name, json.dumps(NESTED).encode() if name == "a.json" else as_jsonl(NESTED))
    rows = read(path, {"messages": JSON, "id": JSON})
    assert rows.names == ["messages", "id"]
    for column in ("messages", "id"):
        found = [None if text is None else json.loads(text) for text in rows.columns[column].to_pylist()]
        assert found == [row.get(column) for row in NESTED]


def test_nested_values_of_parquet_as_json(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(NESTED[:1]), tmp_path / "a.parquet")
    rows = read(str(tmp_path / "a.parquet"), {"messages": JSON})
    messages = json.loads(rows.columns["messages"].to_pylist()[0])
    assert [turn.get("content") for turn in messages] == ["é", None], "a null of a struct is no field"
    assert messages[1]["tool_calls"] == [{"x": 1}]


def test_what_json_cannot_hold_is_a_fault(tmp_path: Path) -> None:
    rows = read(
        put(tmp_path, "a.jsonl", jsonl(b'{"x": NaN}', b'{"x": ["\\ud83d"]}', b'{"x": 1}')), {"x": JSON}
    )
    assert sorted(row for fault in rows.faults for row in fault.rows.tolist()) == [0, 1]
    assert rows.columns["x"].to_pylist()[2] == "1"


def test_lists_of_texts(tmp_path: Path) -> None:
    values: list[Any] = [["a", "b"], None, "ab", [1], []]
    rows = read(put(tmp_path, "a.jsonl", as_jsonl([{"x": value} for value in values])), {"x": TEXTS})
    assert rows.columns["x"].to_pylist() == [["a", "b"], None, None, None, []]
    assert [row for fault in rows.faults for row in fault.rows.tolist()] == [2, 3]
    pq.write_table(pa.table({"x": ["ab", None]}), tmp_path / "a.parquet")
    (fault,) = read(str(tmp_path / "a.parquet"), {"x": TEXTS}).faults
    assert str(fault) == "x: string instead of a list of texts in 1 row: 0 ('ab')"


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.jsonl.gz", "a.tsv"])
@pytest.mark.parametrize("content", [b"", b"\n", b"\r\n \n"])
def test_files_without_rows(tmp_path: Path, name: str, content: bytes) -> None:
    if name.startswith("a.csv") and b" " in content:
        return
    rows = read(put(tmp_path, name, gzip.compress(content) if name.endswith("gz") else content), KINDS)
    assert rows.count == 0 or name.endswith("sv")


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.feather"])
@pytest.mark.parametrize("content", [b"", b"PAR1", b"ARROW1", bytes(range(100, 200))])
def test_what_is_no_columnar_file(tmp_path: Path, name: str, content: bytes) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read(put(tmp_path, name, content), KINDS)


def test_a_column_of_nulls_is_there(tmp_path: Path) -> None:
    rows = read(put(tmp_path, "a.jsonl", jsonl(b'{"inputs": "q", "targets": null}')), KINDS)
    assert rows.columns["targets"].to_pylist() == [None]
    rows = read(put(tmp_path, "a.jsonl", jsonl(b'{"inputs": "q"}')), KINDS)
    assert "targets" not in rows.columns


def test_a_file_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path, "a.jsonl", jsonl(GOOD))

    def scan_and_replace(*arguments: Any) -> Iterator[Any]:
        yield from scan(*arguments)
        os.replace(put(tmp_path, "b.jsonl", jsonl(GOOD)), path)

    monkeypatch.setattr("smart.reading.reader.scan", scan_and_replace)
    with pytest.raises(UserError, match=r"a.jsonl: has changed while it was read"):
        read(path, KINDS)


def test_each_file_once_behind_links(tmp_path: Path) -> None:
    one, other = put(tmp_path, "b.jsonl", b"1"), put(tmp_path, "c.jsonl", b"1")
    os.symlink(one, tmp_path / "a.jsonl")
    os.link(other, tmp_path / "d.jsonl")
    os.symlink(tmp_path, tmp_path / "loop")
    everything = [
        *tmp_path.glob("*.jsonl"),
        *tmp_path.glob("loop/*.jsonl"),
        *tmp_path.glob("loop/loop/*.jsonl"),
    ]
    assert distinct(map(str, everything)) == [one, other]
    assert distinct([str(tmp_path / "a.jsonl")]) == [str(tmp_path / "a.jsonl")]
