"""Values become Arrow columns of a kind, exactly, or a Fault of their row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from smart.reading.faults import Fault, fault_where, faults_of, one_each

TEXT = pa.large_string()
"""Text and nothing else: a number in its place is a fault of its row."""
TEXTS = pa.list_(TEXT)
"""Lists of texts."""
JSON: Literal["json"] = "json"
"""Any value, as JSON text, so that nothing of nested values is lost however much rows differ in shape. A struct of
Arrow has all fields in all rows: there, a null says that the row has no such field."""
Kind: TypeAlias = pa.DataType | Literal["json"]
"""What a column is read as. Other Arrow types, such as a list of structs, take a value that fits and refuse others."""

_SLICE = 5_000
_NAMES = {bool: "true or false", int: "number", float: "number", list: "list", dict: "object", str: "text"}


def type_of(kind: Kind) -> pa.DataType:
    """The Arrow type of a column of the kind."""
    return TEXT if isinstance(kind, str) else kind


def is_text(kind: pa.DataType) -> bool:
    """True for a column of text, and for one of nulls alone."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    return any(test(kind) for test in tests)


def from_values(name: str, values: Sequence[Any], kind: Kind) -> tuple[pa.Array, list[Fault]]:
    """Python values, as a parser gives them, as a column; null, with a Fault, where one is not of the kind."""
    found: dict[tuple[str, str], list[tuple[int, object]]] = {}
    if kind == JSON:
        values = [_dumped(value) for value in values]
    try:
        if not (pa.types.is_list(type_of(kind)) and any(isinstance(value, str) for value in values)):
            return pa.array(values, type_of(kind)), []
    except (pa.ArrowException, UnicodeError):
        pass  # of which value, the whole column does not say
    kept = list(values)
    for row, value in enumerate(kept):
        if why := _why_not(value, type_of(kind)):
            found.setdefault((name, why), []).append((row, value))
            kept[row] = None
    return pa.array(kept, type_of(kind)), faults_of(found)


def _dumped(value: object) -> str | float | None:
    """The value as JSON text; a value that has none stays as it is, so that it is refused."""
    try:
        return None if value is None else json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
    except (ValueError, RecursionError):
        return float("nan")


def _why_not(value: object, kind: pa.DataType) -> str | None:
    """Why a value cannot stand in a column of the type; None where it can."""
    if pa.types.is_list(kind) and isinstance(value, str):
        return "text instead of a list"  # of whose characters Arrow would make one
    try:
        pa.array([value], kind)
    except UnicodeError:
        return "invalid UTF-8" if _from_bytes(value) else "half a character (a lone surrogate)"
    except pa.ArrowException:
        return (
            f"{_NAMES.get(type(value), type(value).__name__)} instead of text"
            if kind == TEXT
            else "of the wrong type"
        )
    return None


def _from_bytes(value: object) -> bool:
    """True where all surrogates of a text are those by which Python keeps bytes that are no UTF-8."""
    halves = {character for character in str(value) if "\ud800" <= character <= "\udfff"}
    return all("\udc80" <= character <= "\udcff" for character in halves)


def from_arrow(name: str, column: pa.ChunkedArray, kind: Kind) -> tuple[pa.ChunkedArray, list[Fault]]:
    """A column of a Parquet or Arrow file as one of the kind; other types than the three above stay as they are."""
    if kind == TEXT:
        return as_text(name, column)
    if kind == TEXTS:
        return _as_texts(name, column)
    if kind == JSON:
        return _as_json(name, column)
    return column, []


def as_text(name: str, column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, list[Fault]]:
    """A column with null, and a Fault, in place of all that is not text: other types, and bytes that are no UTF-8."""
    if not is_text(column.type):
        everywhere = np.ones(len(column), bool)
        faults = fault_where(name, f"{column.type} instead of text", everywhere, column)
        return pa.chunked_array([pa.nulls(len(column), TEXT)]), list(faults)
    bad = [_invalid(chunk) for chunk in column.chunks]
    if not any(map(np.any, bad)):
        return column, []
    mask = np.concatenate(bad)
    chunks = [_plain(chunk, wrong) for chunk, wrong in zip(column.chunks, bad, strict=True)]
    rows = np.flatnonzero(mask)
    shown = {row: _bytes_at(column, row) for row in rows[:3].tolist()}
    return pa.chunked_array(chunks, TEXT), [Fault(name, "invalid UTF-8", rows, shown)]


def _as_texts(name: str, column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, list[Fault]]:
    kind = column.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not (is_list and is_text(kind.value_type)):
        wrong = column.is_valid().to_numpy()
        faults = fault_where(name, f"{kind} instead of a list of texts", wrong, column)
        return pa.chunked_array([pa.nulls(len(column), TEXTS)]), list(faults)
    texts = as_text(name, pc.list_flatten(column))[1]
    parents = pc.list_parent_indices(column).to_numpy()
    return column, [replace(fault, rows=np.unique(parents[fault.rows]), values={}) for fault in texts]


def _as_json(name: str, column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, list[Fault]]:
    """A column as JSON text, some rows at a time: as Python's objects they take many times their size."""
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.cast(column.type.storage_type)
    chunks, faults, start = [], list[Fault](), 0
    for chunk in column.chunks:
        for first in range(0, len(chunk), _SLICE):
            array, more = from_values(name, _python_values(chunk.slice(first, _SLICE)), JSON)
            chunks.append(array)
            faults += [fault.shifted(start + first) for fault in more]
        start += len(chunk)
    return pa.chunked_array(chunks, TEXT), one_each(faults)


def _python_values(chunk: pa.Array) -> list[Any]:
    try:
        values = chunk.to_pylist()
    except UnicodeDecodeError:
        values = [_python_value(value) for value in chunk]
    return [_without_nulls(value) for value in values] if pa.types.is_nested(chunk.type) else values


def _python_value(value: pa.Scalar) -> Any:
    """The value; in place of one with bytes that are no UTF-8, a text that is refused for that."""
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return "\udc80"


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _invalid(chunk: pa.Array) -> np.ndarray:
    """bool (n,): which texts are no UTF-8.

    Raises:
        ArrowInvalid: for an array whose offsets are damaged.
    """
    try:
        chunk.validate(full=True)
    except pa.ArrowInvalid:
        data = _bytes(chunk)
        data.validate(full=True)
        return np.array([not _decodes(value) for value in data.to_pylist()], bool)
    return np.zeros(len(chunk), bool)


def _bytes(chunk: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(chunk.type):
        values = _bytes(chunk.dictionary)
        values.validate(full=True)
        return pa.DictionaryArray.from_arrays(chunk.indices, values).dictionary_decode()
    return chunk.cast(
        {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}.get(chunk.type, pa.binary_view())
    )


def _bytes_at(column: pa.ChunkedArray, row: int) -> object:
    for chunk in column.chunks:
        if row < len(chunk):
            return _bytes(chunk)[row].as_py()
        row -= len(chunk)
    raise IndexError(row)


def _plain(chunk: pa.Array, wrong: np.ndarray) -> pa.Array:
    """Large text with null where `wrong` holds."""
    kept = _bytes(chunk).cast(pa.large_binary())
    return pc.if_else(pa.array(wrong), pa.scalar(None, pa.large_binary()), kept).cast(TEXT)


def _decodes(value: bytes | None) -> bool:
    try:
        bytes(value or b"").decode()
    except UnicodeDecodeError:
        return False
    return True


def class_names(column: pa.ChunkedArray, names: Sequence[str]) -> pa.ChunkedArray:
    """ClassLabel numbers become their names, without writing the names out row by row; null for unknown numbers."""
    known = pc.and_(pc.greater_equal(column, 0), pc.less(column, len(names)))
    codes = pc.if_else(known, column, None).cast(pa.int32())
    chunks = [pa.DictionaryArray.from_arrays(chunk, pa.array(names, pa.string())) for chunk in codes.chunks]
    return pa.chunked_array(chunks, pa.dictionary(pa.int32(), pa.string()))


def is_blank(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Which texts are empty or white space alone; null where the text is."""
    return pc.or_(pc.equal(pc.binary_length(column), 0), pc.utf8_is_space(column))
