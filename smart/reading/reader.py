"""One file of rows, of any format, as Arrow columns: whole, or batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa

from smart.config import UserError, counted
from smart.reading.columnar import parse_arrow, parse_parquet
from smart.reading.csv_rows import parse_csv
from smart.reading.faults import Fault, one_each
from smart.reading.files import suffix_of
from smart.reading.json_rows import parse_json
from smart.reading.parsed import Parsed
from smart.reading.values import Kind, from_arrow, from_values, type_of
from smart.runtime.content import unchanged
from smart.runtime.files import hash_file

Parser: TypeAlias = Callable[[str, Sequence[str]], Iterator[Parsed]]

_PARSERS: dict[str, Parser] = {
    ".parquet": parse_parquet,
    ".arrow": parse_arrow,
    ".feather": parse_arrow,
    ".jsonl": parse_json,
    ".ndjson": parse_json,
    ".json": parse_json,
    ".csv": parse_csv,
    ".tsv": parse_csv,
}


@dataclass(frozen=True)
class Batch:
    """Some rows of a file, one after the other."""

    names: Sequence[str]
    """All columns of the file, as far as is known up to here: JSON may have more in rows that come later."""
    count: int
    columns: dict[str, pa.ChunkedArray]
    """Of the columns asked for, as far as the file has them; null where there is nothing usable."""
    faults: list[Fault]
    """Rows are counted from the first of the file."""


@dataclass(frozen=True)
class Rows:
    """All rows of a file."""

    names: Sequence[str]
    """All columns of the file."""
    count: int
    columns: dict[str, pa.ChunkedArray]
    """Of the columns asked for, those that the file has; null where there is nothing usable."""
    faults: list[Fault]
    """Why there is nothing usable, where it is not for a null of the file's own: one for each column and reason."""
    digest: str
    """xxh3_128 of the file that was read."""


def scan(path: str, kinds: Mapping[str, Kind]) -> Iterator[Batch]:
    """The rows of a file in batches of some 16 MB of text, so that a file need not fit into memory.

    Args:
        kinds: the columns to read, those of them that are there, each as which kind.

    Raises:
        UserError: for a file that cannot be read, or has two columns of one name among those asked for.
    """
    try:
        start = 0
        for parsed in _PARSERS[_format(path)](path, list(kinds)):
            _refuse_twins(path, parsed.names, kinds)
            yield _batch(parsed, kinds, start)
            start += parsed.count
    except (pa.ArrowException, OSError, EOFError) as error:
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: cannot be read: {said}") from error


def read(path: str, kinds: Mapping[str, Kind]) -> Rows:
    """The rows of a file; what `scan` says holds here too."""
    columns: dict[str, list[pa.Array]] = {name: [] for name in kinds}
    faults: list[Fault] = []
    names: Sequence[str] = []
    count = 0
    with unchanged(Path(path)):
        for batch in scan(path, kinds):
            names, count = batch.names, count + batch.count
            faults += batch.faults
            for name, column in batch.columns.items():
                columns[name] += column.chunks
        digest = hash_file(Path(path))
    whole = {name: joined(columns[name], kinds[name]) for name in kinds if name in names}
    return Rows(names, count, whole, one_each(faults), digest)


def _format(path: str) -> str:
    suffix = "." + suffix_of(path).lstrip(".").partition(".")[0]
    if suffix not in _PARSERS:
        raise UserError(
            f"{path}: unknown file type; known: {', '.join(_PARSERS)}, and packed: .jsonl.gz, .csv.zst, …"
        )
    return suffix


def _refuse_twins(path: str, names: Sequence[str], kinds: Mapping[str, Kind]) -> None:
    for name in kinds:
        if names.count(name) > 1:
            raise UserError(
                f"{path}: has {counted(names.count(name), 'column')} called {name}; rename all but one"
            )


def _batch(parsed: Parsed, kinds: Mapping[str, Kind], start: int) -> Batch:
    columns, faults = {}, list(parsed.faults)
    for name, values in parsed.columns.items():
        if isinstance(values, list):
            array, more = from_values(name, values, kinds[name])
            columns[name] = pa.chunked_array([array])
        else:
            columns[name], more = from_arrow(name, values, kinds[name])
        faults += more
    return Batch(parsed.names, parsed.count, columns, [fault.shifted(start) for fault in faults])


def joined(chunks: list[pa.Array], kind: Kind) -> pa.ChunkedArray:
    """Chunks of one type; dictionaries, and texts of several Arrow types, become the kind's."""
    types = {chunk.type for chunk in chunks}
    if not types:
        return pa.chunked_array([], type_of(kind))
    if len(types) > 1:
        chunks = [chunk.cast(type_of(kind)) for chunk in chunks]
    return pa.chunked_array(chunks)
