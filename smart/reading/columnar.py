"""Parquet, and Arrow's own files: .feather, and .arrow as files or as streams."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from smart.reading.parsed import Parsed
from smart.reading.values import class_names

_BATCH_ROWS = 1 << 16


def parse_parquet(path: str, wanted: Sequence[str]) -> Iterator[Parsed]:
    """The row groups of a file, in batches."""
    with pq.ParquetFile(path) as file:
        columns = [name for name in wanted if name in file.schema_arrow.names]
        yield from _parsed(file.schema_arrow, file.iter_batches(_BATCH_ROWS, columns=columns), wanted)


def parse_arrow(path: str, wanted: Sequence[str]) -> Iterator[Parsed]:
    """The record batches of a file, mapped into memory."""
    with pa.memory_map(path) as source:
        try:
            file = pa.ipc.open_file(source)
            schema, batches = file.schema, map(file.get_batch, range(file.num_record_batches))
        except pa.ArrowInvalid:
            source.seek(0)
            stream = pa.ipc.open_stream(source)
            schema, batches = stream.schema, iter(stream)
        yield from _parsed(schema, batches, wanted)


def _parsed(schema: pa.Schema, batches: Iterable[pa.RecordBatch], wanted: Sequence[str]) -> Iterator[Parsed]:
    classes = _class_names(schema)
    names = [name for name in wanted if name in schema.names]
    yield Parsed(schema.names, 0, {})
    for batch in batches:
        batch.validate()
        columns = {name: pa.chunked_array([batch.column(batch.schema.names.index(name))]) for name in names}
        for name, column in columns.items():
            if name in classes and pa.types.is_integer(column.type):
                columns[name] = class_names(column, classes[name])
        yield Parsed(schema.names, batch.num_rows, {**columns})


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Names of the ClassLabel columns, which the library datasets keeps in the metadata of its files."""
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            name: feature["names"]
            for name, feature in features.items()
            if isinstance(feature, dict) and _are_names(feature.get("names"))
        }
    return {}


def _are_names(names: object) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)
