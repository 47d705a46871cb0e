"""JSON: an object a line, objects over several lines, or an array of objects.

Arrow's own reader guesses types, dies of a first line `null`, and reads the first of two equal keys. pydantic's parser
is exact, and as quick as the quickest; the standard library's says of what it refuses why, or reads it.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from pydantic_core import from_json

from smart.config import UserError, counted
from smart.reading.faults import faults_of
from smart.reading.files import BOM, head_of, open_text, refuse_utf16
from smart.reading.parsed import BLOCK_BYTES, LINE, Parsed, blocks

_NO_OBJECT = "not a JSON object"
_SPACE = re.compile(r"[ \t\n\r]*")
_MOST_DIGITS = 4000  # the interpreter converts no more
_NEAR_THE_END = 16  # longer than any word of JSON that is cut off there


class _RefusedError(ValueError):
    """Valid JSON that cannot be read without loss."""


def parse_json(path: str, wanted: Sequence[str]) -> Iterator[Parsed]:
    """The rows of a file; blank lines are none.

    Raises:
        UserError: for UTF-16, and for an array, or objects over several lines, in which a value is broken.
    """
    layout = _layout(head_of(path))
    with open_text(path) as stream:
        lines = layout == "lines"
        records = _lines(stream) if lines else _values(path, stream, layout == "array")
        yield from _blocks(records, wanted)


def decode_json(path: Path, content: bytes) -> Any:
    """The one value that a small file holds.

    Raises:
        UserError: for UTF-16.
        ValueError: for what is no JSON, or cannot be read without loss. Bytes that are no UTF-8 become surrogates.
    """
    try:
        return _exact(refuse_utf16(path, content).removeprefix(BOM))
    except RecursionError as error:
        raise ValueError(_reason(error)) from error


def decode_text(text: str) -> Any:
    """The one value of a JSON text.

    Raises:
        ValueError: for what is no JSON, or cannot be read without loss.
        RecursionError: for what is nested too deeply.
    """
    return _DECODER.decode(text)


def _layout(head: bytes) -> str:
    """lines, array, or values: objects over several lines."""
    text = head.decode(errors="surrogateescape").lstrip(" \t\r\n")
    if re.match(r"\[[ \t\r\n]*([{\]]|$)", text):
        return "array"
    first, newline, _ = text.partition("\n")
    if not newline or _parses(first):
        return "lines"
    try:
        value, _ = _DECODER.raw_decode(text)
    except json.JSONDecodeError as error:
        return "values" if _is_cut(error, text) else "lines"
    except (ValueError, RecursionError):
        return "lines"
    return "values" if isinstance(value, dict) else "lines"


def _parses(line: str) -> bool:
    try:
        _DECODER.decode(line)
    except json.JSONDecodeError:
        return False
    except (ValueError, RecursionError):
        pass
    return True


def _lines(stream: BinaryIO) -> Iterator[tuple[Any, int]]:
    """Each line's value, or what is wrong with it, and its length in bytes."""
    for number, line in enumerate(stream):
        if number == 0:
            line = line.removeprefix(BOM)
        if line.strip():
            yield _value(line), len(line)


def _value(line: bytes) -> Any:
    try:
        value = from_json(line, cache_strings="keys")
    except ValueError:
        pass
    else:
        # Of equal keys it keeps the last; there are none where each colon has a key that is left.
        colons = line.count(b'":')
        if isinstance(value, dict) and (colons == len(value) or colons == _count_keys(value)):
            return value
    try:
        return _exact(line)
    except (ValueError, RecursionError) as error:
        return _Wrong(_reason(error), line)


def _count_keys(value: object) -> int:
    if isinstance(value, dict):
        return len(value) + sum(map(_count_keys, value.values()))
    return sum(map(_count_keys, value)) if isinstance(value, list) else 0


class _Wrong:
    """A line that cannot be read."""

    def __init__(self, what: str, line: bytes) -> None:
        self.what, self.line = what, line


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return str(error) if isinstance(error, _RefusedError) else _NO_OBJECT


def _exact(text: bytes) -> Any:
    # Bytes that are no UTF-8 become surrogates, so that the column in which they stand is known.
    return _DECODER.decode(text.decode(errors="surrogateescape"))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise _RefusedError("two keys of one name")
    return record


def _whole_number(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise _RefusedError(f"a number of more than {counted(_MOST_DIGITS, 'digit')}")
    return int(digits)


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_int=_whole_number)


def _values(path: str, stream: BinaryIO, in_array: bool) -> Iterator[tuple[Any, int]]:
    """Values one after the other, each held in memory alone, with its length."""
    cursor = _Cursor(path, stream)
    if in_array:
        cursor.take("[")
    closing = "]" if in_array else ""
    while cursor.next() != closing:
        before = cursor.passed
        yield cursor.value(), cursor.passed - before
        if in_array and cursor.next() != closing:
            cursor.take(",")
    if in_array:
        cursor.take("]")
        if cursor.next():
            cursor.refuse("something stands after the array")


class _Cursor:
    """A place in a stream of JSON, of which a block is in memory."""

    def __init__(self, path: str, stream: BinaryIO) -> None:
        self._path = path
        self._text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="\n")
        self._buffer, self._at, self._row = self._text.read(BLOCK_BYTES), 0, 0
        self.passed = 0
        """Characters behind the place."""

    def next(self) -> str:
        """The next character that is no white space, at which the place then is; "" at the end."""
        while True:
            self._move(_SPACE.match(self._buffer, self._at).end())  # type: ignore[union-attr]
            if self._at < len(self._buffer) or not self._more():
                return self._buffer[self._at : self._at + 1]

    def take(self, character: str) -> None:
        if self.next() != character:
            self.refuse(f"{character!r} is missing")
        self._move(self._at + 1)

    def value(self) -> Any:
        """The value at the place, and past it."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                where = self.passed + error.pos - self._at
                if not (_is_cut(error, self._buffer) and self._more()):
                    self.refuse(f"{error.msg}, character {where:,} of the file")
            except (ValueError, RecursionError) as error:
                self.refuse(_reason(error))
            else:
                self._move(end)
                self._row += 1
                return value

    def refuse(self, what: str) -> NoReturn:
        raise UserError(
            f"{self._path}: cannot be read: row {self._row} (counted from 0) is no JSON: {what}. Rows behind it can't "
            "be found; fix it, or write one object a line"
        )

    def _move(self, to: int) -> None:
        self.passed += to - self._at
        self._at = to

    def _more(self) -> bool:
        """Read on; as much again as is kept, so that a long value is parsed a few times at most."""
        rest = self._buffer[self._at :]
        more = self._text.read(max(BLOCK_BYTES, len(rest)))
        self._buffer, self._at = rest + more, 0
        return bool(more)


def _is_cut(error: json.JSONDecodeError, text: str) -> bool:
    """True where the text may have been cut off inside a value."""
    return error.msg.startswith("Unterminated string") or error.pos > len(text) - _NEAR_THE_END


def _blocks(records: Iterator[tuple[Any, int]], wanted: Sequence[str]) -> Iterator[Parsed]:
    names: dict[str, None] = {}
    for block in blocks(records, BLOCK_BYTES):
        wrong: dict[tuple[str, str], list[tuple[int, object]]] = {}
        for row, record in enumerate(block):
            if not isinstance(record, dict):
                what, shown = (
                    (record.what, record.line) if isinstance(record, _Wrong) else (_NO_OBJECT, record)
                )
                wrong.setdefault((LINE, what), []).append((row, shown))
                block[row] = {}
            elif not names.keys() >= record.keys():
                names |= dict.fromkeys(record)
        columns: dict[str, Any] = {name: [record.get(name) for record in block] for name in wanted}
        yield Parsed(list(names), len(block), columns, faults_of(wrong))
