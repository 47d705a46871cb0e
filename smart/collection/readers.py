"""Reading the columns that matter out of Parquet, JSONL and CSV files."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv
from pyarrow import json as arrow_json

from smart.collection.check import Fault
from smart.collection.schema import LABELS, TEXTS
from smart.config import UserError

Columns = dict[str, pa.ChunkedArray]

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.large_string())]))
_TYPES = {
    **dict.fromkeys(LABELS, pa.string()),
    **dict.fromkeys([*TEXTS, "prompt", "response"], pa.large_string()),
    "messages": _MESSAGES,
}
KNOWN = tuple(_TYPES)
LINE = "line"  # names a fault of a whole line of JSONL

# Under which names files carry the two texts; the first is preferred.
_NAMES = {"inputs": ("inputs", "prompt"), "targets": ("targets", "response")}

_BLOCK_BYTES = 1 << 24  # the longest row that Arrow's CSV and JSON readers take


def read_columns(
    path: str, renamed: Mapping[str, str], more: Sequence[str] = ()
) -> tuple[Columns, list[Fault]]:
    """The labels that a file has, and either inputs and targets or messages; with the faults seen in them.

    Args:
        renamed: what the file calls our columns; each must be there.
        more: further columns of text, which are read where the file has them.

    Raises:
        UserError: for a file that cannot be read, or lacks the texts or a column of `renamed`.
    """
    theirs = {name: name for name in more} | {ours: renamed.get(ours, ours) for ours in KNOWN}
    try:
        present, columns, faults = _READERS[suffix_of(path)](path, theirs)
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise UserError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error
    for ours, name in renamed.items():
        if name not in present:
            raise UserError(
                f"{path}: no column {name} (collection.columns.{ours}); it has: {', '.join(present)}"
            )
    used = {name: name for name in (*more, *LABELS) if name in columns} | _texts(path, columns, present)
    named = {theirs[name] for name in used.values()} | {LINE}
    return {ours: columns[name] for ours, name in used.items()}, [
        fault for fault in faults if fault.column in named
    ]


def _texts(path: str, columns: Columns, present: list[str]) -> dict[str, str]:
    """Which columns become inputs and targets; or the messages, where these two are not both there."""
    found = {ours: name for ours, names in _NAMES.items() for name in reversed(names) if name in columns}
    if len(found) < len(_NAMES) and "messages" in columns:
        return {"messages": "messages"}
    for ours, names in _NAMES.items():
        if ours not in found:
            raise UserError(
                f"{path}: no column {' or '.join(names)}, nor messages; it has: {', '.join(present) or 'none'}. "
                f"Name yours with collection.columns.{ours}=NAME"
            )
    return found


def suffix_of(path: str) -> str:
    """The suffix that tells a file's format, or "" where none of SUFFIXES fits."""
    return next((suffix for suffix in SUFFIXES if path.lower().endswith(suffix)), "")


def _read_parquet(path: str, theirs: Mapping[str, str]) -> tuple[list[str], Columns, list[Fault]]:
    present = pq.read_schema(path).names
    wanted = [name for name in dict.fromkeys(theirs.values()) if name in present]
    table = pq.read_table(path, columns=wanted, partitioning=None)
    return present, _ours(table, theirs), []


def _read_csv(path: str, theirs: Mapping[str, str]) -> tuple[list[str], Columns, list[Fault]]:
    reading = csv.ReadOptions(block_size=_BLOCK_BYTES)
    parsing = csv.ParseOptions(newlines_in_values=True)
    with csv.open_csv(path, reading, parsing) as file:
        present = file.schema.names
    wanted = [name for name in dict.fromkeys(theirs.values()) if name in present]
    # Without the types, a column of numbers would become numbers.
    converting = csv.ConvertOptions(
        include_columns=wanted, column_types=dict.fromkeys(wanted, pa.large_string())
    )
    return present, _ours(csv.read_csv(path, reading, parsing, converting), theirs), []


def _read_jsonl(path: str, theirs: Mapping[str, str]) -> tuple[list[str], Columns, list[Fault]]:
    schema = pa.schema({name: _TYPES.get(ours, pa.string()) for ours, name in theirs.items()})
    parsing = arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    faults: list[Fault] = []
    try:
        table = arrow_json.read_json(path, arrow_json.ReadOptions(block_size=_BLOCK_BYTES), parsing)
    except pa.ArrowInvalid:  # one bad value stops Arrow; line by line we can say which, and go on
        table, faults = _read_line_by_line(path, schema)
    # Arrow makes a column of nulls for what no line has.
    table = table.select([name for name in table.column_names if table[name].null_count < len(table)])
    return (
        list(dict.fromkeys([*_keys_of_first_line(path), *table.column_names])),
        _ours(table, theirs),
        faults,
    )


def _read_line_by_line(path: str, schema: pa.Schema) -> tuple[pa.Table, list[Fault]]:
    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    wrong: dict[tuple[str, str], list[tuple[int, Any]]] = {}
    for row, line in enumerate(_lines(path)):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            wrong.setdefault((LINE, "not a JSON object"), []).append((row, line))
            record = {}
        for name, values in columns.items():
            value = record.get(name)
            if value is not None and not _fits(value, schema.field(name).type):
                wrong.setdefault((name, "of the wrong type"), []).append((row, value))
                value = None
            values.append(value)
    faults = [
        Fault(name, what, np.array([row for row, _ in found]), dict(found[:3]))
        for (name, what), found in wrong.items()
    ]
    return pa.table(columns, schema), faults


def _fits(value: object, kind: pa.DataType) -> bool:
    if not pa.types.is_list(kind):
        return isinstance(value, str)
    return isinstance(value, list) and all(
        isinstance(turn, dict) and all(isinstance(turn.get(key), str | None) for key in ("role", "content"))
        for turn in value
    )


def _lines(path: str) -> Iterator[bytes]:
    with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
        yield from (line for line in file if line.strip())


def _keys_of_first_line(path: str) -> list[str]:
    try:
        record = json.loads(next(_lines(path), b""))
    except ValueError:
        return []
    return list(record) if isinstance(record, dict) else []


def _ours(table: pa.Table, theirs: Mapping[str, str]) -> Columns:
    return {ours: table[name] for ours, name in theirs.items() if name in table.column_names}


_READERS = {
    ".parquet": _read_parquet,
    ".jsonl": _read_jsonl,
    ".jsonl.gz": _read_jsonl,
    ".csv": _read_csv,
    ".csv.gz": _read_csv,
}
SUFFIXES = tuple(_READERS)
