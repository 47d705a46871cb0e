"""CSV and TSV: a header, then a record a line, quotes doubled inside quoted fields (RFC 4180)."""

from __future__ import annotations

import contextlib
import csv
import io
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from smart.config import UserError, counted
from smart.reading.faults import faults_of
from smart.reading.files import head_of, open_text, suffix_of
from smart.reading.parsed import BLOCK_BYTES, LINE, Parsed, blocks


def parse_csv(path: str, wanted: Sequence[str]) -> Iterator[Parsed]:
    """The records of a file; blank lines are none.

    Raises:
        UserError: for UTF-16, and for quotes that no reader could be sure of.
    """
    head_of(path)
    delimiter = "\t" if suffix_of(path).startswith(".tsv") else ","
    with open_text(path) as stream, _long_fields():
        # Bytes that are no UTF-8 become surrogates, so that row and column are known.
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        records = csv.reader(text, delimiter=delimiter, strict=True)
        try:
            yield from _parse(records, wanted)
        except csv.Error as error:
            raise UserError(
                f"{path}: cannot be read: line {records.line_num:,}: {error}. A quoted field must end with its quote, "
                'and quotes inside are doubled (""), not escaped by a backslash; write it so, or as JSONL or Parquet'
            ) from error


def _parse(records: Iterator[list[str]], wanted: Sequence[str]) -> Iterator[Parsed]:
    names = next((record for record in records if record), [])
    places = {name: names.index(name) for name in wanted if name in names}
    for block in blocks(((record, sum(map(len, record))) for record in records if record), BLOCK_BYTES):
        wrong: dict[tuple[str, str], list[tuple[int, object]]] = {}
        nothing: list[str | None] = [None] * len(names)
        for row, record in enumerate(block):
            if len(record) != len(names):
                what = f"{counted(len(record), 'field')} instead of {len(names)}"
                wrong.setdefault((LINE, what), []).append((row, record))
                block[row] = nothing
        columns: dict[str, Any] = {
            name: [record[place] for record in block] for name, place in places.items()
        }
        yield Parsed(names, len(block), columns, faults_of(wrong))
    yield Parsed(names, 0, {name: [] for name in places})


@contextlib.contextmanager
def _long_fields() -> Iterator[None]:
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)
