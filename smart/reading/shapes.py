"""The shapes in which people keep instruction data, told by the names and types of columns: two texts, or turns.

| columns | rows are |
| --- | --- |
| inputs or prompt, targets or response | two texts; turns where one holds lists of messages |
| messages, conversations | turns: {role, content} or {from, value}, as JSON text too |
| prompt, completion | two texts, or turns where one holds lists of messages |
| instruction, input, output | two texts; an input that is not blank goes behind the instruction, after an empty line |

Further names: context for input, response for output. Beside turns, `tools`, `chat_template_kwargs`, and `system` or
`system_prompt` belong to the row. The first line of the table that fits is taken, so that files with two texts are read
as they always were.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from smart.config import UserError
from smart.conversation import to_json
from smart.reading.faults import Fault, faults_of, one_each
from smart.reading.reader import joined, scan
from smart.reading.turns import UnfitError, read_conversation
from smart.reading.values import JSON, TEXT, Kind, from_arrow, is_blank
from smart.runtime.content import unchanged
from smart.runtime.files import hash_file

CONVERSATION = "conversation"
"""Name of the column in which rows with turns go from room to room, as `to_json` writes them."""
_TEXTS = {"inputs": ("inputs", "prompt"), "targets": ("targets", "response")}
"""Under which names files carry the two texts; the first is preferred."""
_TURNS = ("messages", "conversations")
_ALPACA = (("instruction",), ("input", "context"), ("output", "response"))
_BESIDE = ("tools", "chat_template_kwargs", "system", "system_prompt")
_EITHER = ("prompt", "response", "completion")
"""Columns that hold text or lists of messages."""
SHAPED = ("inputs", "targets", *_EITHER, *_TURNS, "instruction", "input", "context", "output", *_BESIDE)
"""All columns that decide a row's texts or turns."""
_SLICE = 5_000
_HEAD = 100


@dataclass(frozen=True)
class Shape:
    """How the rows of a file lie in its columns."""

    kind: Literal["texts", "alpaca", "turns", "pairs"]
    columns: tuple[str, ...]
    """The columns, in the order in which they make a row: prompt before answer."""
    beside: tuple[str, ...] = ()
    """Further columns of rows with turns."""

    @property
    def kinds(self) -> dict[str, Kind]:
        """What to read, and as what."""
        text = self.kind in ("texts", "alpaca")
        return dict.fromkeys((*self.columns, *self.beside), TEXT if text else JSON)


@dataclass(frozen=True)
class Shaped:
    """Rows as two texts, or with turns."""

    columns: dict[str, pa.ChunkedArray]
    """inputs and targets, or CONVERSATION; null where there is nothing usable."""
    faults: list[Fault] = field(default_factory=list)
    cut: int = 0
    """Rows in which turns behind the last answer were left out."""


@dataclass(frozen=True)
class ShapedRows(Shaped):
    """The rows of a file."""

    more: dict[str, pa.ChunkedArray] = field(default_factory=dict)
    """The further columns that were asked for, as text."""
    names: Sequence[str] = ()
    """All columns of the file."""
    count: int = 0
    digest: str = ""
    """xxh3_128 of the file that was read."""


def find_shape(names: Collection[str], lists: Collection[str] = ()) -> Shape | None:
    """The shape that columns of these names have; None where they have none.

    Args:
        lists: those of the names that hold lists.
    """
    texts = [_first(known, names) for known in _TEXTS.values()]
    pair = ["prompt", "completion"]
    if not (all(texts) or any(name in names for name in _TURNS)):
        texts = [name for name in pair if name in names]
    beside = tuple(name for name in _BESIDE if name in names)
    if len(two := tuple(name for name in texts if name)) == 2:
        return Shape("pairs", two, beside) if {*two} & {*lists} & {*_EITHER} else Shape("texts", two)
    if turns := _first(_TURNS, names):
        return Shape("turns", (turns,), beside)
    alpaca = [_first(known, names) for known in _ALPACA]
    if alpaca[0] and alpaca[2]:
        return Shape("alpaca", tuple(name for name in alpaca if name))
    return None


def _first(known: Sequence[str], names: Collection[str]) -> str | None:
    return next((name for name in known if name in names), None)


def missing(names: Collection[str]) -> str:
    """What columns without a shape lack, for a message."""
    lacking = [" or ".join(known) for known in _TEXTS.values() if not _first(known, names)]
    return f"no column {' and '.join(lacking)}, nor messages, conversations, or instruction and output"


Batches: TypeAlias = Iterator[Mapping[str, pa.ChunkedArray]]
"""Columns of some rows after the other; the same columns in each."""


def in_memory(batches: Batches) -> dict[str, pa.ChunkedArray]:
    """All rows of some columns of text."""
    chunks: dict[str, list[pa.Array]] = {}
    for batch in batches:
        for name, column in batch.items():
            chunks.setdefault(name, []).extend(column.chunks)
    return {name: joined(found, TEXT) for name, found in chunks.items()}


def read_shaped(
    path: str,
    renamed: Mapping[str, str] | None = None,
    more: Sequence[str] = (),
    keep: Callable[[Batches], Mapping[str, pa.ChunkedArray]] = in_memory,
) -> ShapedRows:
    """The rows of a file in whatever shape it has.

    Args:
        renamed: one of SHAPED or `more` → what the file calls it; each must be there.
        more: further columns of text, which are read where the file has them.
        keep: puts the rows together. It is called again where the shape is known only after the last row.

    Raises:
        UserError: for a file that cannot be read, or has rows in no shape.
    """
    theirs = {name: name for name in (*SHAPED, *more)} | dict(renamed or {})
    names, lists = _look(path, theirs)
    shape = find_shape(_ours(theirs, names), lists)
    with unchanged(Path(path)):
        while True:
            rows = _Pass(path, shape, theirs, more)
            columns = keep(iter(rows))
            # A file of JSON may have columns that its first rows lack.
            if (found := find_shape(_ours(theirs, rows.names), lists)) == shape:
                break
            shape = found
        digest = hash_file(Path(path))
    if not rows.count:
        return ShapedRows({}, names=rows.names, digest=digest)
    if shape is None:
        raise NoShapeError(path, _ours(theirs, rows.names), rows.names)
    there = {
        name: column for name, column in columns.items() if name not in more or theirs[name] in rows.names
    }
    texts = {name: column for name, column in there.items() if name not in more}
    further = {name: column for name, column in there.items() if name in more}
    faults = [*one_each(rows.of_values), *one_each(rows.of_shape)]
    return ShapedRows(texts, faults, rows.cut, further, rows.names, rows.count, digest)


class _Pass:
    """One pass over a file: its rows in a shape, and what is known of the file when they have passed."""

    def __init__(
        self, path: str, shape: Shape | None, theirs: Mapping[str, str], more: Sequence[str]
    ) -> None:
        self._path, self._shape, self._theirs, self._more = path, shape, theirs, more
        self.names: Sequence[str] = ()
        self.count = self.cut = 0
        self.of_values: list[Fault] = []
        self.of_shape: list[Fault] = []

    def __iter__(self) -> Batches:
        kinds = dict.fromkeys(self._more, TEXT) | (self._shape.kinds if self._shape else {})
        for batch in scan(self._path, {self._theirs[name]: kind for name, kind in kinds.items()}):
            self.names = batch.names
            self.of_values += batch.faults
            columns = {
                name: batch.columns[self._theirs[name]]
                for name in kinds
                if self._theirs[name] in batch.columns
            }
            if batch.count:
                yield self._shaped(columns)
            self.count += batch.count

    def _shaped(self, columns: Mapping[str, pa.ChunkedArray]) -> Mapping[str, pa.ChunkedArray]:
        if self._shape is None:
            return columns
        shaped = as_shape(self._shape, columns)
        self.of_shape += [fault.shifted(self.count) for fault in shaped.faults]
        self.cut += shaped.cut
        return {**{name: columns[name] for name in self._more if name in columns}, **shaped.columns}


class NoShapeError(UserError):
    """The columns of a file or data set are in none of the shapes."""

    def __init__(self, where: str, known: Collection[str], names: Sequence[str]) -> None:
        super().__init__(f"{where}: {missing(known)}; it has: {', '.join(names) or 'none'}")
        self.known = known
        """Those that have one of our names."""
        self.names = names


def _ours(theirs: Mapping[str, str], names: Collection[str]) -> list[str]:
    return [ours for ours, name in theirs.items() if name in names]


def _look(path: str, theirs: Mapping[str, str]) -> tuple[Sequence[str], set[str]]:
    """The columns of a file, and which of those that hold text or lists hold lists, as far as its first rows tell."""
    wanted = {theirs[name]: name for name in _EITHER}
    names: Sequence[str] = ()
    for batch in scan(path, dict.fromkeys(wanted, JSON)):
        names = batch.names
        if batch.count:
            return names, {wanted[name] for name, column in batch.columns.items() if _holds_lists(column)}
    return names, set()


def _holds_lists(column: pa.ChunkedArray) -> bool:
    """Whether the first value of a column of JSON is a list."""
    values = (value for value in column.to_pylist() if value is not None)
    return next(values, "").startswith("[")


def shape_table(where: str, columns: Mapping[str, pa.ChunkedArray]) -> Shaped:
    """The rows of a table of Arrow in whatever shape it has.

    Args:
        where: how errors name it.
        columns: by our names.

    Raises:
        UserError: for rows in no shape.
    """
    heads = {name: columns[name].slice(0, _HEAD) for name in _EITHER if name in columns}
    lists = {name for name, head in heads.items() if _holds_lists(from_arrow(name, head, JSON)[0])}
    shape = find_shape(columns, lists)
    if shape is None:
        raise NoShapeError(where, columns, list(columns))
    read_, faults = {}, []
    for name, kind in shape.kinds.items():
        read_[name], more = from_arrow(name, columns[name], kind)
        faults += more
    shaped = as_shape(shape, read_)
    return Shaped(shaped.columns, [*faults, *shaped.faults], shaped.cut)


def as_shape(shape: Shape, columns: Mapping[str, pa.ChunkedArray]) -> Shaped:
    """Rows that were read as the shape's kinds."""
    if shape.kind == "texts":
        return Shaped(dict(zip(_TEXTS, (columns[name] for name in shape.columns), strict=True)))
    if shape.kind == "alpaca":
        return Shaped(dict(zip(_TEXTS, _alpaca([columns[name] for name in shape.columns]), strict=True)))
    return _turns(shape, columns)


def _alpaca(columns: Sequence[pa.ChunkedArray]) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    first, *between, last = columns
    if not between:
        return first, last
    instruction, more = (column.cast(pa.large_string()) for column in (first, between[0]))
    there = pc.fill_null(pc.invert(is_blank(more)), False)
    both = pc.binary_join_element_wise(instruction, more, pa.scalar("\n\n", pa.large_string()))
    return pc.if_else(there, both, instruction), last


def _turns(shape: Shape, columns: Mapping[str, pa.ChunkedArray]) -> Shaped:
    count = len(columns[shape.columns[0]])
    wrong: dict[tuple[str, str], list[tuple[int, object]]] = {}
    chunks, cut = [], 0
    for start in range(0, count, _SLICE):
        texts: list[str | None] = []
        part = [columns[name].slice(start, _SLICE).to_pylist() for name in (*shape.columns, *shape.beside)]
        for row, values in enumerate(zip(*part, strict=True), start):
            try:
                read_ = read_conversation(*_arguments(shape, values))
            except UnfitError as error:
                wrong.setdefault((shape.columns[0], error.what), []).append((row, values[0]))
                texts.append(None)
            else:
                texts.append(read_.text)
                cut += read_.cut
        chunks.append(pa.array(texts, pa.large_string()))
    column = pa.chunked_array(chunks, pa.large_string())
    return Shaped({CONVERSATION: column}, faults_of(wrong), cut)


def _arguments(shape: Shape, values: Sequence[str | None]) -> tuple[object, object, object, object]:
    """What `read_conversation` takes, from JSON texts."""
    found = dict(zip((*shape.columns, *shape.beside), map(_value, values), strict=True))
    messages = found[shape.columns[0]]
    if None in [found[name] for name in shape.columns]:
        raise UnfitError("null")
    if shape.kind == "pairs":
        prompt, answer = (found[name] for name in shape.columns)
        messages = [*_as_messages(prompt, "user"), *_as_messages(answer, "assistant")]
    system = found.get("system") or found.get("system_prompt")
    return messages, found.get("tools"), found.get("chat_template_kwargs"), system


def _value(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def _as_messages(value: object, role: str) -> list[object]:
    return value if isinstance(value, list) else [{"role": role, "content": value}]


def plain_conversations(prompts: pa.ChunkedArray, answers: pa.ChunkedArray) -> pa.ChunkedArray:
    """Rows of two texts as conversations of one turn; null where one of the texts is."""
    chunks = []
    for start in range(0, len(prompts), _SLICE):
        pairs = zip(*(column.slice(start, _SLICE).to_pylist() for column in (prompts, answers)), strict=True)
        chunks.append(
            pa.array(
                [None if None in pair else plain_conversation(*pair) for pair in pairs], pa.large_string()
            )
        )
    return pa.chunked_array(chunks, pa.large_string())


def plain_conversation(prompt: str, answer: str) -> str:
    """A prompt and its answer as JSON of a conversation."""
    turns = (("user", prompt), ("assistant", answer))
    return to_json({"messages": [{"role": role, "content": text} for role, text in turns]})
